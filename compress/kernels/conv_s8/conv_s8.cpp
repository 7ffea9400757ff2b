#include "compress/kernels/conv_s8/conv_s8.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "compress/core/parallel.h"
#include "compress/kernels/conv_s8/depthwise_s8_driver.h"
#include "compress/kernels/gemm_s8/gemm_s8_driver.h"

namespace compress::kernels {
namespace {

constexpr const DepthwiseS8Kernel* kDepthwise[] = {&kDepthwiseS8Avx512Vnni, &kDepthwiseS8Avx2,
                                                   &kDepthwiseS8Ref};

bool has_zero_point(const ConvS8Params& params, const ConvS8Weights& weights) {
  if (!weights.is_signed && weights.zero_point == nullptr) return true;  // u8: 128 means 0
  if (weights.zero_point == nullptr) return false;
  const uint8_t none = weights.is_signed ? 0 : 128;
  const uint8_t* points = static_cast<const uint8_t*>(weights.zero_point);
  const int64_t count = weights.zero_point_per_channel ? params.out_channels : 1;
  return std::any_of(points, points + count, [&](uint8_t point) { return point != none; });
}

PackedGemmS8 pack_group(const ConvS8Params& params, const ConvS8Weights& weights, int64_t group,
                        const GemmS8Kernel* kernel, int64_t pixels) {
  const int64_t channels = params.in_channels / params.groups;
  const int64_t outputs = params.out_channels / params.groups;
  const int64_t taps = params.kernel_h * params.kernel_w, k = taps * channels;
  const uint8_t* data = static_cast<const uint8_t*>(weights.data) + group * outputs * k;
  std::vector<uint8_t> reordered(static_cast<size_t>(outputs * k));  // [output][tap][channel]
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        reordered[o * k + tap * channels + c] = data[(o * channels + c) * taps + tap];
      }
    }
  }
  GemmS8Weights matrix{reordered.data(), weights.is_signed, true, k, outputs, k};
  matrix.zero_point = weights.zero_point;
  matrix.zero_point_per_column = weights.zero_point_per_channel;
  if (weights.zero_point != nullptr && weights.zero_point_per_channel) {
    matrix.zero_point = static_cast<const uint8_t*>(weights.zero_point) + group * outputs;
  }
  return kernel != nullptr ? pack_gemm_s8(matrix, *kernel) : pack_gemm_s8_for(matrix, pixels);
}

// Values that lie together in the input and in a packed row: a kernel row, or a tap.
int64_t segment_length(const PackedConvS8& weights) {
  const ConvS8Params& p = weights.params;
  return p.in_channels / p.groups * (weights.whole_rows ? p.kernel_w : 1);
}

// Where the packed rows of one group come from.
struct Gather {
  const ConvS8Params& p;
  const ConvS8Args& args;
  const PackedGemmS8& weights;
  const uint8_t* input;    // at the first channel of the group
  const uint8_t* padding;  // zero points, a segment long
  int64_t out_h, out_w;
  int64_t length;  // of a segment
  bool whole_rows;
  uint8_t flip;

  // Output pixels from `first` on, line by line.
  void operator()(int64_t first, GemmS8Rows rows, uint8_t* extra) const noexcept {
    rows.flip = flip;
    rows.length = length;
    int64_t ow = first % out_w, line = first / out_w;
    for (int64_t left = rows.count; left > 0; left -= rows.count, ow = 0, ++line) {
      rows.count = std::min(left, out_w - ow);
      pack_line(line / out_h, line % out_h, ow, rows, extra);
      rows.packed += rows.count * rows.packed_stride;
      if (rows.sums != nullptr) rows.sums += rows.count;
    }
  }

  // Neighbouring pixels of one output line, segment by segment.
  void pack_line(int64_t n, int64_t oh, int64_t ow, GemmS8Rows rows,
                 uint8_t* extra) const noexcept {
    for (int64_t ky = 0; ky < p.kernel_h; ++ky) {
      const int64_t y = oh * p.stride_h - p.pad_top + ky * p.dilation_h;
      const bool inside = y >= 0 && y < args.in_h;
      const uint8_t* line = input + (n * args.in_h + y) * args.in_w * p.in_channels;
      for (int64_t kx = 0; kx < (whole_rows ? 1 : p.kernel_w); ++kx) {
        if (inside) {
          pack_segment(line, ow * p.stride_w - p.pad_left + kx * p.dilation_w, rows, extra);
        } else {
          pack_padding(rows, rows.count);
        }
        rows.packed += length * weights.kernel->a_bytes;
      }
    }
  }

