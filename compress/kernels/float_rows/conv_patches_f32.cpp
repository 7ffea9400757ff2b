#include "compress/kernels/float_rows/conv_patches_f32.h"

#include <algorithm>
#include <cstring>

#include "compress/kernels/aligned.h"
#include "compress/kernels/gemm_f32/gemm_f32.h"

namespace compress::kernels {
namespace {

constexpr int64_t kMostChannels = 4;
constexpr int64_t kMostTaps = 256;  // of a patch

int64_t taps(const ConvF32Params& p) { return p.in_channels * p.kernel_h * p.kernel_w; }
int64_t pixels(const ConvF32Params& p) { return p.out_h() * p.out_w(); }

// Offsets into the workspace, in floats.
struct Layout {
  int64_t patches, panels, sums, end;
};

Layout layout_of(const ConvF32Params& p) {
  const auto rounded = [](int64_t floats) { return round_up(floats, kAlignment / 4); };
  Layout at{};
  at.panels = at.patches + rounded(pixels(p) * taps(p));
  at.sums = at.panels + rounded(std::max(packed_gemm_f32_floats(taps(p), p.out_channels),
                                         packed_gemm_f32_floats(pixels(p), p.out_channels)));
  at.end = at.sums + rounded(taps(p) * p.out_channels);
  return at;
}

// Calls body(tap, output pixel, value) for all taps of all outputs of one image; outside of it they
// are zero.
template <class Body>
void for_each_tap(const ConvF32Params& p, const float* x, Body&& body) {
  int64_t tap = 0;
  for (int64_t c = 0; c < p.in_channels; ++c) {
    for (int64_t ky = 0; ky < p.kernel_h; ++ky) {
      for (int64_t kx = 0; kx < p.kernel_w; ++kx, ++tap) {
        for (int64_t oy = 0; oy < p.out_h(); ++oy) {
          const int64_t y = oy * p.stride_h - p.pad_top + ky * p.dilation_h;
          const bool inside = y >= 0 && y < p.in_h;
          for (int64_t ox = 0; ox < p.out_w(); ++ox) {
            const int64_t column = ox * p.stride_w - p.pad_left + kx * p.dilation_w;
            const bool in = inside && column >= 0 && column < p.in_w;
            body(tap, oy * p.out_w() + ox,
                 in ? x[(y * p.in_w + column) * p.in_channels + c] : 0.0f);
          }
        }
      }
    }
  }
}

}  // namespace

bool suits_patches(const ConvF32Params& p) noexcept {
  return p.groups == 1 && p.in_channels <= kMostChannels && taps(p) <= kMostTaps &&
         pixels(p) <= (int64_t{1} << 20);
}

size_t conv_patches_bytes(const ConvF32Params& p) noexcept {
  return static_cast<size_t>(layout_of(p).end) * sizeof(float);
}

void conv_patches_forward(const ConvF32Params& p, const float* x, const float* w, const float* bias,
                          float* out, int64_t first, int64_t last, std::byte* workspace) noexcept {
  const Layout at = layout_of(p);
  auto* floats = reinterpret_cast<float*>(workspace);
  float* patches = floats + at.patches;
  const int64_t k = taps(p);
  // The weights' transpose: [taps, out].
  pack_gemm_f32({w, k, p.out_channels, 1, k}, floats + at.panels);
  GemmF32Args args;
  args.a = patches;
  args.m = pixels(p);
  args.k = args.lda = k;
  args.n = args.ldc = p.out_channels;
  args.panels = floats + at.panels;
  args.bias = bias;
  args.lo = p.clamp.lo;
  args.hi = p.clamp.hi;
  for (int64_t n = first; n < last; ++n) {
    for_each_tap(
        p, x + n * p.in_h * p.in_w * p.in_channels,
        [&](int64_t tap, int64_t pixel, float value) { patches[pixel * k + tap] = value; });
    args.out = out + n * args.m * args.n;
    gemm_f32(args);
  }
}

void conv_patches_weights(const ConvF32Params& p, const float* dy, const float* x, int64_t images,
                          float* dw, float* db, std::byte* workspace) noexcept {
  const Layout at = layout_of(p);
  auto* floats = reinterpret_cast<float*>(workspace);
  float* patches = floats + at.patches;
  float* product = floats + at.sums;  // [taps, out] of one image
  const int64_t k = taps(p), m = pixels(p), channels = p.out_channels;
  std::fill(dw, dw + k * channels, 0.0f);
  if (db != nullptr) std::fill(db, db + channels, 0.0f);
  GemmF32Args args;
  args.a = patches;
  args.m = k;
  args.k = args.lda = m;
  args.n = args.ldc = channels;
  args.panels = floats + at.panels;
  args.out = product;
  for (int64_t n = 0; n < images; ++n) {
    for_each_tap(
        p, x + n * p.in_h * p.in_w * p.in_channels,
        [&](int64_t tap, int64_t pixel, float value) { patches[tap * m + pixel] = value; });
    const float* g = dy + n * m * channels;
    pack_gemm_f32({g, m, channels, channels, 1}, floats + at.panels);
    gemm_f32(args);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t tap = 0; tap < k; ++tap) dw[c * k + tap] += product[tap * channels + c];
    }
    if (db == nullptr) continue;
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t c = 0; c < channels; ++c) db[c] += g[i * channels + c];
    }
  }
}

}  // namespace compress::kernels
