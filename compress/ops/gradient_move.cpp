// Gradients of operators that move values, and the masks of dropout.
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "compress/ops/fold.h"
#include "compress/ops/gradient_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// --- Moves ---------------------------------------------------------------------------------------

// For each input element the output elements that it went to: readers[first[i] .. first[i + 1]).
struct Readers {
  std::vector<int64_t> first;
  std::vector<int64_t> readers;
};

// The operator itself tells where each output comes from: it is run once on the inputs' numbers
// (exact in float64), which count from 1. 0 is what Pad and Trilu make up.
Tensor sources_of(const NodeContext& c, const Shape& from) {
  Tensor numbers = Tensor::allocate(DType::float64, from);
  const std::span<double> all = numbers.mutable_as<double>();
  std::iota(all.begin(), all.end(), 1.0);
  Node node;
  node.name = c.node().name;
  node.op_type = c.node().string_or("of", "");
  node.attributes = c.node().attributes;
  node.outputs = {0};
  std::vector<Tensor> inputs = {numbers};
  for (int i = 2; i < c.input_count(); ++i) {
    inputs.push_back(c.has_input(i) ? *c.constant(i) : Tensor());
  }
  if (node.op_type == "Pad") {
    inputs.resize(std::max<size_t>(inputs.size(), 3));
    inputs[2] = Tensor();
    node.remove_attribute("value");
  }
  const auto opset = static_cast<int>(c.node().int_or("of_opset", 1));
  NodeContext context(node, opset);
  for (const Tensor& input : inputs) {
    node.inputs.push_back(input ? static_cast<ValueId>(node.inputs.size()) : kNoValue);
    context.input_types.push_back({input.dtype(), static_cast<bool>(input), input.shape()});
    context.constants.push_back(input ? &input : nullptr);
  }
  const OpDef* op = find_op("", node.op_type, opset);
  if (op == nullptr) c.unsupported("no operator " + node.op_type);
  context.constants[0] = nullptr;
  return run_node(*op, context, inputs)[0];
}

Readers invert(const NodeContext& c, const Tensor& sources, int64_t inputs) {
  const TensorData data = sources.read();
  Readers out;
  out.first.assign(static_cast<size_t>(inputs) + 1, 0);
  for (const double at : data.as<double>()) {
    if (at > static_cast<double>(inputs)) c.invalid("moves what is not there");
    if (at > 0) ++out.first[static_cast<size_t>(at)];
  }
  std::partial_sum(out.first.begin(), out.first.end(), out.first.begin());
  out.readers.resize(static_cast<size_t>(out.first.back()));
  std::vector<int64_t> next = out.first;
  int64_t j = 0;
  for (const double at : data.as<double>()) {
    if (at > 0) out.readers[static_cast<size_t>(next[static_cast<size_t>(at) - 1]++)] = j;
    ++j;
  }
  return out;
}

void infer_move(NodeContext& c) {
  infer_shape_operand(c, 1, c.in(0).has_shape ? c.shape(0).rank() : -1);
}

Kernel prepare_move(const NodeContext& c) {
  for (int i = 2; i < c.input_count(); ++i) {
    if (c.has_input(i) && c.constant(i) == nullptr) c.unsupported("its operands are computed");
  }
  const Shape& from = c.output_types[0].shape;
  const Tensor sources = sources_of(c, from);
  if (!(sources.shape() == c.shape(0))) c.invalid("a gradient of another shape");
  auto readers = std::make_shared<const Readers>(invert(c, sources, from.count()));
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"move_gradient_ref", [readers](const KernelArgs& args) {
                    const T* dy = args.inputs[0].as<const T>();
                    T* dx = args.outputs[0].as<T>();
                    const int64_t* first = readers->first.data();
                    const int64_t* at = readers->readers.data();
                    parallel_for(0, args.outputs[0].count(), ops::kGrain,
                                 [&](int64_t begin, int64_t end) {
                                   for (int64_t i = begin; i < end; ++i) {
                                     T sum{0};
                                     for (int64_t k = first[i]; k < first[i + 1]; ++k) {
                                       sum += dy[at[k]];
                                     }
                                     dx[i] = sum;
                                   }
                                 });
                  }};
  });
}

