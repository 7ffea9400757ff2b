// Speed of every kernel variant that this CPU runs, on one thread. GOP/s counts a multiply and an
// add as two.
#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/kernels/conv_s8/conv_s8.h"
#include "compress/kernels/dnnl/dnnl_adapter.h"
#include "compress/kernels/gemm_w4/gemm_w4.h"

namespace compress::kernels {
namespace {

struct Shape {
  int64_t m, k, n;
};
constexpr Shape kShapes[] = {{1, 4096, 4096}, {16, 768, 3072}, {128, 768, 768}, {1024, 1024, 1024}};

std::vector<uint8_t> bytes(int64_t count) {
  std::vector<uint8_t> out(static_cast<size_t>(count));
  uint32_t state = 1;
  for (uint8_t& byte : out)
    byte = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  return out;
}

void set_rate(benchmark::State& state, int64_t multiplications) {
  state.counters["GOP/s"] = benchmark::Counter(
      2e-9 * static_cast<double>(multiplications) * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
}

std::string label(const std::string& kernel, Shape s) {
  return kernel + "/" + std::to_string(s.m) + "x" + std::to_string(s.k) + "x" + std::to_string(s.n);
}

void gemm_s8_speed(benchmark::State& state, const GemmS8Kernel* kernel, Shape s) {
  const auto a = bytes(s.m * s.k), b = bytes(s.k * s.n);
  std::vector<uint8_t> out(static_cast<size_t>(s.m * s.n));
  const std::vector<float> scale(static_cast<size_t>(s.n), 1e-3f);
  const PackedGemmS8 packed = pack_gemm_s8({b.data(), true, false, s.k, s.n, s.n}, *kernel);
  const auto workspace =
      make_aligned<uint8_t>(static_cast<int64_t>(gemm_s8_workspace_bytes(packed, s.m)));
  S8Epilogue epilogue;
  epilogue.scale = scale.data();
  for (auto _ : state) {
    gemm_s8(packed, {s.m, a.data(), s.k, false, 3, out.data(), s.n, epilogue, workspace.get()});
  }
  set_rate(state, s.m * s.k * s.n);
}

void gemm_w4_speed(benchmark::State& state, const GemmW4Int8Kernel* kernel, Shape s, int bits,
                   int64_t block_size) {
  const int64_t blocks = s.k / block_size;
  const auto data = bytes(s.n * s.k * bits / 8);
  const std::vector<float> scales(static_cast<size_t>(s.n * blocks), 0.01f);
  const std::vector<float> a(static_cast<size_t>(s.m * s.k), 0.5f);
  std::vector<float> out(static_cast<size_t>(s.m * s.n));
  const PackedGemmW4 packed =
      pack_gemm_w4({data.data(), scales.data(), nullptr, s.k, s.n, block_size, bits});
  const auto workspace =
      make_aligned<uint8_t>(static_cast<int64_t>(gemm_w4_int8_workspace_bytes(packed, s.m)));
  for (auto _ : state) {
    gemm_w4_int8(packed, {s.m, a.data(), s.k, out.data(), s.n, nullptr, workspace.get()}, *kernel);
  }
  set_rate(state, s.m * s.k * s.n);
}

struct Layer {
  const char* name;
  ConvS8Params params;
  int64_t size;
};
constexpr Layer kLayers[] = {{"1x1_256_64@56", {256, 64}, 56},
                             {"3x3_64_64@56", {64, 64, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, 56},
                             {"stem_7x7_3_64@224", {3, 64, 1, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3}, 224},
                             {"dw3x3_144@56", {144, 144, 144, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, 56}};

int64_t multiplications(const Layer& layer) {
  const ConvS8Params& p = layer.params;
  return p.out_h(layer.size) * p.out_w(layer.size) * p.out_channels * p.in_channels / p.groups *
         p.kernel_h * p.kernel_w;
}

void conv_s8_speed(benchmark::State& state, const GemmS8Kernel* gemm,
                   const DepthwiseS8Kernel* depthwise, const Layer* layer) {
  const ConvS8Params& p = layer->params;
  const int64_t size = layer->size;
  const auto x = bytes(size * size * p.in_channels);
  const auto w = bytes(p.out_channels * p.in_channels / p.groups * p.kernel_h * p.kernel_w);
  std::vector<uint8_t> out(static_cast<size_t>(p.out_h(size) * p.out_w(size) * p.out_channels));
  const std::vector<float> scale(static_cast<size_t>(p.out_channels), 1e-3f);
  const PackedConvS8 packed = pack_conv_s8(p, {w.data()}, *gemm, *depthwise);
  const auto workspace =
      make_aligned<uint8_t>(static_cast<int64_t>(conv_s8_workspace_bytes(packed, 1, size, size)));
  S8Epilogue epilogue;
  epilogue.scale = scale.data();
  for (auto _ : state) {
    conv_s8(packed, {1, size, size, x.data(), false, 3, out.data(), epilogue, workspace.get()});
  }
  set_rate(state, multiplications(*layer));
}

void conv_f32_speed(benchmark::State& state, const Layer* layer) {
  ConvF32Params p;
  const ConvS8Params& from = layer->params;
  p.in_h = p.in_w = layer->size;
  p.in_channels = from.in_channels, p.out_channels = from.out_channels, p.groups = from.groups;
  p.kernel_h = from.kernel_h, p.kernel_w = from.kernel_w;
  p.stride_h = from.stride_h, p.stride_w = from.stride_w;
  p.pad_top = p.pad_left = p.pad_bottom = p.pad_right = from.pad_top;
  const std::vector<float> x(static_cast<size_t>(p.in_h * p.in_w * p.in_channels), 0.5f);
  const std::vector<float> w(
      static_cast<size_t>(p.out_channels * p.in_channels / p.groups * p.kernel_h * p.kernel_w),
      0.5f);
  std::vector<float> out(static_cast<size_t>(p.out_h() * p.out_w() * p.out_channels));
  const auto conv = DnnlConvF32::make(p, w.data(), nullptr);
  const auto workspace = make_aligned<uint8_t>(static_cast<int64_t>(conv->workspace_bytes()));
  for (auto _ : state) conv->run(x.data(), nullptr, out.data(), workspace.get());
  set_rate(state, multiplications(*layer));
}

void register_all() {
  for (size_t i = 0; i < gemm_s8_kernels().size(); ++i) {
    const GemmS8Kernel* gemm = gemm_s8_kernels()[i];
    const DepthwiseS8Kernel* depthwise = depthwise_s8_kernels()[i];
    const GemmW4Int8Kernel* w4 = gemm_w4_int8_kernels()[i];
    if (!runs_here(gemm->isa)) continue;
    for (const Shape& s : kShapes) {
      benchmark::RegisterBenchmark(label(gemm->name, s).c_str(), gemm_s8_speed, gemm, s);
      for (const int64_t block : {32, 128}) {
        const std::string name = label(w4->name, s) + "/block" + std::to_string(block);
        benchmark::RegisterBenchmark(name.c_str(), gemm_w4_speed, w4, s, 4, block);
      }
    }
    for (const Layer& layer : kLayers) {
      const std::string name = std::string("conv_s8_") + isa_name(gemm->isa) + "/" + layer.name;
      benchmark::RegisterBenchmark(name.c_str(), conv_s8_speed, gemm, depthwise, &layer);
    }
  }
  for (const Layer& layer : kLayers) {
    const std::string name = std::string("conv_f32_dnnl_nhwc/") + layer.name;
    benchmark::RegisterBenchmark(name.c_str(), conv_f32_speed, &layer);
  }
}

}  // namespace
}  // namespace compress::kernels

int main(int argc, char** argv) {
  compress::set_thread_count(1);
  compress::kernels::register_all();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
