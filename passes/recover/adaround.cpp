#include "passes/recover/adaround.h"

#include <algorithm>
#include <cmath>

#include "compress/core/parallel.h"
#include "compress/kernels/gemm_f32/gemm_f32.h"

namespace compress {
namespace {

using Array = Eigen::Array<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Section 3.1 of the paper: the sigmoid is stretched beyond 0 and 1, and cut off there.
constexpr float kLow = -0.1f, kHigh = 1.1f;

// A layer as its rows are solved: positions and errors count in steps.
struct Problem {
  Array below;   // integers at or below the weights
  Array part;    // of a step that the weight lies above them
  Array length;  // of a step, over the root mean square of the row's
  Array moves;   // 1; 0 where the range leaves one integer alone
};

const ScaleZeroPoint& scale_at(const AdaRoundLayer& layer, int64_t r, int64_t c) {
  const int64_t k = layer.weights.cols();
  const int64_t block = layer.block > 0 ? layer.block : k;
  return layer.scales[static_cast<size_t>(r * ((k + block - 1) / block) + c / block)];
}

Problem problem_of(const AdaRoundLayer& layer, int64_t begin, int64_t end) {
  const int64_t rows = end - begin, k = layer.weights.cols();
  Problem out{Array(rows, k), Array(rows, k), Array(rows, k), Array(rows, k)};
  const auto low = static_cast<float>(layer.range.min), high = static_cast<float>(layer.range.max);
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t c = 0; c < k; ++c) {
      const ScaleZeroPoint q = scale_at(layer, begin + r, c);
      squares += double{q.scale} * double{q.scale};
    }
    const double mean = std::sqrt(squares / static_cast<double>(k));
    for (int64_t c = 0; c < k; ++c) {
      const ScaleZeroPoint q = scale_at(layer, begin + r, c);
      const float at = layer.weights(begin + r, c) / q.scale + static_cast<float>(q.zero_point);
      const float floor = std::clamp(std::floor(at), low, high);
      const bool moves = at >= low && floor < high;
      out.below(r, c) = floor;
      // Of what lies outside the range, the error at its end counts for the others.
      out.part(r, c) = std::clamp(at - floor, -1e6f, 1e6f);
      out.length(r, c) = static_cast<float>(double{q.scale} / mean);
      out.moves(r, c) = moves ? 1.0f : 0.0f;
    }
  }
  return out;
}

float inverse_height(float h) {
  const float s = std::clamp((h - kLow) / (kHigh - kLow), 0.01f, 0.99f);
  return std::log(s / (1 - s));
}

// |2 h - 1|^(beta - 1), with the sign of 2 h - 1: what the penalty pulls by.
Array pull_of(const Array& h, float beta) {
  const Array from_middle = 2 * h - 1;
  constexpr float kTiny = 1e-12f;  // log(0) is none
  const Array size = ((from_middle.abs() + kTiny).log() * (beta - 1)).exp();
  return (from_middle < 0).select(-size, size);
}

class Solver {
 public:
  Solver(const Problem& problem, const kernels::PackedGemmF32& hessian,
         const AdaRoundSettings& settings)
      : problem_(problem), hessian_(hessian), settings_(settings) {}

  Array run() {
    const Eigen::Index rows = problem_.part.rows(), k = problem_.part.cols();
    v_ = problem_.part.unaryExpr([](float h) { return inverse_height(h); });
    Array first = Array::Zero(rows, k), second = Array::Zero(rows, k);
    constexpr double kFirst = 0.9, kSecond = 0.999;
    // h starts where nothing is lost: what is smaller than this is rounding of sums.
    constexpr float kLeast = 1e-4f;
    double first_power = 1, second_power = 1;
    for (int t = 0; t < settings_.iterations; ++t) {
      const Array gradient = gradient_at(t);
      first_power *= kFirst;
      second_power *= kSecond;
      first = static_cast<float>(kFirst) * first + static_cast<float>(1 - kFirst) * gradient;
      second = static_cast<float>(kSecond) * second +
               static_cast<float>(1 - kSecond) * gradient.square();
      const auto step = static_cast<float>(settings_.rate / (1 - first_power));
      const auto unbias = static_cast<float>(1 / std::sqrt(1 - second_power));
      v_ -= step * first / (second.sqrt() * unbias + kLeast);
    }
    return heights();
  }

 private:
  Array heights() const {
    const Array sigmoid = (1 + (-v_).exp()).inverse();
    const Array h = ((kHigh - kLow) * sigmoid + kLow).min(1.0f).max(0.0f);
    return problem_.moves * h;
  }

