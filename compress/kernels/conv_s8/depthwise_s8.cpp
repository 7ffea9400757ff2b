#include <algorithm>
#include <cstring>

#include "compress/core/parallel.h"
#include "compress/kernels/conv_s8/depthwise_s8_driver.h"
#include "compress/kernels/s8_finish.h"

namespace compress::kernels::depthwise_s8_detail {
namespace {

constexpr int64_t kParallelWork = 1 << 19;  // multiplications: some 35 us, as in gemm_s8.cpp

// Kernels read whole blocks; fewer channels are padded to one, in the scratch memory.
int64_t block_channels(int64_t channels) { return std::max(channels, kDepthwiseBlock); }

struct Layout {
  int64_t lines = 0, slots = 1;  // lines: output rows of the whole batch
  int64_t table_bytes = 0, padding_bytes = 0;
  int64_t line_bytes = 0;     // copies of input lines, a thread
  int64_t pointer_bytes = 0;  // taps of a line, a thread
  int64_t narrow_bytes = 0;  // fewer channels than a block: copies of the taps of a pixel, a result

  int64_t slot_bytes() const { return line_bytes + pointer_bytes + narrow_bytes; }
};

Layout make_layout(const PackedConvS8& weights, int64_t batch, int64_t in_h,
                   int64_t in_w) noexcept {
  const ConvS8Params& p = weights.params;
  Layout layout;
  const int64_t out_w = p.out_w(in_w);
  layout.lines = batch * p.out_h(in_h);
  const bool small = layout.lines * out_w * weights.taps * p.in_channels < kParallelWork;
  layout.slots = small ? 1 : std::max<int64_t>(1, std::min<int64_t>(thread_count(), layout.lines));
  layout.table_bytes = s8_finish_bytes(p.in_channels);
  layout.padding_bytes = round_up(block_channels(p.in_channels), kAlignment);
  if (weights.line != nullptr) {
    layout.line_bytes = line_bytes(p, out_w);
    return layout;
  }
  layout.pointer_bytes =
      round_up(out_w * weights.taps * static_cast<int64_t>(sizeof(uint8_t*)), kAlignment);
  if (p.in_channels < kDepthwiseBlock) {
    layout.narrow_bytes = round_up((weights.taps + 4) * kDepthwiseBlock, kAlignment);
  }
  return layout;
}

// Pointers to the taps of every pixel of an output line; taps that pad to a group have weights of
// 0.
void point(const PackedConvS8& weights, const ConvS8Args& args, int64_t line, int64_t out_h,
           int64_t out_w, const uint8_t* padding, const uint8_t** taps) noexcept {
  const ConvS8Params& p = weights.params;
  const int64_t oh = line % out_h, n = line / out_h;
  const uint8_t* image =
      static_cast<const uint8_t*>(args.input) + n * args.in_h * args.in_w * p.in_channels;
  for (int64_t ow = 0; ow < out_w; ++ow, taps += weights.taps) {
    for (int64_t tap = 0; tap < weights.taps; ++tap) taps[tap] = padding;
    int64_t tap = 0;
    for (int64_t ky = 0; ky < p.kernel_h; ++ky) {
      const int64_t y = oh * p.stride_h - p.pad_top + ky * p.dilation_h;
      const bool inside = y >= 0 && y < args.in_h;
      for (int64_t kx = 0; kx < p.kernel_w; ++kx) {
        const int64_t x = ow * p.stride_w - p.pad_left + kx * p.dilation_w;
        const bool valid = inside && x >= 0 && x < args.in_w;
        if (valid) taps[tap] = image + (y * args.in_w + x) * p.in_channels;
        ++tap;
      }
    }
  }
}

// A line of fewer channels than a block, pixel by pixel through copies.
void run_narrow(const DepthwiseS8Kernel& kernel, DepthwiseS8Run block, int64_t channels,
                int64_t element, uint8_t* scratch) noexcept {
  const int64_t pixels = block.pixels;
  const uint8_t* const* taps = block.taps_of_pixels;
  uint8_t* out = static_cast<uint8_t*>(block.out);
  uint8_t* result = scratch + block.taps * kDepthwiseBlock;
  block.pixels = 1;
  block.channels = kDepthwiseBlock;
  block.out = result;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int64_t tap = 0; tap < block.taps; ++tap) {
      uint8_t* copy = scratch + tap * kDepthwiseBlock;
      std::memcpy(copy, taps[pixel * block.taps + tap], static_cast<size_t>(channels));
      // The pointer list of this pixel is not needed again, so it takes the copies.
      const_cast<const uint8_t**>(taps)[pixel * block.taps + tap] = copy;
    }
    block.taps_of_pixels = taps + pixel * block.taps;
    kernel.run(block);
    std::memcpy(out + pixel * channels * element, result, static_cast<size_t>(channels * element));
  }
}

}  // namespace

