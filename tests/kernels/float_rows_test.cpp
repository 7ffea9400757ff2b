// Float kernels against plain loops in double.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/kernels/float_rows/conv_f32_ref.h"
#include "compress/kernels/float_rows/elementwise_f32.h"
#include "compress/kernels/float_rows/rows_f32.h"
#include "compress/kernels/gemm_f32/gemm_f32.h"
#include "compress/kernels/transpose/transpose.h"
#include "kernel_test_util.h"

namespace compress::kernels {
namespace {

using testing::Random;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The distance of `got` from `want` in units of want's last place.
double ulps(float got, double want) {
  const auto nearest = static_cast<float>(want);
  const double unit = std::max(static_cast<double>(std::nextafter(std::fabs(nearest), kInfinity)) -
                                   static_cast<double>(std::fabs(nearest)),
                               static_cast<double>(std::numeric_limits<float>::min()) * 0x1p-23);
  return std::fabs(static_cast<double>(got) - want) / unit;
}

std::vector<float> sweep(float lo, float hi) {
  std::vector<float> x;
  constexpr int kPoints = 200003;
  for (int i = 0; i <= kPoints; ++i) {
    x.push_back(lo + (hi - lo) * static_cast<float>(i) / static_cast<float>(kPoints));
  }
  return x;
}

TEST_CASE("approximations stay within a few units of the last place") {
  struct Row {
    ElementOp op;
    double (*exact)(double);
    float lo, hi;
    double most;
  };
  // A rounded polynomial: 1. exp adds its reduction. Quotients and 1 - exp() add a rounding each.
  const Row rows[] = {
      {ElementOp::exponential, [](double x) { return std::exp(x); }, -87.0f, 88.7f, 2},
      {ElementOp::error_function, [](double x) { return std::erf(x); }, -5, 5, 3},
      {ElementOp::tangent_h, [](double x) { return std::tanh(x); }, -12, 12, 3},
      {ElementOp::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -80, 40, 4},
  };
  for (const ElementwiseF32Kernel* kernel : elementwise_f32_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    for (const Row& row : rows) {
      const std::vector<float> x = sweep(row.lo, row.hi);
      std::vector<float> y(x.size());
      kernel->apply(row.op, 0, 0, x.data(), nullptr, y.data(), static_cast<int64_t>(x.size()));
      double worst = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        worst = std::max(worst, ulps(y[i], row.exact(static_cast<double>(x[i]))));
      }
      CAPTURE(kernel->name, static_cast<int>(row.op), worst);
      CHECK(worst <= row.most);
    }
  }
}

TEST_CASE("extremes: infinities, NaN, overflow") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const ElementwiseF32Kernel* kernel : elementwise_f32_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    const auto at = [&](ElementOp op, float x) {
      float y = 0;
      kernel->apply(op, -1, 1, &x, nullptr, &y, 1);
      return y;
    };
    CAPTURE(kernel->name);
    CHECK(at(ElementOp::exponential, 89) == kInfinity);
    CHECK(at(ElementOp::exponential, -kInfinity) == 0);
    CHECK(at(ElementOp::exponential, 0) == 1);
    CHECK(at(ElementOp::error_function, 100) == 1);
    CHECK(at(ElementOp::error_function, -kInfinity) == -1);
    CHECK(at(ElementOp::tangent_h, kInfinity) == 1);
    CHECK(at(ElementOp::tangent_h, -200) == -1);
    CHECK(at(ElementOp::sigmoid, -kInfinity) == 0);
    CHECK(at(ElementOp::sigmoid, kInfinity) == 1);
    CHECK(at(ElementOp::clip, 7) == 1);
    for (const ElementOp op : {ElementOp::exponential, ElementOp::error_function,
                               ElementOp::tangent_h, ElementOp::sigmoid, ElementOp::clip}) {
      CHECK(std::isnan(at(op, nan)));
    }
    const float one = 1;
    float y = 0;
    for (const ElementOp op : {ElementOp::maximum, ElementOp::minimum}) {
      kernel->apply(op, 0, 0, &nan, &one, &y, 1);
      CHECK(std::isnan(y));
      kernel->apply(op, 0, 0, &one, &nan, &y, 1);
      CHECK(std::isnan(y));
    }
  }
}

