#include <algorithm>
#include <cstring>

#include "compress/kernels/conv_s8/depthwise_s8_driver.h"

namespace compress::kernels::depthwise_s8_detail {
namespace {

void copy_flipped(const uint8_t* from, uint8_t flip, int64_t count, uint8_t* to) noexcept {
  if (flip == 0) {
    std::memcpy(to, from, static_cast<size_t>(count));
    return;
  }
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] ^ flip;
}

// Pixels of fewer channels than a block get the place of one.
int64_t pixel_channels(const ConvS8Params& p) { return std::max(p.in_channels, kDepthwiseBlock); }

// Pixels of `from` bytes to places of `to` bytes, one of them kDepthwiseBlock. Whole blocks are
// moved while they stay within both lines: what is too much is overwritten by the next pixel, or is
// a channel without weights.
void copy_pixels(const uint8_t* in, int64_t from, int64_t count, uint8_t* out,
                 int64_t to) noexcept {
  const int64_t narrow = std::min(from, to);
  const int64_t whole = count - divide_up(kDepthwiseBlock, narrow) + 1;
  int64_t i = 0;
  for (; i < whole; ++i) std::memcpy(out + i * to, in + i * from, kDepthwiseBlock);
  for (; i < count; ++i) std::memcpy(out + i * to, in + i * from, static_cast<size_t>(narrow));
}

int64_t padded_columns(const ConvS8Params& p, int64_t out_w) {
  return (out_w - 1) * p.stride_w + p.kernel_w;
}

// The last input lines, each with its padding: a line serves several output lines and is copied
// once. One more of zero points stands for every line outside the image.
struct Ring {
  const ConvS8Params& p;
  const ConvS8Args& args;
  int64_t columns;
  int64_t pixel;  // bytes
  int64_t line_bytes;
  uint8_t flip;
  uint8_t* lines;
  int64_t held[kDepthwiseLineTaps] = {-1, -1, -1, -1, -1};

  Ring(const ConvS8Params& params, const ConvS8Args& arguments, uint8_t* scratch) noexcept
      : p(params),
        args(arguments),
        columns(padded_columns(params, params.out_w(arguments.in_w))),
        pixel(pixel_channels(params)),
        line_bytes(round_up(columns * pixel, kAlignment)),
        flip(arguments.input_signed ? 0x80 : 0),
        lines(scratch) {
    fill(blank(), columns);
  }

  uint8_t* blank() const noexcept { return lines + p.kernel_h * line_bytes; }

  void fill(uint8_t* at, int64_t count) const noexcept {
    const uint8_t zero = static_cast<uint8_t>(args.input_zero_point) ^ flip;
    std::memset(at, zero, static_cast<size_t>(count * pixel));
  }

  // Line y of image n, from column -pad_left on.
  const uint8_t* line(int64_t n, int64_t y) noexcept {
    if (y < 0 || y >= args.in_h) return blank();
    const int64_t wanted = n * args.in_h + y, slot = y % p.kernel_h;
    uint8_t* to = lines + slot * line_bytes;
    if (held[slot] == wanted) return to;
    held[slot] = wanted;
    const int64_t left = std::min(p.pad_left, columns);
    const int64_t inside = std::clamp<int64_t>(columns - left, 0, args.in_w);
    fill(to, left);
    const uint8_t* from =
        static_cast<const uint8_t*>(args.input) + wanted * args.in_w * p.in_channels;
    uint8_t* first = to + left * pixel;
    if (pixel != p.in_channels) {
      copy_pixels(from, p.in_channels, inside, first, pixel);
      from = first;
    }
    if (from != first || flip != 0) copy_flipped(from, flip, inside * pixel, first);
    fill(to + (left + inside) * pixel, columns - left - inside);
    return to;
  }
};

// Pairs of kernel rows, and its lowest row, that lie outside the image for the output line whose
// topmost row is `top`.
uint32_t rows_outside(const ConvS8Params& p, int64_t in_h, int64_t top) {
  const auto outside = [&](int64_t ky) { return top + ky < 0 || top + ky >= in_h; };
  uint32_t skip = 0;
  for (int64_t ky = 0; ky + 1 < p.kernel_h; ky += 2) {
    if (outside(ky) && outside(ky + 1)) skip |= 1u << (ky / 2);
  }
  if (outside(p.kernel_h - 1)) skip |= 1u << (p.kernel_h / 2);
  return skip;
}

int64_t offset_bytes(const ConvS8Params& p) {
  return round_up(round_up(p.in_channels, kDepthwiseBlock) * 4, kAlignment);
}

// Offsets with what the rows left out would add: each a zero point times the row's weights.
void add_rows_outside(const PackedConvS8& weights, uint32_t skip, int32_t zero_point,
                      const int32_t* from, int32_t* out) noexcept {
  const ConvS8Params& p = weights.params;
  const int64_t padded = round_up(p.in_channels, kDepthwiseBlock);
  std::copy_n(from, padded, out);
  for (int64_t ky = 0; ky < p.kernel_h; ++ky) {
    if ((skip >> (ky / 2) & 1) == 0) continue;
    const int32_t* sum = weights.depthwise_row_sum.get() + ky * padded;
    for (int64_t c = 0; c < padded; ++c) {
      out[c] =
          static_cast<int32_t>(static_cast<uint32_t>(out[c]) +
                               static_cast<uint32_t>(zero_point) * static_cast<uint32_t>(sum[c]));
    }
  }
}

}  // namespace