void pack(PackedConvS8& packed, const ConvS8Weights& weights, const DepthwiseS8Kernel& kernel) {
  const ConvS8Params& p = packed.params;
  const int64_t channels = p.in_channels, taps = p.kernel_h * p.kernel_w;
  const int64_t blocks = divide_up(channels, kDepthwiseBlock), group = kernel.tap_group;
  packed.depthwise = &kernel;
  packed.line = line_function(p, kernel);
  packed.taps = packed.line ? line_taps(p.kernel_h, group) : round_up(taps, group);
  packed.depthwise_weights =
      make_aligned<uint8_t>(blocks * packed.taps * kDepthwiseBlock * kernel.weight_bytes);
  packed.depthwise_sum = make_aligned<int32_t>(round_up(channels, kDepthwiseBlock));
  const int64_t padded = round_up(channels, kDepthwiseBlock);
  if (packed.line != nullptr) {
    packed.depthwise_row_sum = make_aligned<int32_t>(p.kernel_h * padded);
  }
  const uint8_t* data = static_cast<const uint8_t*>(weights.data);
  // u8 weights are stored - 128; only those with zero point 128 come here.
  const uint8_t flip = weights.is_signed ? 0 : 0x80;
  for (int64_t block = 0; block < blocks; ++block) {
    const bool last = block == blocks - 1;
    const int64_t first =
        last ? std::max<int64_t>(0, channels - kDepthwiseBlock) : block * kDepthwiseBlock;
    for (int64_t c = 0; c < std::min(kDepthwiseBlock, channels - first); ++c) {
      int64_t lane = c;
      if (kernel.swap_middle && c >= 4 && c < 12) lane = c < 8 ? c + 4 : c - 4;
      int32_t sum = 0;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int8_t value = static_cast<int8_t>(data[(first + c) * taps + tap] ^ flip);
        const int64_t to =
            packed.line ? line_tap(p.kernel_h, group, tap / p.kernel_w, tap % p.kernel_w) : tap;
        const int64_t at = ((block * packed.taps + to / group * group) * kDepthwiseBlock) +
                           lane * group + to % group;
        if (kernel.weight_bytes == 2) {
          reinterpret_cast<int16_t*>(packed.depthwise_weights.get())[at] = value;
        } else {
          packed.depthwise_weights[at] = static_cast<uint8_t>(value);
        }
        sum += value;
      }
      packed.depthwise_sum[first + c] = sum;
    }
  }
  for (int64_t c = 0; packed.line != nullptr && c < channels; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      packed.depthwise_row_sum[tap / p.kernel_w * padded + c] +=
          static_cast<int8_t>(data[c * taps + tap] ^ flip);
    }
  }
}

size_t workspace_bytes(const PackedConvS8& weights, int64_t batch, int64_t in_h,
                       int64_t in_w) noexcept {
  const Layout layout = make_layout(weights, batch, in_h, in_w);
  return static_cast<size_t>(layout.table_bytes + layout.padding_bytes +
                             layout.slots * layout.slot_bytes());
}

void run(const PackedConvS8& weights, const ConvS8Args& args) noexcept {
  const ConvS8Params& p = weights.params;
  const Layout layout = make_layout(weights, args.batch, args.in_h, args.in_w);
  const int64_t out_h = p.out_h(args.in_h), out_w = p.out_w(args.in_w);
  if (layout.lines <= 0 || out_w <= 0) return;
  const int64_t channels = p.in_channels;
  const int64_t element = args.epilogue.output == S8Output::quantized ? 1 : 4;
  uint8_t* memory = static_cast<uint8_t*>(args.workspace);
  uint8_t* padding = memory + layout.table_bytes;
  std::memset(padding, args.input_zero_point, static_cast<size_t>(layout.padding_bytes));

  DepthwiseS8Run whole{};
  whole.taps = weights.taps;
  whole.pixels = out_w;
  whole.channels = channels;
  whole.weights = weights.depthwise_weights.get();
  whole.flip = args.input_signed ? 0x80 : 0;
  whole.finish = make_s8_finish(args.epilogue, channels, weights.depthwise_sum.get(),
                                args.input_zero_point + (args.input_signed ? 128 : 0), memory);
  auto work = [&](int64_t slot) {
    uint8_t* scratch = padding + layout.padding_bytes + slot * layout.slot_bytes();
    const int64_t begin = layout.lines * slot / layout.slots;
    const int64_t end = layout.lines * (slot + 1) / layout.slots;
    if (weights.line != nullptr) {
      return run_lines(weights, args, whole.finish, begin, end, scratch);
    }
    const uint8_t** taps = reinterpret_cast<const uint8_t**>(scratch);
    DepthwiseS8Run line_run = whole;
    line_run.taps_of_pixels = taps;
    for (int64_t line = begin; line < end; ++line) {
      point(weights, args, line, out_h, out_w, padding, taps);
      line_run.out = static_cast<uint8_t*>(args.out) + line * out_w * channels * element;
      if (channels < kDepthwiseBlock) {
        run_narrow(*weights.depthwise, line_run, channels, element, scratch + layout.pointer_bytes);
      } else {
        weights.depthwise->run(line_run);
      }
    }
  };
  if (layout.slots == 1) return work(0);
  parallel_for(0, layout.slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) work(slot);
  });
}

}  // namespace compress::kernels::depthwise_s8_detail
