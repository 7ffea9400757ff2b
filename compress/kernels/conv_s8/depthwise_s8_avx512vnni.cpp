// Depthwise convolution: four taps of a channel side by side, one vpdpbusd for all of them.
#include "compress/kernels/conv_s8/depthwise_s8_kernel.h"
#include "compress/kernels/simd/simd512.h"

namespace compress::kernels {
namespace {

void finish_block(const DepthwiseS8Run& p, I512 acc, int64_t channel, int64_t at) noexcept {
  const S8Finish& f = p.finish;
  const uint16_t lanes = first_lanes(16);
  acc = add_i32(acc, load_512(f.offset + channel));
  if (f.output == S8Output::int32) {
    store_i32(static_cast<int32_t*>(p.out) + at, acc, lanes);
    return;
  }
  const F512 scaled = mul_f32(to_f32(acc), load_f32(f.scale + channel));
  if (f.output == S8Output::float32) {
    store_f32(static_cast<float*>(p.out) + at, add_f32(scaled, load_f32(f.float_bias + channel)),
              lanes);
    return;
  }
  const F512 clamped = min_f32(max_f32(scaled, set_f32(f.lo)), set_f32(f.hi));
  store_low_bytes(static_cast<uint8_t*>(p.out) + at,
                  add_i32(round_to_i32(clamped), set_i32(f.zero_point)), lanes);
}

void run(const DepthwiseS8Run& p) noexcept {
  const I512 flips = set_u8(p.flip);
  for (int64_t pixel = 0; pixel < p.pixels; ++pixel) {
    const uint8_t* const* taps = p.taps_of_pixels + pixel * p.taps;
    const int8_t* weights = static_cast<const int8_t*>(p.weights);
    for (int64_t begin = 0; begin < p.channels; begin += kDepthwiseBlock) {
      const int64_t channel =
          begin + kDepthwiseBlock <= p.channels ? begin : p.channels - kDepthwiseBlock;
      I512 acc = zero_i32();
      for (int64_t tap = 0; tap < p.taps; tap += 4) {
        const I512 values = interleave_rows(taps[tap] + channel, taps[tap + 1] + channel,
                                            taps[tap + 2] + channel, taps[tap + 3] + channel);
        acc = dot_u8s8(acc, xor_i32(values, flips), load_512(weights));
        weights += 4 * kDepthwiseBlock;
      }
      finish_block(p, acc, channel, pixel * p.channels + channel);
    }
  }
}

}  // namespace

extern const DepthwiseS8Kernel COMPRESS_SIMD512_NAME(kDepthwiseS8Avx512Vnni);
const DepthwiseS8Kernel COMPRESS_SIMD512_NAME(kDepthwiseS8Avx512Vnni) = {
    "depthwise_s8_avx512vnni", Isa::avx512vnni, 4, 1, false, run, nullptr};

}  // namespace compress::kernels