  // One segment of each row: input columns from x on, stride_w further with every row.
  void pack_segment(const uint8_t* line, int64_t x, GemmS8Rows rows,
                    uint8_t* extra) const noexcept {
    const int64_t width = whole_rows ? p.kernel_w : 1;
    // Rows before `begin` start left of the image, rows from `end` on end right of it.
    const int64_t begin = std::min(divide_up(std::max<int64_t>(-x, 0), p.stride_w), rows.count);
    const int64_t room = args.in_w - width - x;
    const int64_t end = room < 0 ? begin : std::clamp(room / p.stride_w + 1, begin, rows.count);
    pack_edge(line, x, rows, begin, extra);
    advance(rows, begin);
    rows.source = line + (x + begin * p.stride_w) * p.in_channels;
    rows.source_stride = p.stride_w * p.in_channels;
    const int64_t beyond = rows.count - end;
    rows.count = end - begin;
    if (rows.count > 0) weights.kernel->pack_rows(rows);
    advance(rows, rows.count);
    pack_edge(line, x + end * p.stride_w, rows, beyond, extra);
  }

  static void advance(GemmS8Rows& rows, int64_t count) noexcept {
    rows.packed += count * rows.packed_stride;
    if (rows.sums != nullptr) rows.sums += count;
  }

  // `count` rows that reach beyond the image.
  void pack_edge(const uint8_t* line, int64_t x, GemmS8Rows rows, int64_t count,
                 uint8_t* extra) const noexcept {
    if (!whole_rows) return pack_padding(rows, count);
    rows.count = 1;
    for (int64_t i = 0; i < count; ++i, x += p.stride_w) {
      rows.source = edge_row(line, x, extra);
      weights.kernel->pack_rows(rows);
      advance(rows, 1);
    }
  }

  void pack_padding(GemmS8Rows rows, int64_t count) const noexcept {
    rows.source = padding;
    rows.source_stride = 0;
    rows.count = count;
    weights.kernel->pack_rows(rows);
  }

  // kernel_w neighbouring pixels from x on, put together in `extra`.
  const uint8_t* edge_row(const uint8_t* line, int64_t x, uint8_t* extra) const noexcept {
    const int64_t first = std::clamp<int64_t>(-x, 0, p.kernel_w);
    const int64_t last = std::clamp<int64_t>(args.in_w - x, first, p.kernel_w);
    std::memcpy(extra, padding, static_cast<size_t>(length));
    std::memcpy(extra + first * p.in_channels, line + (x + first) * p.in_channels,
                static_cast<size_t>((last - first) * p.in_channels));
    return extra;
  }
};

bool is_plain_matrix(const ConvS8Params& p) {
  return p.groups == 1 && p.kernel_h == 1 && p.kernel_w == 1 && p.stride_h == 1 &&
         p.stride_w == 1 && p.pad_top == 0 && p.pad_left == 0 && p.pad_bottom == 0 &&
         p.pad_right == 0;
}

S8Epilogue of_group(S8Epilogue epilogue, int64_t first) {
  if (epilogue.bias != nullptr) epilogue.bias += first;
  if (epilogue.scale != nullptr) epilogue.scale += first;
  if (epilogue.float_bias != nullptr) epilogue.float_bias += first;
  return epilogue;
}

int64_t padding_bytes(const PackedConvS8& weights) {
  return round_up(segment_length(weights), kAlignment);
}

// Narrow images are copied with their padding first: rows at their edges are then like any other,
// where they would be a good part of all rows and each be put together by itself.
constexpr int64_t kNarrowLine = 1024;  // bytes

bool copies_padding(const ConvS8Params& p, int64_t in_w) {
  const auto [least, most] = std::minmax({p.pad_top, p.pad_left, p.pad_bottom, p.pad_right});
  return least >= 0 && most > 0 && p.kernel_w > 1 && in_w * p.in_channels <= kNarrowLine;
}

int64_t padded_bytes(const ConvS8Params& p, int64_t batch, int64_t in_h, int64_t in_w) {
  if (!copies_padding(p, in_w)) return 0;
  const int64_t lines = in_h + p.pad_top + p.pad_bottom, width = in_w + p.pad_left + p.pad_right;
  return round_up(batch * lines * width * p.in_channels, kAlignment);
}

void copy_padded(const ConvS8Params& p, const ConvS8Args& args, uint8_t* out) noexcept {
  const int64_t line = args.in_w * p.in_channels;
  const int64_t left = p.pad_left * p.in_channels, right = p.pad_right * p.in_channels;
  const uint8_t* from = static_cast<const uint8_t*>(args.input);
  const auto fill = [&](int64_t count) {
    std::memset(out, args.input_zero_point, static_cast<size_t>(count));
    out += count;
  };
  for (int64_t n = 0; n < args.batch; ++n) {
    fill(p.pad_top * (left + line + right));
    for (int64_t y = 0; y < args.in_h; ++y, from += line) {
      fill(left);
      std::memcpy(out, from, static_cast<size_t>(line));
      out += line;
      fill(right);
    }
    fill(p.pad_bottom * (left + line + right));
  }
}

// Groups may be packed for different kernels.
gemm_s8_detail::Plan group_plan(const PackedConvS8& weights, size_t group, int64_t m) noexcept {
  return gemm_s8_detail::make_plan(weights.groups[group], m, segment_length(weights));
}

}  // namespace

std::span<const DepthwiseS8Kernel* const> depthwise_s8_kernels() noexcept { return kDepthwise; }

