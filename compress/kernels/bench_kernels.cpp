// Speed of every kernel variant that this CPU runs, against the float32 peak of this core (256 bits
// wide), its int8 peak where it has VNNI, and oneDNN's float32. All sides of a case run in turn,
// burst by burst; what is printed are medians, and medians of the ratios within a round, which
// noise of the machine leaves alone. One thread is timed by its CPU time; two threads against one
// by the clock on the wall.
//
//   bench_kernels [--filter TEXT] [--seconds S]
//
// GOP/s counts a multiply and an add as two.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/kernels/conv_s8/conv_s8.h"
#include "compress/kernels/dnnl/dnnl_adapter.h"
#include "compress/kernels/gemm_w4/gemm_w4.h"

namespace compress::kernels {
namespace {

constexpr double kBurstSeconds = 1e-3;
constexpr int64_t kPeakTurns = 20000;
constexpr int64_t kFlopsPerTurn = 12 * 8 * 2;
constexpr int64_t kDotOpsPerTurn = 12 * 64 * 2;

using Work = std::function<void()>;

double seconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Twelve independent chains of multiply-adds, which hide their latency.
void float_peak() {
  __asm__ volatile(
      "mov %0, %%rcx\n1:\n"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm0\n\tvfmadd231ps %%ymm12, %%ymm13, %%ymm1\n\t"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm2\n\tvfmadd231ps %%ymm12, %%ymm13, %%ymm3\n\t"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm4\n\tvfmadd231ps %%ymm12, %%ymm13, %%ymm5\n\t"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm6\n\tvfmadd231ps %%ymm12, %%ymm13, %%ymm7\n\t"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm8\n\tvfmadd231ps %%ymm12, %%ymm13, %%ymm9\n\t"
      "vfmadd231ps %%ymm12, %%ymm13, %%ymm10\n\tvfmadd231ps %%ymm12, %%ymm13, %%ymm11\n\t"
      "dec %%rcx\n\tjnz 1b\n\tvzeroupper"
      :
      : "r"(kPeakTurns)
      : "rcx", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm12", "xmm13", "cc");
}

// The same of vpdpbusd on 512 bits. REQUIRES AVX-512 VNNI.
void dot_peak() {
  __asm__ volatile(
      "mov %0, %%rcx\n1:\n"
      "vpdpbusd %%zmm12, %%zmm13, %%zmm0\n\tvpdpbusd %%zmm12, %%zmm13, %%zmm1\n\t"
      "vpdpbusd %%zmm12, %%zmm13, %%zmm2\n\tvpdpbusd %%zmm12, %%zmm13, %%zmm3\n\t"
      "vpdpbusd %%zmm12, %%zmm13, %%zmm4\n\tvpdpbusd %%zmm12, %%zmm13, %%zmm5\n\t"
      "vpdpbusd %%zmm12, %%zmm13, %%zmm6\n\tvpdpbusd %%zmm12, %%zmm13, %%zmm7\n\t"
      "vpdpbusd %%zmm12, %%zmm13, %%zmm8\n\tvpdpbusd %%zmm12, %%zmm13, %%zmm9\n\t"
      "vpdpbusd %%zmm12, %%zmm13, %%zmm10\n\tvpdpbusd %%zmm12, %%zmm13, %%zmm11\n\t"
      "dec %%rcx\n\tjnz 1b\n\tvzeroupper"
      :
      : "r"(kPeakTurns)
      : "rcx", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm12", "xmm13", "cc");
}

// Sides of a case, timed in turn. A side may want another number of threads.
struct Side {
  Work work;
  int threads = 1;
  int64_t repeats = 1;
  std::vector<double> times = {};  // of one repeat, a round
};

double burst(Side& side, clockid_t clock) {
  set_thread_count(side.threads);
  const double begin = seconds(clock);
  for (int64_t i = 0; i < side.repeats; ++i) side.work();
  const double taken = seconds(clock) - begin;
  set_thread_count(1);
  return taken / static_cast<double>(side.repeats);
}

void alternate(std::vector<Side>& sides, clockid_t clock, double budget) {
  for (Side& side : sides) {
    burst(side, clock);
    const double once = std::max(burst(side, clock), 1e-8);
    side.repeats = std::max<int64_t>(1, static_cast<int64_t>(kBurstSeconds / once));
  }
  for (const double end = seconds(CLOCK_MONOTONIC) + budget; seconds(CLOCK_MONOTONIC) < end;) {
    for (Side& side : sides) side.times.push_back(burst(side, clock));
  }
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

double median_ratio(const Side& a, const Side& b) {
  std::vector<double> ratios;
  for (size_t i = 0; i < a.times.size(); ++i) ratios.push_back(a.times[i] / b.times[i]);
  return median(ratios);
}

struct Options {
  std::string filter;
  double seconds = 0.5;
};

void report(const Options& options, const std::string& name, int64_t multiplications, Work ours,
            Work peer = {}) {
  if (name.find(options.filter) == std::string::npos) return;
  std::vector<Side> sides = {{std::move(ours)}, {float_peak}};
  const bool vnni = runs_here(Isa::avx512vnni);
  if (vnni) sides.push_back({dot_peak});
  const bool has_peer = static_cast<bool>(peer);
  if (has_peer) sides.push_back({std::move(peer)});
  alternate(sides, CLOCK_THREAD_CPUTIME_ID, options.seconds);
  const double operations = 2.0 * static_cast<double>(multiplications);
  const double turns = operations / static_cast<double>(kPeakTurns);
  fmt::print("{:44} {:8.1f} {:8.2f}", name, 1e-9 * operations / median(sides[0].times),
             median_ratio(sides[1], sides[0]) * turns / kFlopsPerTurn);
  if (vnni) {
    fmt::print(" {:8.2f}", median_ratio(sides[2], sides[0]) * turns / kDotOpsPerTurn);
  } else {
    fmt::print(" {:>8}", "-");
  }
  if (has_peer) fmt::print(" {:8.2f}", median_ratio(sides.back(), sides[0]));
  fmt::print("\n");
}

// How many times as long `one` takes as `two`, which has `threads`.
void report_ratio(const Options& options, const std::string& name, Work one, Work two,
                  int threads = 2) {
  if (name.find(options.filter) == std::string::npos) return;
  std::vector<Side> sides = {{std::move(one)}, {std::move(two), threads}};
  alternate(sides, threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, options.seconds);
  fmt::print("{:44} {:8.2f}\n", name, median_ratio(sides[0], sides[1]));
}

std::vector<uint8_t> bytes(int64_t count) {
  std::vector<uint8_t> out(static_cast<size_t>(count));
  uint32_t state = 1;
  for (uint8_t& byte : out) {
    byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  }
  return out;
}

struct Shape {
  int64_t m, k, n;
  int64_t multiplications() const { return m * k * n; }
};
constexpr Shape kShapes[] = {{1, 4096, 4096},  {16, 768, 3072}, {128, 768, 768},
                             {512, 3072, 768}, {49, 1152, 192}, {3136, 24, 144}};

std::string label(const std::string& kernel, Shape s, const std::string& what) {
  return fmt::format("{}/{}x{}x{}/{}", kernel, s.m, s.k, s.n, what);
}

// Owns what a call needs; copies share it.
Work gemm_s8_work(const GemmS8Kernel& kernel, Shape s, bool a_signed, bool b_signed) {
  struct State {
    std::vector<uint8_t> a, b, out;
    std::vector<float> scale;
    PackedGemmS8 packed;
    AlignedArray<uint8_t> workspace;
  };
  auto state = std::make_shared<State>();
  state->a = bytes(s.m * s.k), state->b = bytes(s.k * s.n);
  state->out.resize(static_cast<size_t>(s.m * s.n));
  state->scale.assign(static_cast<size_t>(s.n), 1e-3f);
  const uint8_t zero = 128;  // as usual for u8 weights
  state->packed = pack_gemm_s8(
      {state->b.data(), b_signed, false, s.k, s.n, s.n, b_signed ? nullptr : &zero}, kernel);
  state->workspace =
      make_aligned<uint8_t>(static_cast<int64_t>(gemm_s8_workspace_bytes(state->packed, s.m)));
  return [state, s, a_signed] {
    S8Epilogue epilogue;
    epilogue.scale = state->scale.data();
    gemm_s8(state->packed, {s.m, state->a.data(), s.k, a_signed, 3, state->out.data(), s.n,
                            epilogue, state->workspace.get()});
  };
}

// Weights as layers have them, most of them small; blocks of 4 x 16 without any.
std::vector<uint8_t> layer_weights(Shape s, int percent_zero) {
  const std::vector<uint8_t> random = bytes(4 * s.k * s.n), chosen = bytes(s.k * s.n);
  std::vector<uint8_t> weights(static_cast<size_t>(s.k * s.n));
  for (int64_t k = 0; k < s.k; ++k) {
    for (int64_t n = 0; n < s.n; ++n) {
      const int64_t at = k * s.n + n, block = k / 4 * (s.n / 16) + n / 16;
      int sum = -510;
      for (int64_t i = 0; i < 4; ++i) sum += random[static_cast<size_t>(4 * at + i)];
      const bool zero = chosen[static_cast<size_t>(block)] * 100 < percent_zero * 256;
      weights[static_cast<size_t>(at)] = zero ? 0 : static_cast<uint8_t>(sum / 4);
    }
  }
  return weights;
}

// On the kernel that is chosen for such weights.
Work layer_work(Shape s, int percent_zero) {
  struct State {
    std::vector<uint8_t> a, b, out;
    std::vector<float> scale;
    PackedGemmS8 packed;
    AlignedArray<uint8_t> workspace;
  };
  auto state = std::make_shared<State>();
  state->a = bytes(s.m * s.k), state->b = layer_weights(s, percent_zero);
  state->out.resize(static_cast<size_t>(s.m * s.n));
  state->scale.assign(static_cast<size_t>(s.n), 1e-3f);
  state->packed = pack_gemm_s8_for({state->b.data(), true, false, s.k, s.n, s.n}, s.m);
  state->workspace =
      make_aligned<uint8_t>(static_cast<int64_t>(gemm_s8_workspace_bytes(state->packed, s.m)));
  return [state, s] {
    S8Epilogue epilogue;
    epilogue.scale = state->scale.data();
    gemm_s8(state->packed, {s.m, state->a.data(), s.k, false, 3, state->out.data(), s.n, epilogue,
                            state->workspace.get()});
  };
}

Work gemm_w4_work(const GemmW4Int8Kernel& kernel, Shape s, int bits, int64_t block_size) {
  struct State {
    std::vector<uint8_t> data;
    std::vector<float> scales, a, out;
    PackedGemmW4 packed;
    AlignedArray<uint8_t> workspace;
  };
  auto state = std::make_shared<State>();
  const int64_t blocks = divide_up(s.k, block_size);
  state->data = bytes(s.n * blocks * block_size * bits / 8);
  state->scales.assign(static_cast<size_t>(s.n * blocks), 0.01f);
  state->a.assign(static_cast<size_t>(s.m * s.k), 0.5f);
  state->out.resize(static_cast<size_t>(s.m * s.n));
  state->packed =
      pack_gemm_w4({state->data.data(), state->scales.data(), nullptr, s.k, s.n, block_size, bits});
  state->workspace =
      make_aligned<uint8_t>(static_cast<int64_t>(gemm_w4_int8_workspace_bytes(state->packed, s.m)));
  return [state, s, &kernel] {
    gemm_w4_int8(
        state->packed,
        {s.m, state->a.data(), s.k, state->out.data(), s.n, nullptr, state->workspace.get()},
        kernel);
  };
}

Work gemm_f32_work(Shape s) {
  struct State {
    std::vector<float> a, out;
    std::unique_ptr<DnnlMatMulF32> product;
    AlignedArray<uint8_t> workspace;
  };
  auto state = std::make_shared<State>();
  const std::vector<float> b(static_cast<size_t>(s.k * s.n), 0.5f);
  state->a.assign(static_cast<size_t>(s.m * s.k), 0.5f);
  state->out.resize(static_cast<size_t>(s.m * s.n));
  MatMulF32Params params;
  params.a_dims = {s.m, s.k}, params.a_strides = {s.k, 1};
  params.b_dims = {s.k, s.n}, params.b_strides = {s.n, 1};
  state->product = DnnlMatMulF32::make(params, b.data(), nullptr);
  state->workspace = make_aligned<uint8_t>(static_cast<int64_t>(state->product->workspace_bytes()));
  return [state] {
    state->product->run(state->a.data(), nullptr, state->out.data(), state->workspace.get());
  };
}

struct Layer {
  const char* name;
  ConvS8Params params;
  int64_t size;

  int64_t multiplications() const {
    return params.out_h(size) * params.out_w(size) * params.out_channels * params.in_channels /
           params.groups * params.kernel_h * params.kernel_w;
  }
};
constexpr Layer kLayers[] = {
    {"1x1_256_64@56", {256, 64}, 56},
    {"1x1_16_96@112", {16, 96}, 112},
    {"3x3_64_64@56", {64, 64, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, 56},
    {"stem_7x7_s2_3_64@224", {3, 64, 1, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3}, 224},
    {"stem_3x3_s2_3_32@224", {3, 32, 1, 3, 3, 2, 2, 1, 1, 0, 0, 1, 1}, 224},
    {"dw3x3_32@112", {32, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, 112},
    {"dw3x3_144@56", {144, 144, 144, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, 56},
    {"dw3x3_s2_96@112", {96, 96, 96, 3, 3, 2, 2, 1, 1, 0, 0, 1, 1}, 112},
    {"dw5x5_672@14", {672, 672, 672, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2}, 14},
    {"dw5x5_1152@7", {1152, 1152, 1152, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2}, 7}};

Work conv_s8_work(const GemmS8Kernel& gemm, const DepthwiseS8Kernel& depthwise,
                  const Layer& layer) {
  struct State {
    std::vector<uint8_t> x, out;
    std::vector<float> scale;
    PackedConvS8 packed;
    AlignedArray<uint8_t> workspace;
  };
  auto state = std::make_shared<State>();
  const ConvS8Params& p = layer.params;
  const int64_t size = layer.size;
  const auto w = bytes(p.out_channels * p.in_channels / p.groups * p.kernel_h * p.kernel_w);
  state->x = bytes(size * size * p.in_channels);
  state->out.resize(static_cast<size_t>(p.out_h(size) * p.out_w(size) * p.out_channels));
  state->scale.assign(static_cast<size_t>(p.out_channels), 1e-3f);
  state->packed = pack_conv_s8(p, {w.data()}, gemm, depthwise);
  state->workspace = make_aligned<uint8_t>(
      static_cast<int64_t>(conv_s8_workspace_bytes(state->packed, 1, size, size)));
  return [state, size] {
    S8Epilogue epilogue;
    epilogue.scale = state->scale.data();
    conv_s8(state->packed, {1, size, size, state->x.data(), false, 3, state->out.data(), epilogue,
                            state->workspace.get()});
  };
}

Work conv_f32_work(const Layer& layer) {
  struct State {
    std::vector<float> x, out;
    std::unique_ptr<DnnlConvF32> conv;
    AlignedArray<uint8_t> workspace;
  };
  auto state = std::make_shared<State>();
  const ConvS8Params& from = layer.params;
  ConvF32Params p;
  p.in_h = p.in_w = layer.size;
  p.in_channels = from.in_channels, p.out_channels = from.out_channels, p.groups = from.groups;
  p.kernel_h = from.kernel_h, p.kernel_w = from.kernel_w;
  p.stride_h = from.stride_h, p.stride_w = from.stride_w;
  p.pad_top = from.pad_top, p.pad_left = from.pad_left;
  p.pad_bottom = from.pad_bottom, p.pad_right = from.pad_right;
  const std::vector<float> w(
      static_cast<size_t>(p.out_channels * p.in_channels / p.groups * p.kernel_h * p.kernel_w),
      0.5f);
  state->x.assign(static_cast<size_t>(p.in_h * p.in_w * p.in_channels), 0.5f);
  state->out.resize(static_cast<size_t>(p.out_h() * p.out_w() * p.out_channels));
  state->conv = DnnlConvF32::make(p, w.data(), nullptr);
  state->workspace = make_aligned<uint8_t>(static_cast<int64_t>(state->conv->workspace_bytes()));
  return [state] {
    state->conv->run(state->x.data(), nullptr, state->out.data(), state->workspace.get());
  };
}

void bench_level(const Options& options, size_t level) {
  const GemmS8Kernel& gemm = *gemm_s8_kernels()[level];
  const DepthwiseS8Kernel& depthwise = *depthwise_s8_kernels()[level];
  const GemmW4Int8Kernel& w4 = *gemm_w4_int8_kernels()[level];
  if (!runs_here(gemm.isa)) return;
  for (const Shape& s : kShapes) {
    const int64_t work = s.multiplications();
    report(options, label(gemm.name, s, "u8s8"), work, gemm_s8_work(gemm, s, false, true),
           gemm_f32_work(s));
    report(options, label(gemm.name, s, "s8s8"), work, gemm_s8_work(gemm, s, true, true));
    report(options, label(gemm.name, s, "u8u8"), work, gemm_s8_work(gemm, s, false, false));
    for (const int bits : {4, 8}) {
      for (const int64_t block : {32, 128}) {
        report(options, label(w4.name, s, fmt::format("{}bit_block{}", bits, block)), work,
               gemm_w4_work(w4, s, bits, block));
      }
    }
  }
  for (const Layer& layer : kLayers) {
    report(options, fmt::format("conv_s8_{}/{}", isa_name(gemm.isa), layer.name),
           layer.multiplications(), conv_s8_work(gemm, depthwise, layer), conv_f32_work(layer));
  }
}

// Weights of layers, and zero blocks in them against none.
void bench_layers(const Options& options) {
  for (const Shape& s : kShapes) {
    if (s.m < 16) continue;
    report(options, label("gemm_s8_chosen", s, "layer_weights"), s.multiplications(),
           layer_work(s, 0));
  }
  fmt::print("\n{:44} {:>8}\n", "zero blocks of weights over none", "times");
  for (const Shape& s : kShapes) {
    if (s.m < 16 || s.k < 256) continue;
    for (const int percent_zero : {50, 75, 90}) {
      report_ratio(options, label("sparse/gemm_s8", s, fmt::format("{}%", percent_zero)),
                   layer_work(s, 0), layer_work(s, percent_zero), 1);
    }
  }
}

void bench_threads(const Options& options) {
  for (const Shape& s : kShapes) {
    if (s.m < 49) continue;
    const Work one = gemm_s8_work(best_gemm_s8(), s, false, true);
    set_thread_count(2);
    const Work two = gemm_s8_work(best_gemm_s8(), s, false, true);
    const Work w4_two = gemm_w4_work(best_gemm_w4_int8(), s, 4, 32);
    set_thread_count(1);
    report_ratio(options, label("threads/gemm_s8", s, "u8s8"), one, two);
    report_ratio(options, label("threads/gemm_w4", s, "4bit_block32"),
                 gemm_w4_work(best_gemm_w4_int8(), s, 4, 32), w4_two);
  }
  for (const Layer& layer : kLayers) {
    const Work one = conv_s8_work(best_gemm_s8(), best_depthwise_s8(), layer);
    set_thread_count(2);
    const Work two = conv_s8_work(best_gemm_s8(), best_depthwise_s8(), layer);
    set_thread_count(1);
    report_ratio(options, fmt::format("threads/conv_s8/{}", layer.name), one, two);
  }
}

}  // namespace
}  // namespace compress::kernels

int main(int argc, char** argv) {
  using namespace compress::kernels;
  compress::wait_passively(argv);
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (flag == "--filter") options.filter = argv[i + 1];
    if (flag == "--seconds") options.seconds = std::atof(argv[i + 1]);
  }
  compress::set_thread_count(1);
  if (!runs_here(Isa::avx2)) {
    fmt::print(stderr, "bench_kernels: this CPU has no AVX2\n");
    return 1;
  }
  fmt::print("{:44} {:>8} {:>8} {:>8} {:>8}\n", "kernel", "GOP/s", "/ f32", "/ VNNI", "/ oneDNN");
  for (size_t level = 0; level + 1 < gemm_s8_kernels().size(); ++level) {  // all but ref
    bench_level(options, level);
  }
  bench_layers(options);
  fmt::print("\n{:44} {:>8}\n", "two threads over one", "times");
  bench_threads(options);
  return 0;
}
