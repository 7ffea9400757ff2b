// Nodes on a device that move elements or join them along axes.
#include <fmt/format.h>

#include <algorithm>

#include "compress/ops/moves.h"
#include "compress/ops/support.h"
#include "compress/runtime/device_rows.h"
#include "compress/runtime/lower_params.h"

namespace compress::runtime {
namespace {

// Bytes of an element that the device can move as one; 0: none.
int32_t element_bytes(DType dtype) {
  const int bits = info(dtype).bits;
  return dtype != DType::string && bits >= 8 && bits <= 64 ? bits / 8 : 0;
}

// Dimensions that follow each other in both places become one; those of 1 go.
MovedBlock merged(const MovedBlock& block) {
  MovedBlock out = block;
  out.dims.clear();
  out.from_strides.clear();
  out.to_strides.clear();
  for (size_t i = 0; i < block.dims.size(); ++i) {
    const int64_t dim = block.dims[i];
    if (dim == 1) continue;
    const bool joins = !out.dims.empty() &&
                       out.from_strides.back() == block.from_strides[i] * dim &&
                       out.to_strides.back() == block.to_strides[i] * dim;
    if (joins) {
      out.dims.back() *= dim;
      out.from_strides.back() = block.from_strides[i];
      out.to_strides.back() = block.to_strides[i];
    } else {
      out.dims.push_back(dim);
      out.from_strides.push_back(block.from_strides[i]);
      out.to_strides.push_back(block.to_strides[i]);
    }
  }
  return out;
}

struct DeviceMove {
  cuda::Move call;
  size_t input, output;
  int64_t from_bytes, to_bytes;  // from where they begin
};

std::optional<DeviceMove> device_move(const MovedBlock& given, int32_t bytes) {
  const MovedBlock block = merged(given);
  DeviceMove move = {};
  move.call.element_bytes = bytes;
  move.call.rank = static_cast<int32_t>(block.dims.size());
  move.call.count = 1;
  for (const int64_t dim : block.dims) move.call.count *= narrow(dim);
  if (!copy_dims(block.dims, move.call.dims)) return std::nullopt;
  copy_dims(block.from_strides, move.call.from_strides);
  copy_dims(block.to_strides, move.call.to_strides);
  move.input = static_cast<size_t>(block.input);
  move.output = static_cast<size_t>(block.output);
  move.from_bytes = block.from * bytes;
  move.to_bytes = block.to * bytes;
  return move;
}

Prepared prepare_move(const DevicePtr& device, const NodeContext& context) {
  const int32_t bytes = element_bytes(context.dtype(0));
  const auto blocks = moves_of(context);
  if (bytes == 0 || !blocks) return {};
  auto moves = std::make_shared<std::vector<DeviceMove>>();
  for (const MovedBlock& block : *blocks) {
    const auto move = device_move(block, bytes);
    if (!move) return {};
    moves->push_back(*move);
  }
  DeviceKernel kernel;
  kernel.name = fmt::format("move_{}/cuda", bytes * 8);
  kernel.run = [device, moves](const DeviceArgs& args) {
    for (const DeviceMove& move : *moves) {
      cuda::Move call = move.call;
      call.from = args.inputs[move.input] + move.from_bytes;
      call.to = args.outputs[move.output] + move.to_bytes;
      device->check(device->api().move(device->context(), &call), "move");
    }
  };
  return kernel;
}

// Indices must be constants: those that come with a run are checked on the CPU, where a wrong one
// is an error.
Prepared prepare_gather(const DevicePtr& device, const NodeContext& context) {
  const Shape& data = context.shape(0);
  const bool is_64 = context.dtype(1) == DType::int64;
  cuda::Gather call = {};
  call.element_bytes = element_bytes(context.dtype(0));
  if (context.constant(1) == nullptr || call.element_bytes == 0 ||
      (!is_64 && context.dtype(1) != DType::int32))
    return {};
  const int axis = normalize_axis(context.node().int_or("axis", 0), data.rank());
  call.indices_are_64 = is_64 ? 1 : 0;
  call.outer = narrow(data.count(0, axis));
  call.axis = narrow(data[axis]);
  call.inner = narrow(data.count(axis + 1, data.rank()));
  call.index_count = narrow(context.shape(1).count());
  const std::vector<int64_t> indices = context.constant(1)->to_ints();
  const auto outside = [&](int64_t i) { return i < -data[axis] || i >= data[axis]; };
  if (std::any_of(indices.begin(), indices.end(), outside)) return {};
  return device_kernel(device, "gather/cuda", &cuda::Api::gather, call,
                       [](cuda::Gather& run, const DeviceArgs& args) {
                         run.x = args.inputs[0];
                         run.indices = args.inputs[1];
                         run.out = args.outputs[0];
                       });
}

template <cuda::ReduceKind Kind>
Prepared prepare_reduce(const DevicePtr& device, const NodeContext& context) {
  const auto axes = reduced_axes(context);
  if (!axes || context.dtype(0) != DType::float32) return {};
  const Shape& shape = context.shape(0);
  const Shape strides = strides_of(shape);
  std::vector<int64_t> kept, kept_strides, reduced, reduced_strides;
  for (int i = 0; i < shape.rank(); ++i) {
    const bool goes = std::find(axes->begin(), axes->end(), i) != axes->end();
    (goes ? reduced : kept).push_back(shape[i]);
    (goes ? reduced_strides : kept_strides).push_back(strides[i]);
  }
  cuda::Reduce call = {};
  call.kind = Kind;
  call.outputs = narrow(context.output_types[0].shape.count());
  call.reduced = 1;
  for (const int64_t dim : reduced) call.reduced *= narrow(dim);
  call.out_rank = static_cast<int32_t>(kept.size());
  call.reduced_rank = static_cast<int32_t>(reduced.size());
  if (!copy_dims(kept, call.out_dims) || !copy_dims(reduced, call.reduced_dims)) return {};
  copy_dims(kept_strides, call.out_strides);
  copy_dims(reduced_strides, call.reduced_strides);
  return device_kernel(device, "reduce_f32/cuda", &cuda::Api::reduce, call,
                       [](cuda::Reduce& run, const DeviceArgs& args) {
                         run.x = input<float>(args, 0);
                         run.out = output<float>(args);
                       });
}

constexpr DeviceRow kRows[] = {
    {kInternalDomain, "Transpose", prepare_move},
    {"", "Transpose", prepare_move},
    {"", "Expand", prepare_move},
    {"", "Slice", prepare_move},
    {"", "Concat", prepare_move},
    {"", "Split", prepare_move},
    {"", "Gather", prepare_gather},
    {"", "ReduceSum", prepare_reduce<cuda::ReduceKind::sum>},
    {"", "ReduceMean", prepare_reduce<cuda::ReduceKind::mean>},
    {"", "ReduceMax", prepare_reduce<cuda::ReduceKind::max>},
    {"", "ReduceMin", prepare_reduce<cuda::ReduceKind::min>},
};

}  // namespace

const std::span<const DeviceRow> kDeviceMoveRows = kRows;

}  // namespace compress::runtime