const DepthwiseS8Kernel& best_depthwise_s8() noexcept {
  for (const DepthwiseS8Kernel* kernel : kDepthwise) {
    if (kernel->isa <= active_isa()) return *kernel;
  }
  return kDepthwiseS8Ref;
}

namespace {

PackedConvS8 pack(const ConvS8Params& params, const ConvS8Weights& weights,
                  const GemmS8Kernel* gemm, const DepthwiseS8Kernel& depthwise, int64_t pixels) {
  assert(params.in_channels % params.groups == 0 && params.out_channels % params.groups == 0);
  PackedConvS8 packed;
  packed.params = params;
  const bool one_by_one = params.groups == params.in_channels &&
                          params.groups == params.out_channels && params.groups > 1;
  if (one_by_one && !has_zero_point(params, weights)) {
    depthwise_s8_detail::pack(packed, weights, depthwise);
    return packed;
  }
  packed.whole_rows = params.groups == 1 && params.dilation_w == 1;
  packed.groups.reserve(static_cast<size_t>(params.groups));
  for (int64_t group = 0; group < params.groups; ++group) {
    packed.groups.push_back(pack_group(params, weights, group, gemm, pixels));
  }
  return packed;
}

}  // namespace

PackedConvS8 pack_conv_s8(const ConvS8Params& params, const ConvS8Weights& weights,
                          const GemmS8Kernel& gemm, const DepthwiseS8Kernel& depthwise) {
  return pack(params, weights, &gemm, depthwise, 0);
}

PackedConvS8 pack_conv_s8_for(const ConvS8Params& params, const ConvS8Weights& weights,
                              int64_t pixels) {
  return pack(params, weights, nullptr, best_depthwise_s8(), pixels);
}

size_t conv_s8_workspace_bytes(const PackedConvS8& weights, int64_t batch, int64_t in_h,
                               int64_t in_w) noexcept {
  if (weights.depthwise != nullptr) {
    return depthwise_s8_detail::workspace_bytes(weights, batch, in_h, in_w);
  }
  const int64_t m = batch * weights.params.out_h(in_h) * weights.params.out_w(in_w);
  size_t most = 0;
  for (size_t group = 0; group < weights.groups.size(); ++group) {
    most = std::max(most, gemm_s8_detail::workspace_bytes(group_plan(weights, group, m)));
  }
  return static_cast<size_t>(padding_bytes(weights) +
                             padded_bytes(weights.params, batch, in_h, in_w)) +
         most;
}

void conv_s8(const PackedConvS8& weights, const ConvS8Args& args) noexcept {
  if (weights.depthwise != nullptr) return depthwise_s8_detail::run(weights, args);
  const ConvS8Params& p = weights.params;
  const int64_t out_h = p.out_h(args.in_h), out_w = p.out_w(args.in_w);
  const int64_t m = args.batch * out_h * out_w;
  if (m <= 0) return;
  uint8_t* padding = static_cast<uint8_t*>(args.workspace);
  void* workspace = padding + padding_bytes(weights);
  if (is_plain_matrix(p)) {
    gemm_s8(weights.groups[0],
            {m, args.input, p.in_channels, args.input_signed, args.input_zero_point, args.out,
             p.out_channels, args.epilogue, workspace});
    return;
  }
  std::memset(padding, args.input_zero_point, static_cast<size_t>(padding_bytes(weights)));
  ConvS8Params inside = p;
  ConvS8Args image = args;
  if (copies_padding(p, args.in_w)) {
    uint8_t* copy = static_cast<uint8_t*>(workspace);
    copy_padded(p, args, copy);
    workspace = copy + padded_bytes(p, args.batch, args.in_h, args.in_w);
    image.input = copy;
    image.in_h += p.pad_top + p.pad_bottom;
    image.in_w += p.pad_left + p.pad_right;
    inside.pad_top = inside.pad_left = inside.pad_bottom = inside.pad_right = 0;
  }
  const uint8_t flip = args.input_signed ? 0x80 : 0;
  const int32_t zero_point = args.input_zero_point + (args.input_signed ? 128 : 0);
  const int64_t channels = p.in_channels / p.groups, outputs = p.out_channels / p.groups;
  const int64_t element = gemm_s8_detail::output_bytes(args.epilogue.output);
  for (int64_t group = 0; group < p.groups; ++group) {
    const PackedGemmS8& matrix = weights.groups[group];
    const Gather gather{inside,
                        image,
                        matrix,
                        static_cast<const uint8_t*>(image.input) + group * channels,
                        padding,
                        out_h,
                        out_w,
                        segment_length(weights),
                        weights.whole_rows,
                        flip};
    gemm_s8_detail::run(matrix, group_plan(weights, static_cast<size_t>(group), m), m,
                        of_group(args.epilogue, group * outputs), zero_point,
                        static_cast<uint8_t*>(args.out) + group * outputs * element, p.out_channels,
                        workspace, gather);
  }
}

}  // namespace compress::kernels