DepthwiseS8LineFunction line_function(const ConvS8Params& p, const DepthwiseS8Kernel& kernel) {
  const bool fits = p.kernel_h == p.kernel_w && p.kernel_h <= kDepthwiseLineTaps &&
                    p.dilation_h == 1 && p.dilation_w == 1;
  return fits && kernel.line != nullptr ? kernel.line(p.kernel_h, p.stride_w) : nullptr;
}

int64_t line_tap(int64_t size, int64_t group, int64_t ky, int64_t kx) {
  if (group != 2) return kx * round_up(size, group) + ky;
  return ky < size - 1 ? kx * (size - 1) + ky : size * (size - 1) + kx;
}

int64_t line_taps(int64_t size, int64_t group) {
  return group == 2 ? round_up(size * size, group) : size * round_up(size, group);
}

int64_t line_bytes(const ConvS8Params& p, int64_t out_w) {
  const int64_t lines =
      offset_bytes(p) +
      (p.kernel_h + 1) * round_up(padded_columns(p, out_w) * pixel_channels(p), kAlignment);
  if (p.in_channels >= kDepthwiseBlock) return lines;
  return lines + round_up(out_w * kDepthwiseBlock * 4, kAlignment);
}

void run_lines(const PackedConvS8& weights, const ConvS8Args& args, const S8Finish& finish,
               int64_t begin, int64_t end, uint8_t* scratch) noexcept {
  const ConvS8Params& p = weights.params;
  const int64_t out_h = p.out_h(args.in_h), out_w = p.out_w(args.in_w);
  const int64_t element = args.epilogue.output == S8Output::quantized ? 1 : 4;
  int32_t* offsets = reinterpret_cast<int32_t*>(scratch);
  uint32_t held = 0;  // what `offsets` leaves out
  const int32_t zero_point = args.input_zero_point + (args.input_signed ? 128 : 0);
  Ring ring(p, args, scratch + offset_bytes(p));
  const bool pairs = weights.depthwise->tap_group == 2;
  DepthwiseS8Line line{};
  line.pixels = out_w;
  line.channels = ring.pixel;
  line.weights = weights.depthwise_weights.get();
  line.finish = finish;
  uint8_t* wide = ring.blank() + ring.line_bytes;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t top = i % out_h * p.stride_h - p.pad_top;
    for (int64_t ky = 0; ky < p.kernel_h; ++ky) line.rows[ky] = ring.line(i / out_h, top + ky);
    line.skip = pairs ? rows_outside(p, args.in_h, top) : 0;
    if (line.skip != 0 && line.skip != held) {
      add_rows_outside(weights, line.skip, zero_point, finish.offset, offsets);
      held = line.skip;
    }
    line.finish.offset = line.skip != 0 ? offsets : finish.offset;
    uint8_t* out = static_cast<uint8_t*>(args.out) + i * out_w * p.in_channels * element;
    line.out = ring.pixel == p.in_channels ? out : wide;
    weights.line(line);
    if (line.out == out) continue;
    if (element == 1) {
      copy_pixels(wide, ring.pixel, out_w, out, p.in_channels);
    } else {
      const int64_t narrow = p.in_channels * element;
      for (int64_t x = 0; x < out_w; ++x) {
        std::memcpy(out + x * narrow, wide + x * ring.pixel * element, static_cast<size_t>(narrow));
      }
    }
  }
}

}  // namespace compress::kernels::depthwise_s8_detail
