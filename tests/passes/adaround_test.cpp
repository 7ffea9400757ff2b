#include "passes/recover/adaround.h"

#include <cmath>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "passes/recover/round_blocks.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::random_tensor;
using test::run;
using test::run_step;

// Inputs whose columns depend on each other, as the rows of [positions, k].
Eigen::MatrixXd correlated_inputs(int64_t k, uint32_t seed) {
  const Tensor mix = random_tensor({k, k}, seed), x = random_tensor({4 * k, k}, seed + 1);
  return Eigen::Map<const Eigen::MatrixXf>(x.read().view().as<const float>(), 4 * k, k)
             .cast<double>() *
         Eigen::Map<const Eigen::MatrixXf>(mix.read().view().as<const float>(), k, k)
             .cast<double>();
}

AdaRoundLayer layer_of(int64_t rows, int64_t k, uint32_t seed, int64_t block = 0) {
  AdaRoundLayer layer;
  const Tensor w = random_tensor({rows, k}, seed);
  layer.weights = Eigen::Map<const RowMatrixXf>(w.read().view().as<const float>(), rows, k);
  const Eigen::MatrixXd x = correlated_inputs(k, seed + 1);
  layer.hessian = x.transpose() * x;
  layer.range = {-8, 7};
  layer.block = block;
  const int64_t width = block > 0 ? block : k;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < k; c += width) {
      // Some weights of each block lie outside of what its integers reach; a scale may be negative.
      const float scale = 0.21f + 0.05f * static_cast<float>((r + c / width) % 3);
      layer.scales.push_back({block > 0 && c % (2 * width) == 0 ? -scale : scale, 0});
    }
  }
  return layer;
}

ScaleZeroPoint scale_at(const AdaRoundLayer& layer, int64_t r, int64_t c) {
  const int64_t k = layer.weights.cols(), width = layer.block > 0 ? layer.block : k;
  return layer.scales[static_cast<size_t>(r * ((k + width - 1) / width) + c / width)];
}

// The squared error of the outputs, from the inputs' Gram matrix, sum by sum.
double output_error(const AdaRoundLayer& layer, const RowMatrixXi& q, int64_t row) {
  const int64_t k = layer.weights.cols();
  double sum = 0;
  for (int64_t a = 0; a < k; ++a) {
    for (int64_t b = 0; b < k; ++b) {
      const auto lost = [&](int64_t c) {
        const ScaleZeroPoint s = scale_at(layer, row, c);
        return double{layer.weights(row, c)} - (q(row, c) - s.zero_point) * double{s.scale};
      };
      sum += lost(a) * layer.hessian(a, b) * lost(b);
    }
  }
  return sum;
}

RowMatrixXi nearest(const AdaRoundLayer& layer) {
  RowMatrixXi q(layer.weights.rows(), layer.weights.cols());
  for (int64_t r = 0; r < q.rows(); ++r) {
    for (int64_t c = 0; c < q.cols(); ++c) {
      const ScaleZeroPoint s = scale_at(layer, r, c);
      q(r, c) = quantize_value(layer.weights(r, c), s.scale, s.zero_point, layer.range);
    }
  }
  return q;
}

bool lies_inside(const AdaRoundLayer& layer, int64_t row) {
  for (int64_t c = 0; c < layer.weights.cols(); ++c) {
    const float at = layer.weights(row, c) / scale_at(layer, row, c).scale;
    if (at < static_cast<float>(layer.range.min) || at >= static_cast<float>(layer.range.max)) {
      return false;
    }
  }
  return true;
}

// The heights of one row by the definitions in double, one element after the other; the gradient is
// that of the loss as it is written down, by finite differences of it.
class SlowRow {
 public:
  SlowRow(const AdaRoundLayer& layer, int64_t row, const AdaRoundSettings& settings)
      : layer_(layer), row_(row), settings_(settings), k_(layer.weights.cols()) {
    double squares = 0;
    for (int64_t c = 0; c < k_; ++c) squares += std::pow(double{scale_at(layer, row, c).scale}, 2);
    unit_ = std::sqrt(squares / static_cast<double>(k_));
    mean_ = layer.hessian.trace() / static_cast<double>(k_);
    for (int64_t c = 0; c < k_; ++c) {
      const double at = position(c);
      const double sigmoid = std::clamp((at - below(c) + 0.1) / 1.2, 0.01, 0.99);
      v_.push_back(std::log(sigmoid / (1 - sigmoid)));
    }
  }

