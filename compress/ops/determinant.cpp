// Det: determinants of square matrices, by elimination with row pivots in double.
#include <algorithm>
#include <cmath>

#include "compress/core/parallel.h"
#include "compress/ops/special_families.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

void infer_det(NodeContext& c) {
  require_inputs(c, 1);
  if (!c.in(0).has_shape) return c.set_output(0, c.dtype(0));
  const Shape& x = c.shape(0);
  const int rank = x.rank();
  if (rank < 2 || (x[rank - 1] >= 0 && x[rank - 2] >= 0 && x[rank - 1] != x[rank - 2])) {
    c.invalid(fmt::format("the input has shape {}", x.to_string()));
  }
  c.set_output(0, c.dtype(0), Shape(x.dims().first(static_cast<size_t>(rank) - 2)));
}

// Destroys the matrix of n rows.
double determinant(std::vector<double>& matrix, size_t n) {
  const auto at = [&](size_t row, size_t column) -> double& { return matrix[row * n + column]; };
  double product = 1;
  for (size_t k = 0; k < n; ++k) {
    size_t pivot = k;
    for (size_t row = k + 1; row < n; ++row) {
      if (std::fabs(at(row, k)) > std::fabs(at(pivot, k))) pivot = row;
    }
    if (at(pivot, k) == 0) return 0;
    if (pivot != k) {
      for (size_t column = k; column < n; ++column) std::swap(at(pivot, column), at(k, column));
      product = -product;
    }
    product *= at(k, k);
    for (size_t row = k + 1; row < n; ++row) {
      const double factor = at(row, k) / at(k, k);
      for (size_t column = k + 1; column < n; ++column) at(row, column) -= factor * at(k, column);
    }
  }
  return product;
}

Kernel prepare_det(const NodeContext& c) {
  const Shape& x = c.shape(0);
  const int64_t n = x[x.rank() - 1], count = x.count(0, x.rank() - 2);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"", [=](const KernelArgs& args) {
                    const T* in = args.inputs[0].as<const T>();
                    T* out = args.outputs[0].as<T>();
                    parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
                      std::vector<double> matrix;
                      for (int64_t i = begin; i < end; ++i) {
                        matrix.assign(in + i * n * n, in + (i + 1) * n * n);
                        out[i] = static_cast<T>(determinant(matrix, static_cast<size_t>(n)));
                      }
                    });
                  }};
  });
}

constexpr OpDef kRows[] = {
    {"", "Det", 11, infer_det, prepare_det},
};

}  // namespace

const std::span<const OpDef> kDetOps = kRows;

}  // namespace compress