// --- Gather --------------------------------------------------------------------------------------

void infer_gather(NodeContext& c) { infer_shape_operand(c, 2); }

// Rows of a table add up in the order of the indices; threads share the columns.
Kernel prepare_gather(const NodeContext& c) {
  const Shape& table = c.output_types[0].shape;
  const int axis = ops::axis_of(c, c.node().int_or("axis", 0), table.rank());
  const int64_t outer = table.count(0, axis), size = table[axis];
  const int64_t inner = table.count(axis + 1, table.rank());
  const int64_t picks = c.shape(1).count();
  if (c.shape(0).count() != outer * picks * inner) c.invalid("a gradient of another shape");
  const DType indices = c.dtype(1);
  if (indices != DType::int64 && indices != DType::int32) c.invalid("indices of another type");
  const std::string where = ops::label(c);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"gather_gradient_ref", [=](const KernelArgs& args) {
                    const T* dy = args.inputs[0].as<const T>();
                    T* dx = args.outputs[0].as<T>();
                    const auto index_at = [&](int64_t i) {
                      int64_t at = indices == DType::int64 ? args.inputs[1].as<const int64_t>()[i]
                                                           : args.inputs[1].as<const int32_t>()[i];
                      if (at < 0) at += size;
                      if (at < 0 || at >= size) {
                        fail(ErrorCode::invalid_model, "{}: index {} of {}", where, at, size);
                      }
                      return at;
                    };
                    std::fill(dx, dx + outer * size * inner, T{0});
                    parallel_for(0, inner, 16, [&](int64_t from, int64_t to) {
                      for (int64_t o = 0; o < outer; ++o) {
                        for (int64_t p = 0; p < picks; ++p) {
                          T* row = dx + (o * size + index_at(p)) * inner;
                          const T* add = dy + (o * picks + p) * inner;
                          for (int64_t i = from; i < to; ++i) row[i] += add[i];
                        }
                      }
                    });
                  }};
  });
}

// --- Dropout -------------------------------------------------------------------------------------

// Steele, Lea and Flood's SplitMix64 finalizer: one number, well mixed.
uint64_t mixed(uint64_t v) {
  v += 0x9E3779B97F4A7C15u;
  v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9u;
  v = (v ^ (v >> 27)) * 0x94D049BB133111EBu;
  return v ^ (v >> 31);
}

// Element i is dropped by a function of (seed, id, step, i) alone, so that a resumed run, another
// number of threads, and the backward pass draw the same.
Kernel prepare_mask(const NodeContext& c) {
  const auto ratio = static_cast<double>(c.node().float_or("ratio", 0.5f));
  if (!(ratio >= 0 && ratio < 1)) c.invalid("a ratio outside of [0, 1)");
  const auto key = mixed(static_cast<uint64_t>(c.node().int_or("seed", 0))) ^
                   static_cast<uint64_t>(c.node().int_or("id", 0));
  const auto limit = static_cast<uint64_t>(ratio * 0x1p53);
  if (c.dtype(1) != DType::int64 || c.shape(1).count() != 1) c.invalid("step is one int64");
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    const T factor = static_cast<T>(1 / (1 - ratio));
    return Kernel{"mask_ref", [=](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    const uint64_t base =
                        mixed(key ^ mixed(static_cast<uint64_t>(*args.inputs[1].as<int64_t>())));
                    parallel_for(
                        0, args.outputs[0].count(), ops::kGrain, [&](int64_t from, int64_t to) {
                          for (int64_t i = from; i < to; ++i) {
                            const bool kept = mixed(base + static_cast<uint64_t>(i)) >> 11 >= limit;
                            y[i] = kept ? x[i] * factor : T{0};
                          }
                        });
                  }};
  });
}

constexpr OpDef kRows[] = {
    gradient_row("MoveGradient", infer_move, prepare_move),
    gradient_row("GatherGradient", infer_gather, prepare_gather),
    gradient_row("Mask", infer_like_first, prepare_mask),
};

}  // namespace

const std::span<const OpDef> kMoveGradients = kRows;

}  // namespace compress