TEST_CASE("every element operation agrees with the plain kernel") {
  Random random(3);
  for (int op = 0; op <= static_cast<int>(ElementOp::minimum); ++op) {
    const auto of = static_cast<ElementOp>(op);
    for (const int64_t count : {1, 7, 8, 29}) {
      // Positive, for the square root; away from 0, for quotients.
      const bool positive = of == ElementOp::square_root;
      const auto a = random.floats(count, positive ? 0.1f : -4.0f, 4.0f);
      const auto b = random.floats(count, 0.5f, 2.0f);
      std::vector<float> want(a.size()), got(a.size(), -99);
      const float* second = is_binary(of) ? b.data() : nullptr;
      kElementwiseF32Ref.apply(of, 0.3f, 0.7f, a.data(), second, want.data(), count);
      if (!runs_here(Isa::avx2)) continue;
      kElementwiseF32Avx2.apply(of, 0.3f, 0.7f, a.data(), second, got.data(), count);
      for (size_t i = 0; i < a.size(); ++i) {
        CAPTURE(op, count, i);
        // Gelu cancels for negative x: the bound is in units of x.
        CHECK(std::fabs(got[i] - want[i]) <=
              4e-7f * std::max({1.0f, std::fabs(want[i]), std::fabs(a[i])}));
      }
    }
  }
}

TEST_CASE("programs read whole, single and repeated inputs") {
  // (a + row) * one - column, over [3, 5, 400].
  const std::vector<int64_t> out = {3, 5, 400};
  const std::vector<std::vector<int64_t>> shapes = {{3, 5, 400}, {400}, {1}, {5, 1}};
  ElementProgram program;
  program.inputs = 4;
  program.steps = {{ElementOp::add, 0, 1, 4, 0, 0},
                   {ElementOp::multiply, 4, 2, 4, 0, 0},
                   {ElementOp::subtract, 4, 3, 5, 0, 0}};
  Random random(5);
  const auto a = random.floats(6000, -1, 1), row = random.floats(400, -1, 1),
             one = random.floats(1, -1, 1), column = random.floats(5, -1, 1);
  const ElementLayout layout = element_layout(out, shapes);
  CHECK(layout.inputs[0].kind == ElementLayout::Kind::whole);
  CHECK(layout.inputs[1].kind == ElementLayout::Kind::spread);
  CHECK(layout.inputs[2].kind == ElementLayout::Kind::single);
  const std::vector<const float*> inputs = {a.data(), row.data(), one.data(), column.data()};
  for (const ElementwiseF32Kernel* kernel : elementwise_f32_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    std::vector<float> y(6000);
    run_elements(program, layout, inputs, y.data(), *kernel);
    for (size_t i = 0; i < y.size(); ++i) {
      const float want = (a[i] + row[i % 400]) * one[0] - column[i / 400 % 5];
      REQUIRE(std::fabs(y[i] - want) <= 3e-7f);
    }
  }
}

TEST_CASE("programs read lines that repeat, over blocks and threads") {
  const int before = thread_count();
  Random random(6);
  for (const int64_t width : {1, 7, 88, 512, 513}) {
    const int64_t lines = 200000 / width + 3, count = lines * width;
    ElementProgram program;
    program.inputs = 3;
    program.steps = {{ElementOp::multiply, 1, 0, 3, 0, 0}, {ElementOp::add, 3, 2, 4, 0, 0}};
    const auto a = random.floats(count, -1, 1), gate = random.floats(width, -1, 1),
               shift = random.floats(width, -1, 1);
    const std::vector<int64_t> out = {lines, width};
    const std::vector<std::vector<int64_t>> shapes = {{lines, width}, {width}, {1, width}};
    const ElementLayout layout = element_layout(out, shapes);
    const std::vector<const float*> inputs = {a.data(), gate.data(), shift.data()};
    for (const int threads : {1, 3}) {
      set_thread_count(threads);
      std::vector<float> y(static_cast<size_t>(count));
      run_elements(program, layout, inputs, y.data());
      for (size_t i = 0; i < y.size(); ++i) {
        const size_t at = i % static_cast<size_t>(width);
        const float product = gate[at] * a[i];
        REQUIRE(y[i] == product + shift[at]);
      }
    }
  }
  set_thread_count(before);
}