  // 0 while warming up.
  float beta_at(int t) const {
    const double warm = settings_.warm_up * settings_.iterations;
    if (t < warm) return 0;
    const double done = (t - warm) / std::max(1.0, settings_.iterations - warm);
    const double span = settings_.first_beta - settings_.last_beta;
    return static_cast<float>(settings_.last_beta + span * 0.5 * (1 + std::cos(done * M_PI)));
  }

  Array gradient_at(int t) {
    const Array sigmoid = (1 + (-v_).exp()).inverse();
    const Array stretched = (kHigh - kLow) * sigmoid + kLow;
    const Array h = problem_.moves * stretched.min(1.0f).max(0.0f);
    const Array lost = (problem_.part - h) * problem_.length;
    Array product(lost.rows(), lost.cols());
    kernels::GemmF32Args args;
    args.a = lost.data();
    args.m = lost.rows();
    args.k = args.n = args.lda = args.ldc = lost.cols();
    args.panels = hessian_.panels.get();
    args.out = product.data();
    kernels::gemm_f32(args);
    Array gradient = -2 * product * problem_.length;
    if (const float beta = beta_at(t); beta > 0) {
      gradient -= static_cast<float>(2 * settings_.penalty) * beta * pull_of(h, beta);
    }
    const Array slope = (kHigh - kLow) * sigmoid * (1 - sigmoid) * problem_.moves;
    const Array inside = (stretched > 0 && stretched < 1).cast<float>();
    return gradient * slope * inside;
  }

  const Problem& problem_;
  const kernels::PackedGemmF32& hessian_;
  const AdaRoundSettings& settings_;
  Array v_;
};

// What rounding loses of the outputs of one row.
double loss(const AdaRoundLayer& layer, int64_t row, const RowMatrixXi& integers) {
  Eigen::RowVectorXd lost(layer.weights.cols());
  for (int64_t c = 0; c < lost.cols(); ++c) {
    const ScaleZeroPoint q = scale_at(layer, row, c);
    lost(c) = double{layer.weights(row, c)} -
              double{dequantize_value(integers(row, c), q.scale, q.zero_point)};
  }
  return lost * layer.hessian * lost.transpose();
}

// Many rows share the packed Hessian while it is in the cache; the number is fixed, so that sums
// are cut in the same places whatever the number of threads.
constexpr int64_t kRows = 32;

}  // namespace

RowMatrixXf adaround_heights(const AdaRoundLayer& layer, const AdaRoundSettings& settings) {
  const int64_t rows = layer.weights.rows(), k = layer.weights.cols();
  const double mean = layer.hessian.diagonal().mean();
  const Eigen::MatrixXf hessian = (layer.hessian / mean).cast<float>();
  const kernels::PackedGemmF32 packed = kernels::pack_gemm_f32({hessian.data(), k, k, 1, k});
  RowMatrixXf out(rows, k);
  parallel_for(0, (rows + kRows - 1) / kRows, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = chunk * kRows, end = std::min(rows, begin + kRows);
      const Problem problem = problem_of(layer, begin, end);
      out.middleRows(begin, end - begin) = Solver(problem, packed, settings).run().matrix();
    }
  });
  return out;
}

RowMatrixXi adaround(const AdaRoundLayer& layer, const AdaRoundSettings& settings) {
  const int64_t rows = layer.weights.rows(), k = layer.weights.cols();
  RowMatrixXi nearest(rows, k);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < k; ++c) {
      const ScaleZeroPoint q = scale_at(layer, r, c);
      nearest(r, c) = quantize_value(layer.weights(r, c), q.scale, q.zero_point, layer.range);
    }
  }
  const double mean = layer.hessian.diagonal().mean();
  if (!layer.hessian.allFinite() || !layer.weights.allFinite() || !(mean > 0)) return nearest;
  const RowMatrixXf h = adaround_heights(layer, settings);
  RowMatrixXi out(rows, k);
  parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Problem problem = problem_of(layer, r, r + 1);
      for (int64_t c = 0; c < k; ++c) {
        out(r, c) = static_cast<int32_t>(problem.below(0, c)) + (h(r, c) >= 0.5f ? 1 : 0);
      }
      if (!(loss(layer, r, out) < loss(layer, r, nearest))) out.row(r) = nearest.row(r);
    }
  });
  return out;
}

bool is_adaround_size(int64_t rows, int64_t k) {
  constexpr double kMostWork = 1e10;  // multiplications of one iteration
  return static_cast<double>(rows) * static_cast<double>(k) * static_cast<double>(k) <= kMostWork;
}

}  // namespace compress