  std::vector<double> run() {
    std::vector<double> first(v_.size(), 0.0), second(v_.size(), 0.0);
    for (int t = 0; t < settings_.iterations; ++t) {
      std::vector<double> gradient;
      for (size_t i = 0; i < v_.size(); ++i) gradient.push_back(slope(i, t));
      for (size_t i = 0; i < v_.size(); ++i) {
        first[i] = 0.9 * first[i] + 0.1 * gradient[i];
        second[i] = 0.999 * second[i] + 0.001 * gradient[i] * gradient[i];
        const double m = first[i] / (1 - std::pow(0.9, t + 1));
        const double s = second[i] / (1 - std::pow(0.999, t + 1));
        v_[i] -= settings_.rate * m / (std::sqrt(s) + 1e-4);
      }
    }
    std::vector<double> out;
    for (size_t i = 0; i < v_.size(); ++i) out.push_back(height(i, v_[i]));
    return out;
  }

 private:
  double position(int64_t c) const {
    const ScaleZeroPoint q = scale_at(layer_, row_, c);
    return double{layer_.weights(row_, c)} / double{q.scale} + q.zero_point;
  }
  double below(int64_t c) const {
    return std::clamp<double>(std::floor(position(c)), layer_.range.min, layer_.range.max);
  }
  bool moves(int64_t c) const {
    return position(c) >= layer_.range.min && below(c) < layer_.range.max;
  }
  double height(size_t i, double v) const {
    if (!moves(static_cast<int64_t>(i))) return 0;
    return std::clamp(1.2 / (1 + std::exp(-v)) - 0.1, 0.0, 1.0);
  }

  double objective(size_t changed, double v, int t) const {
    std::vector<double> lost, h;
    for (size_t i = 0; i < v_.size(); ++i) {
      const auto c = static_cast<int64_t>(i);
      h.push_back(height(i, i == changed ? v : v_[i]));
      lost.push_back((position(c) - below(c) - h[i]) * double{scale_at(layer_, row_, c).scale} /
                     unit_);
    }
    double sum = 0;
    for (size_t a = 0; a < lost.size(); ++a) {
      for (size_t b = 0; b < lost.size(); ++b) {
        const auto r = static_cast<int64_t>(a), c = static_cast<int64_t>(b);
        sum += lost[a] * layer_.hessian(r, c) / mean_ * lost[b];
      }
    }
    const double warm = settings_.warm_up * settings_.iterations;
    if (t < warm) return sum;
    const double done = (t - warm) / (settings_.iterations - warm);
    const double beta = settings_.last_beta + (settings_.first_beta - settings_.last_beta) *
                                                  (1 + std::cos(done * M_PI)) / 2;
    for (const double x : h) sum += settings_.penalty * (1 - std::pow(std::fabs(2 * x - 1), beta));
    return sum;
  }

  double slope(size_t i, int t) const {
    const double h = height(i, v_[i]);
    if (h <= 0 || h >= 1) return 0;
    constexpr double kStep = 1e-5;
    return (objective(i, v_[i] + kStep, t) - objective(i, v_[i] - kStep, t)) / (2 * kStep);
  }

  const AdaRoundLayer& layer_;
  int64_t row_;
  AdaRoundSettings settings_;
  int64_t k_;
  double unit_ = 1, mean_ = 1;
  std::vector<double> v_;
};

}  // namespace

TEST_CASE("adaround: every step is that of the definitions in double") {
  for (const int64_t block : {int64_t{0}, int64_t{8}}) {
    const AdaRoundLayer layer = layer_of(3, 21, 1, block);
    for (const int iterations : {1, 5, 40}) {
      AdaRoundSettings settings;
      settings.iterations = iterations;
      CAPTURE(block, iterations);
      const RowMatrixXf h = adaround_heights(layer, settings);
      int undecided = 0;
      for (int64_t r = 0; r < 3; ++r) {
        // A row inside of the range starts where nothing is lost: what it feels at first are the
        // errors of sums in float32, and what Adam makes of them grows. Such rows are compared
        // after one step; where weights lie beyond the range, the loss pulls from the start.
        if (iterations > 1 && lies_inside(layer, r)) continue;
        const std::vector<double> slow = SlowRow(layer, r, settings).run();
        for (int64_t c = 0; c < 21; ++c) {
          // Sums in float32 are off by 1e-6 of their terms (up to 10), over what Adam divides by
          // (1e-4) and times the rate (0.05): 5e-3 of v where a gradient is next to nothing, a
          // quarter of that in h.
          const double expected = slow[static_cast<size_t>(c)];
          CHECK(double{h(r, c)} == Approx(expected).margin(2e-3));
          undecided += expected > 0 && expected < 1;
        }
      }
      CHECK(undecided > 5);
    }
  }
}

