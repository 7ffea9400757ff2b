#include "compress/runtime/lower_internal.h"

#include "compress/kernels/gemm_s8/saturation.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "compress/error.h"
#include "compress/kernels/gemm_s8/gemm_s8.h"
#include "compress/runtime/lower.h"

namespace compress::runtime {
namespace {

// The first spatial dimension of a channels-last shape, as height and width.
std::pair<int64_t, int64_t> spatial(const Shape& x) {
  return x.rank() == 3 ? std::pair{int64_t{1}, x[1]} : std::pair{x[1], x[2]};
}

struct Axis {
  int64_t in, kernel, stride, dilation, pad_begin, pad_end;
};

int64_t output_of(const NodeContext& context, const Axis& axis) {
  const int64_t reach = axis.dilation * (axis.kernel - 1) + 1;
  const int64_t padded = axis.in + axis.pad_begin + axis.pad_end;
  if (padded < reach) context.invalid("its kernel is larger than the padded input");
  return (padded - reach) / axis.stride + 1;
}

void resolve_auto_pad(const NodeContext& context, Axis& axis) {
  const std::string mode = context.node().string_or("auto_pad", "NOTSET");
  if (mode == "NOTSET" || mode.empty()) return;
  axis.pad_begin = axis.pad_end = 0;
  if (mode == "VALID") return;
  const int64_t out = (axis.in + axis.stride - 1) / axis.stride;
  const int64_t reach = axis.dilation * (axis.kernel - 1) + 1;
  const int64_t total = std::max<int64_t>((out - 1) * axis.stride + reach - axis.in, 0);
  axis.pad_begin = mode == "SAME_LOWER" ? total - total / 2 : total / 2;
  axis.pad_end = total - axis.pad_begin;
}

}  // namespace

const OpDef& internal_op(const Node& node) {
  for (const auto& rows : {kIntegerRows, kPoolRows, kFloatRows, kBlockRows, kElementRows,
                           kTrainingRows, kAttentionRows, kRecurrentRows}) {
    for (const OpDef& row : rows) {
      if (row.name == node.op_type) return row;
    }
  }
  fail(ErrorCode::internal, "no internal operator {}", node.op_type);
}

bool is_channels_last(std::string_view op) {
  constexpr std::array<std::string_view, 12> kNames = {"QConv",
                                                       "QMaxPool",
                                                       "QAveragePool",
                                                       "Conv",
                                                       "MaxPool",
                                                       "AveragePool",
                                                       "GlobalAveragePool",
                                                       "GlobalMaxPool",
                                                       "QGlobalAveragePool",
                                                       "TrainConv",
                                                       "ConvDataGradient",
                                                       "MaxPoolGradient"};
  return std::find(kNames.begin(), kNames.end(), op) != kNames.end();
}

Window window_of(const NodeContext& context, const Shape& x, std::span<const int64_t> kernel_dims) {
  const size_t dims = kernel_dims.size();
  if ((x.rank() != 3 && x.rank() != 4) || static_cast<int>(dims) != x.rank() - 2) {
    context.unsupported("has other than one or two spatial dimensions");
  }
  const Node& node = context.node();
  const auto strides = node.ints_or("strides", std::vector<int64_t>(dims, 1));
  const auto dilations = node.ints_or("dilations", std::vector<int64_t>(dims, 1));
  const auto pads = node.ints_or("pads", std::vector<int64_t>(2 * dims, 0));
  if (strides.size() != dims || dilations.size() != dims || pads.size() != 2 * dims) {
    context.invalid("strides, dilations or pads do not match its rank");
  }
  const auto [in_h, in_w] = spatial(x);
  std::array<Axis, 2> axes = {Axis{in_h, 1, 1, 1, 0, 0}, Axis{in_w, 1, 1, 1, 0, 0}};
  for (size_t i = 0; i < dims; ++i) {
    Axis& axis = axes[i + 2 - dims];
    axis = {axis.in, kernel_dims[i], strides[i], dilations[i], pads[i], pads[dims + i]};
    constexpr int64_t kMost = int64_t{1} << 30;
    for (const int64_t value : {axis.kernel, axis.stride, axis.dilation}) {
      if (value < 1 || value > kMost) context.invalid("has a kernel, stride or dilation below 1");
    }
    if (axis.pad_begin < 0 || axis.pad_end < 0 || axis.pad_begin > kMost || axis.pad_end > kMost) {
      context.unsupported("has negative pads");
    }
    resolve_auto_pad(context, axis);
  }
  Window window;
  window.batch = x[0];
  window.channels = x[x.rank() - 1];
  window.in_h = in_h;
  window.in_w = in_w;
  window.kernel_h = axes[0].kernel;
  window.kernel_w = axes[1].kernel;
  window.stride_h = axes[0].stride;
  window.stride_w = axes[1].stride;
  window.dilation_h = axes[0].dilation;
  window.dilation_w = axes[1].dilation;
  window.pad_top = axes[0].pad_begin;
  window.pad_left = axes[1].pad_begin;
  window.pad_bottom = axes[0].pad_end;
  window.pad_right = axes[1].pad_end;
  window.out_h = output_of(context, axes[0]);
  window.out_w = output_of(context, axes[1]);
  return window;
}

Shape window_output(const Window& window, int rank, int64_t channels) {
  if (rank == 3) return {window.batch, window.out_w, channels};
  return {window.batch, window.out_h, window.out_w, channels};
}

Shape channels_first(const Shape& shape) {
  Shape out;
  out.push_back(shape[0]);
  out.push_back(shape[shape.rank() - 1]);
  for (int i = 1; i + 1 < shape.rank(); ++i) out.push_back(shape[i]);
  return out;
}

Shape channels_last(const Shape& shape) {
  Shape out;
  out.push_back(shape[0]);
  for (int i = 2; i < shape.rank(); ++i) out.push_back(shape[i]);
  out.push_back(shape[1]);
  return out;
}

std::string gemm_key(int64_t rows, bool transposed) {
  return fmt::format("gemm{}{}", transposed ? "'" : "", kernels::prefers_entries(rows) ? "+" : "");
}

std::shared_ptr<const void> shared_packing(const Tensor& source, const std::string& key,
                                           FunctionRef<std::shared_ptr<const void>()> make) {
  // The packing keeps its source alive, so that an address in the map is not another constant's.
  struct Entry {
    Tensor source;
    std::shared_ptr<const void> packed;
  };
  static std::mutex guard;
  static std::map<std::pair<const void*, std::string>, std::weak_ptr<Entry>> entries;
  const bool deferred = source.is_deferred();
  const std::pair<const void*, std::string> name{
      deferred ? source.group_identity() : source.identity(),
      fmt::format("{}{}{}#{}", kernels::simulates_saturation() ? "~" : "", key,
                  source.shape().to_string(), deferred ? source.group_index() : 0)};
  const std::lock_guard lock(guard);
  std::shared_ptr<Entry> entry = entries[name].lock();
  if (!entry) {
    std::erase_if(entries, [](const auto& row) { return row.second.expired(); });
    entry = std::make_shared<Entry>(Entry{source, make()});
    entries[name] = entry;
  }
  return {entry, entry->packed.get()};
}

}  // namespace compress::runtime
