#include "compress/kernels/elementwise_s8/elementwise_s8.h"

#include <algorithm>

#include "compress/core/parallel.h"

namespace compress::kernels {
namespace {

constexpr const ElementwiseS8Kernel* kKernels[] = {&kElementwiseS8Avx2, &kElementwiseS8Ref};

// Elements a thread takes at least: waking it costs as much as some 100,000.
constexpr int64_t kGrain = 1 << 18;
constexpr int64_t kPoolWork = 1 << 17;  // bytes read, likewise

S8Range range_of(const S8Params& params, int32_t lo, int32_t hi) noexcept {
  return {static_cast<float>(lo - params.zero_point), static_cast<float>(hi - params.zero_point),
          params.zero_point};
}
S8Range range_of(const S8Params& params) noexcept {
  return params.is_signed ? range_of(params, -128, 127) : range_of(params, 0, 255);
}

// What of one axis lies under a window.
struct Extent {
  int64_t first = 0, count = 0;  // input positions, `dilation` apart
  int64_t in_padded = 0;         // positions with those in the padding
};

Extent extent(int64_t out, int64_t stride, int64_t pad, int64_t kernel, int64_t dilation,
              int64_t size, int64_t padded_size) noexcept {
  const int64_t start = out * stride - pad;
  Extent e;
  const int64_t skipped = start < 0 ? (-start + dilation - 1) / dilation : 0;
  e.first = start + skipped * dilation;
  const int64_t end = e.first < size ? (size - e.first + dilation - 1) / dilation : 0;
  e.count = std::max<int64_t>(0, std::min(kernel - skipped, end));
  const int64_t room = padded_size - (start + pad);
  e.in_padded = std::clamp<int64_t>((room + dilation - 1) / dilation, 0, kernel);
  return e;
}

template <class Body>
void for_each_window(const uint8_t* x, bool is_signed, const PoolS8& p, int64_t padded_h,
                     int64_t padded_w, const Body& body) noexcept {
  const int64_t line_work = std::max<int64_t>(1, p.out_w * p.kernel_h * p.kernel_w * p.channels);
  const int64_t grain = std::max<int64_t>(1, kPoolWork / line_work);
  parallel_for(0, p.batch * p.out_h, grain, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const uint8_t* image = x + line / p.out_h * p.in_h * p.in_w * p.channels;
      const Extent rows =
          extent(line % p.out_h, p.stride_h, p.pad_top, p.kernel_h, p.dilation_h, p.in_h, padded_h);
      for (int64_t ow = 0; ow < p.out_w; ++ow) {
        const Extent columns =
            extent(ow, p.stride_w, p.pad_left, p.kernel_w, p.dilation_w, p.in_w, padded_w);
        PoolWindow window{image, 0, 0, 0, 0, p.channels, is_signed};
        if (rows.count > 0 && columns.count > 0) {
          window.first = image + (rows.first * p.in_w + columns.first) * p.channels;
          window.ny = rows.count;
          window.nx = columns.count;
          window.step_y = p.dilation_h * p.in_w * p.channels;
          window.step_x = p.dilation_w * p.channels;
        }
        body(window, rows.in_padded * columns.in_padded, (line * p.out_w + ow) * p.channels);
      }
    }
  });
}

}  // namespace

std::span<const ElementwiseS8Kernel* const> elementwise_s8_kernels() noexcept { return kKernels; }

const ElementwiseS8Kernel& best_elementwise_s8() noexcept {
  return active_isa() == Isa::ref ? kElementwiseS8Ref : kElementwiseS8Avx2;
}

void quantize_s8(const float* x, int64_t count, const S8Params& params, uint8_t* out,
                 const ElementwiseS8Kernel& kernel) noexcept {
  parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    kernel.quantize(x + begin, end - begin, params.scale, range_of(params), out + begin);
  });
}

void dequantize_s8(const uint8_t* x, int64_t count, const S8Params& params, float* out,
                   const ElementwiseS8Kernel& kernel) noexcept {
  parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    kernel.dequantize(x + begin, end - begin, params.scale, params.zero_point, params.is_signed,
                      out + begin);
  });
}

BinaryS8 add_params(const S8Params& a, const S8Params& b, const S8Params& out, int32_t lo,
                    int32_t hi) noexcept {
  const double out_scale = out.scale;
  return {a.zero_point,
          b.zero_point,
          static_cast<float>(a.scale / out_scale),
          static_cast<float>(b.scale / out_scale),
          a.is_signed,
          b.is_signed,
          range_of(out, lo, hi)};
}

BinaryS8 mul_params(const S8Params& a, const S8Params& b, const S8Params& out, int32_t lo,
                    int32_t hi) noexcept {
  BinaryS8 params = add_params(a, b, out, lo, hi);
  params.a_scale = static_cast<float>(double{a.scale} * b.scale / out.scale);
  return params;
}

void lookup_s8(const uint8_t* x, int64_t count, const uint8_t table[256], uint8_t* out,
               const ElementwiseS8Kernel& kernel) noexcept {
  parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    kernel.lookup(x + begin, end - begin, table, out + begin);
  });
}

void make_lookup_s8(const S8Params& in, const S8Params& out, float (*function)(float),
                    uint8_t table[256]) noexcept {
  uint8_t bytes[256];
  float values[256];
  for (int i = 0; i < 256; ++i) bytes[i] = static_cast<uint8_t>(i);
  kElementwiseS8Ref.dequantize(bytes, 256, in.scale, in.zero_point, in.is_signed, values);
  for (float& value : values) value = function(value);
  kElementwiseS8Ref.quantize(values, 256, out.scale, range_of(out), table);
}

void average_pool_s8(const uint8_t* x, const S8Params& in, const PoolS8& pool,
                     bool count_include_pad, int64_t padded_h, int64_t padded_w,
                     const S8Params& out_params, uint8_t* out,
                     const ElementwiseS8Kernel& kernel) noexcept {
  const double ratio = double{in.scale} / out_params.scale;
  for_each_window(x, in.is_signed, pool, padded_h, padded_w,
                  [&](const PoolWindow& window, int64_t in_padded, int64_t at) {
                    const int64_t valid = window.ny * window.nx;
                    const int64_t count =
                        std::max<int64_t>(1, count_include_pad ? in_padded : valid);
                    kernel.average(window, -static_cast<int32_t>(valid) * in.zero_point,
                                   static_cast<float>(ratio / static_cast<double>(count)),
                                   range_of(out_params), out + at);
                  });
}

void max_pool_s8(const uint8_t* x, bool is_signed, const PoolS8& pool, uint8_t* out,
                 const ElementwiseS8Kernel& kernel) noexcept {
  for_each_window(
      x, is_signed, pool, pool.in_h, pool.in_w,
      [&](const PoolWindow& window, int64_t, int64_t at) { kernel.max(window, out + at); });
}

}  // namespace compress::kernels