TEST_CASE("softmax and the norms follow their definitions") {
  Random random(11);
  for (const RowsF32Kernel* kernel : rows_f32_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    for (const int64_t count : {1, 5, 8, 33, 384}) {
      const auto n = static_cast<size_t>(count);
      const auto x = random.floats(count, -6, 6), mask = random.floats(count, -3, 0),
                 gain = random.floats(count, 0.5, 2), bias = random.floats(count, -1, 1);
      std::vector<float> y(n);
      double sum = 0, most = -1e30, mean = 0, squares = 0, spread = 0;
      for (size_t i = 0; i < n; ++i) {
        most = std::max(most, double{x[i]} * 0.5 + double{mask[i]});
        mean += double{x[i]} / static_cast<double>(n);
        squares += double{x[i]} * double{x[i]} / static_cast<double>(n);
      }
      for (size_t i = 0; i < n; ++i) {
        sum += std::exp(double{x[i]} * 0.5 + double{mask[i]} - most);
        spread += (double{x[i]} - mean) * (double{x[i]} - mean) / static_cast<double>(n);
      }
      CAPTURE(kernel->name, count);
      kernel->softmax(x.data(), mask.data(), 0.5f, count, y.data());
      for (size_t i = 0; i < n; ++i) {
        const double want = std::exp(double{x[i]} * 0.5 + double{mask[i]} - most) / sum;
        CHECK(std::fabs(double{y[i]} - want) <= 2e-6 * want);
      }
      kernel->layer_norm(x.data(), gain.data(), bias.data(), 1e-5f, count, y.data());
      for (size_t i = 0; i < n; ++i) {
        const double want =
            (double{x[i]} - mean) / std::sqrt(spread + 1e-5) * double{gain[i]} + double{bias[i]};
        CHECK(std::fabs(double{y[i]} - want) <= 1e-5);
      }
      kernel->rms_norm(x.data(), gain.data(), 1e-5f, count, y.data());
      for (size_t i = 0; i < n; ++i) {
        const double want = double{x[i]} / std::sqrt(squares + 1e-5) * double{gain[i]};
        CHECK(std::fabs(double{y[i]} - want) <= 1e-5);
      }
    }
    // A masked element has weight 0.
    const std::vector<float> x = {1, -kInfinity, 1};
    std::vector<float> y(3);
    kernel->softmax(x.data(), nullptr, 1, 3, y.data());
    CHECK(y == std::vector<float>{0.5f, 0.0f, 0.5f});
  }
}

TEST_CASE("products with all that follows them") {
  Random random(17);
  for (const GemmF32Kernel* kernel : gemm_f32_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    const std::vector<std::vector<int64_t>> shapes = {{1, 7, 5},    {1, 300, 130},  {6, 16, 16},
                                                      {13, 37, 19}, {100, 900, 70}, {3, 0, 4}};
    for (const std::vector<int64_t>& shape : shapes) {
      const int64_t m = shape[0], k = shape[1], n = shape[2];
      for (const bool transposed : {false, true}) {
        const auto a = random.floats(m * k, -1, 1), b = random.floats(k * n, -1, 1),
                   bias = random.floats(n, -1, 1), residual = random.floats(m * n, -1, 1);
        const PackedGemmF32 packed =
            pack_gemm_f32({b.data(), k, n, transposed ? 1 : n, transposed ? k : 1});
        std::vector<float> y(static_cast<size_t>(m * n));
        GemmF32Args args;
        args.a = a.data();
        args.m = m;
        args.k = k;
        args.n = n;
        args.lda = k;
        args.panels = packed.panels.get();
        args.out = y.data();
        args.ldc = n;
        args.alpha = 0.5f;
        args.bias = bias.data();
        args.residual = residual.data();
        args.lo = -2;
        args.hi = 3;
        args.activate = [](const void*, float* values, int64_t count) {
          for (int64_t i = 0; i < count; ++i) values[i] += 10;
        };
        gemm_f32(args, *kernel);
        for (int64_t i = 0; i < m * n; ++i) {
          const int64_t r = i / n, c = i % n;
          double sum = 0, size = 1;
          for (int64_t p = 0; p < k; ++p) {
            const double term = double{a[static_cast<size_t>(r * k + p)]} *
                                double{b[static_cast<size_t>(transposed ? c * k + p : p * n + c)]};
            sum += term;
            size += std::fabs(term);
          }
          const double want = std::clamp(0.5 * sum + double{bias[static_cast<size_t>(c)]} +
                                             double{residual[static_cast<size_t>(i)]},
                                         -2.0, 3.0) +
                              10;
          CAPTURE(kernel->name, m, k, n, transposed, i);
          // Each of k additions rounds once.
          REQUIRE(std::fabs(double{y[static_cast<size_t>(i)]} - want) <=
                  6e-8 * static_cast<double>(k + 4) * size + 1e-6);
        }
      }
    }
  }
}

