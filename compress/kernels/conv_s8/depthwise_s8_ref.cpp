#include <cmath>

#include "compress/kernels/conv_s8/depthwise_s8_kernel.h"

namespace compress::kernels {
namespace {

void store(const S8Finish& f, uint32_t sum, int64_t channel, void* out, int64_t at) noexcept {
  const int32_t acc = static_cast<int32_t>(sum);
  if (f.output == S8Output::int32) {
    static_cast<int32_t*>(out)[at] = acc;
    return;
  }
  const float scaled = static_cast<float>(acc) * f.scale[channel];
  if (f.output == S8Output::float32) {
    static_cast<float*>(out)[at] = scaled + f.float_bias[channel];
    return;
  }
  float clamped = scaled > f.lo ? scaled : f.lo;
  clamped = clamped < f.hi ? clamped : f.hi;
  const int32_t value = static_cast<int32_t>(std::nearbyint(clamped)) + f.zero_point;
  static_cast<uint8_t*>(out)[at] = static_cast<uint8_t>(value);
}

void run(const DepthwiseS8Run& p) noexcept {
  const int64_t blocks = (p.channels + kDepthwiseBlock - 1) / kDepthwiseBlock;
  for (int64_t pixel = 0; pixel < p.pixels; ++pixel) {
    const uint8_t* const* taps = p.taps_of_pixels + pixel * p.taps;
    for (int64_t channel = 0; channel < p.channels; ++channel) {
      // The last block starts 16 channels before the end.
      int64_t block = channel / kDepthwiseBlock, lane = channel % kDepthwiseBlock;
      if (block == blocks - 1) lane = channel - (p.channels - kDepthwiseBlock);
      const int8_t* weights =
          static_cast<const int8_t*>(p.weights) + block * p.taps * kDepthwiseBlock + lane;
      uint32_t sum = static_cast<uint32_t>(p.finish.offset[channel]);
      for (int64_t tap = 0; tap < p.taps; ++tap) {
        const uint8_t value = taps[tap][channel] ^ p.flip;
        sum += static_cast<uint32_t>(int32_t{value} * weights[tap * kDepthwiseBlock]);
      }
      store(p.finish, sum, channel, p.out, pixel * p.channels + channel);
    }
  }
}

}  // namespace

const DepthwiseS8Kernel kDepthwiseS8Ref = {"depthwise_s8_ref", Isa::ref, 1, 1, false, run, nullptr};

}  // namespace compress::kernels
