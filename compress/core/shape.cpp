#include "compress/core/shape.h"

#include <algorithm>
#include <cassert>

#include "compress/error.h"

namespace compress {

Shape::Shape(std::span<const int64_t> dims) {
  for (const int64_t dim : dims) push_back(dim);
}

void Shape::push_back(int64_t dim) {
  if (rank_ == kMaxRank) {
    fail(ErrorCode::unsupported, "a tensor of more than {} dimensions", kMaxRank);
  }
  dims_[static_cast<size_t>(rank_++)] = dim;
}

bool Shape::operator==(const Shape& other) const {
  return std::equal(begin(), end(), other.begin(), other.end());
}

bool Shape::is_concrete() const {
  return std::all_of(begin(), end(), [](int64_t d) { return d >= 0; });
}

int64_t Shape::count() const { return count(0, rank_); }

int64_t Shape::count(int first, int last) const {
  int64_t product = 1;
  for (int i = first; i < last; ++i) {
    assert((*this)[i] >= 0);
    if (__builtin_mul_overflow(product, (*this)[i], &product)) {
      fail(ErrorCode::invalid_model, "the shape {} has too many elements", to_string());
    }
  }
  return product;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) {
    if (i > 0) text += ',';
    text += (*this)[i] < 0 ? "?" : std::to_string((*this)[i]);
  }
  return text + "]";
}

Shape strides_of(const Shape& shape) {
  Shape strides = shape;
  int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

int normalize_axis(int64_t axis, int rank) {
  if (axis < -rank || axis >= rank) {
    fail(ErrorCode::invalid_model, "axis {} is outside a tensor of {} dimensions", axis, rank);
  }
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

Shape broadcast(const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape out;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank());
    const int ib = i - (rank - b.rank());
    const int64_t da = ia < 0 ? 1 : a[ia];
    const int64_t db = ib < 0 ? 1 : b[ib];
    if (da == db || db == 1) {
      out.push_back(da);
    } else if (da == 1) {
      out.push_back(db);
    } else if (da >= 0 && db >= 0) {
      fail(ErrorCode::invalid_model, "shapes {} and {} do not broadcast", a.to_string(),
           b.to_string());
    } else {
      out.push_back(da >= 0 ? da : db >= 0 ? db : kUnknownDim);
    }
  }
  return out;
}

}  // namespace compress