template <class T>
void check_transposes(const TransposeKernel& kernel, Random& random) {
  for (int trial = 0; trial < 60; ++trial) {
    const int64_t rank = random.integer(1, 5);
    std::vector<int64_t> dims, perm;
    int64_t count = 1;
    for (int64_t i = 0; i < rank; ++i) {
      dims.push_back(random.integer(1, rank <= 2 ? 80 : 11));
      count *= dims.back();
      perm.insert(perm.begin() + random.integer(0, i), i);
    }
    if (trial % 6 == 0) {  // a picture's planes
      dims = {3, random.integer(1, 200)};
      perm = {1, 0};
      count = 3 * dims[1];
    }
    std::vector<T> in(static_cast<size_t>(count)), out(in.size(), T{255});
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<T>(i * 7 / 3);
    transpose(plan_transpose(dims, perm), in.data(), out.data(), kernel);
    for (int64_t i = 0; i < count; ++i) {
      int64_t rest = i, from = 0;
      for (size_t d = dims.size(); d-- > 0;) {
        const auto axis = static_cast<size_t>(perm[d]);
        int64_t stride = 1;
        for (size_t later = axis + 1; later < dims.size(); ++later) stride *= dims[later];
        from += rest % dims[axis] * stride;
        rest /= dims[axis];
      }
      REQUIRE(out[static_cast<size_t>(i)] == in[static_cast<size_t>(from)]);
    }
  }
}

TEST_CASE("transposes of any axes") {
  Random random(23);
  for (const TransposeKernel* kernel : transpose_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    check_transposes<uint32_t>(*kernel, random);
    check_transposes<uint8_t>(*kernel, random);
  }
}

TEST_CASE("bytes of two channel groups change places within a pixel") {
  for (const int64_t each : {1, 7, 16, 58, 100}) {
    std::vector<uint8_t> in(static_cast<size_t>(3 * 2 * each)), out(in.size());
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<uint8_t>(i * 5);
    transpose(plan_transpose(std::vector<int64_t>{3, 2, each}, std::vector<int64_t>{0, 2, 1}),
              in.data(), out.data());
    for (int64_t i = 0; i < 3 * 2 * each; ++i) {
      const int64_t pixel = i / (2 * each), c = i % (2 * each) / 2, group = i % 2;
      REQUIRE(out[static_cast<size_t>(i)] ==
              in[static_cast<size_t>((pixel * 2 + group) * each + c)]);
    }
  }
}

TEST_CASE("the plain convolution agrees with oneDNN's") {
  Random random(29);
  for (const int64_t groups : {1, 3, 6}) {
    ConvF32Params p;
    p.batch = 2;
    p.in_h = 9;
    p.in_w = 7;
    p.in_channels = 6;
    p.out_channels = 12;
    p.groups = groups;
    p.kernel_h = 3;
    p.kernel_w = 2;
    p.stride_h = 2;
    p.dilation_w = 2;
    p.pad_top = 1;
    p.pad_right = 2;
    p.residual = true;
    p.clamp = {-1, 2};
    const int64_t count = p.batch * p.out_h() * p.out_w() * p.out_channels;
    const auto x = random.floats(p.batch * p.in_h * p.in_w * p.in_channels, -1, 1);
    const auto w = random.floats(p.out_channels * p.in_channels / groups * 6, -1, 1);
    const auto bias = random.floats(p.out_channels, -1, 1), residual = random.floats(count, -1, 1);
    std::vector<float> ours(static_cast<size_t>(count)), theirs(ours.size());
    conv_f32_ref(p, x.data(), w.data(), bias.data(), residual.data(), ours.data());
    const auto library = DnnlConvF32::make(p, w.data(), bias.data());
    REQUIRE(library != nullptr);
    testing::Workspace workspace(library->workspace_bytes());
    library->run(x.data(), residual.data(), theirs.data(), workspace.get());
    for (size_t i = 0; i < ours.size(); ++i) REQUIRE(std::fabs(ours[i] - theirs[i]) <= 1e-5f);
  }
}

}  // namespace
}  // namespace compress::kernels