TEST_CASE("adaround: the settings decide all, and each weight goes up or down") {
  const AdaRoundLayer layer = layer_of(40, 48, 5);
  const RowMatrixXf h = adaround_heights(layer);
  int undecided = 0;
  for (Eigen::Index i = 0; i < h.size(); ++i)
    undecided += h.data()[i] > 0.05f && h.data()[i] < 0.95f;
  CHECK(undecided < h.size() / 100);
  const RowMatrixXi q = adaround(layer), plain = nearest(layer);
  double learned = 0, rounded = 0;
  for (int64_t r = 0; r < 40; ++r) {
    const double own = output_error(layer, q, r), other = output_error(layer, plain, r);
    CHECK(own <= other);
    learned += own, rounded += other;
    for (int64_t c = 0; c < 48; ++c) {
      const float at = std::clamp(layer.weights(r, c) / scale_at(layer, r, c).scale, -8.0f, 7.0f);
      CHECK(std::fabs(static_cast<float>(q(r, c)) - at) < 1.0f);
    }
  }
  CAPTURE(learned, rounded);
  CHECK(learned < rounded / 2);
}

TEST_CASE("adaround: among all roundings of a few weights it finds one of the best") {
  // 2^10 ways to round: with 10 weights all of them can be tried.
  double learned = 0, best = 0, plain = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const AdaRoundLayer layer = layer_of(1, 10, 100 + 7 * seed);
    RowMatrixXi q = nearest(layer);
    plain += output_error(layer, q, 0);
    double least = HUGE_VAL;
    for (int up = 0; up < 1 << 10; ++up) {
      for (int64_t c = 0; c < 10; ++c) {
        const float at = layer.weights(0, c) / scale_at(layer, 0, c).scale;
        q(0, c) = std::clamp(static_cast<int32_t>(std::floor(at)) + (up >> c & 1), -8, 7);
      }
      least = std::min(least, output_error(layer, q, 0));
    }
    const double own = output_error(layer, adaround(layer), 0);
    CHECK(own >= least * (1 - 1e-9));
    learned += own, best += least;
  }
  CAPTURE(learned, best, plain);
  CHECK(learned - best < 0.25 * (plain - best));
}

TEST_CASE("adaround: never worse than to nearest, whatever the settings, also on broken sums") {
  AdaRoundLayer layer = layer_of(6, 20, 9);
  const RowMatrixXi plain = nearest(layer);
  for (const double penalty : {0.0, 1e-3, 1e4}) {
    for (const double rate : {1e-3, 10.0}) {
      AdaRoundSettings settings;
      settings.iterations = 20, settings.penalty = penalty, settings.rate = rate;
      const RowMatrixXi q = adaround(layer, settings);
      for (int64_t r = 0; r < 6; ++r) {
        CHECK(output_error(layer, q, r) <= output_error(layer, plain, r));
      }
    }
  }
  layer.hessian.row(4).setZero();
  layer.hessian.col(4).setZero();
  const RowMatrixXi q = adaround(layer);
  for (int64_t r = 0; r < 6; ++r) CHECK(output_error(layer, q, r) <= output_error(layer, plain, r));
  layer.hessian.setZero();
  CHECK(adaround(layer) == plain);
  layer.hessian.setConstant(std::nan(""));
  CHECK(adaround(layer) == plain);
}

TEST_CASE("adaround: the number of threads changes nothing") {
  const AdaRoundLayer layer = layer_of(100, 70, 3);
  const int threads = thread_count();
  set_thread_count(1);
  const RowMatrixXf one = adaround_heights(layer);
  set_thread_count(3);
  const RowMatrixXf three = adaround_heights(layer);
  set_thread_count(threads);
  CHECK(one == three);
}

TEST_CASE("adaround in blocks: products by integers lose less than by rounding on their scales") {
  const AdaRoundLayer layer = layer_of(24, 60, 11);
  Tensor rows = Tensor::allocate(DType::float32, {24, 60});
  std::copy_n(layer.weights.data(), layer.weights.size(), rows.mutable_as<float>().begin());
  for (const DType dtype : {DType::int4, DType::uint4, DType::int8}) {
    const BlockFormat format{dtype, info(dtype).bits, 32};
    const auto error_of = [&](const RoundedBlocks& rounded) {
      const std::vector<int64_t> q = rounded.quantized.to_ints();
      Eigen::MatrixXd lost = layer.weights.cast<double>();
      for (int64_t r = 0; r < 24; ++r) {
        for (int64_t c = 0; c < 60; ++c) {
          const auto at = static_cast<size_t>(r * 2 + c / 32);
          lost(r, c) -= static_cast<double>(q[static_cast<size_t>(r * 64 + c)] -
                                            rounded.params.zero_points[at]) *
                        double{rounded.params.scales[at]};
        }
      }
      return (lost * layer.hessian * lost.transpose()).trace();
    };
    const double learned = error_of(adaround_blocks(rows, layer.hessian, format));
    const double clipped = error_of(clipped_blocks(rows, layer.hessian.diagonal(), format));
    CAPTURE(info(dtype).name, learned, clipped);
    CHECK(learned < clipped / 1.5);
  }
}

}  // namespace compress
