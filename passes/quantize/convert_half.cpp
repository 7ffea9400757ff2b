// Half precision. Operators that are known to take float16 compute in it, Cast nodes stand where
// they meet float32; what would leave the range of the type stays float32, with the reason.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "passes/edit.h"
#include "passes/quantize/precision.h"
#include "passes/types.h"
#include "passes/weights.h"

namespace compress {
namespace {

// ai.onnx operators whose float inputs and outputs may all be float16. What is not listed stays
// float32.
constexpr std::string_view kHalfOps[] = {"Abs",
                                         "Add",
                                         "And",
                                         "ArgMax",
                                         "ArgMin",
                                         "AveragePool",
                                         "BatchNormalization",
                                         "Cast",
                                         "Ceil",
                                         "Clip",
                                         "Concat",
                                         "Conv",
                                         "ConvTranspose",
                                         "Cos",
                                         "DepthToSpace",
                                         "Div",
                                         "Dropout",
                                         "Einsum",
                                         "Elu",
                                         "Equal",
                                         "Erf",
                                         "Expand",
                                         "Flatten",
                                         "Floor",
                                         "GRU",
                                         "Gather",
                                         "GatherElements",
                                         "GatherND",
                                         "Gelu",
                                         "Gemm",
                                         "GlobalAveragePool",
                                         "GlobalMaxPool",
                                         "Greater",
                                         "GreaterOrEqual",
                                         "GroupNormalization",
                                         "HardSigmoid",
                                         "HardSwish",
                                         "Identity",
                                         "InstanceNormalization",
                                         "LSTM",
                                         "LayerNormalization",
                                         "LeakyRelu",
                                         "Less",
                                         "LessOrEqual",
                                         "LogSoftmax",
                                         "MatMul",
                                         "Max",
                                         "MaxPool",
                                         "Min",
                                         "Mul",
                                         "Neg",
                                         "PRelu",
                                         "Pad",
                                         "RNN",
                                         "ReduceMax",
                                         "ReduceMean",
                                         "ReduceMin",
                                         "Relu",
                                         "Reshape",
                                         "Resize",
                                         "Round",
                                         "ScatterElements",
                                         "ScatterND",
                                         "Selu",
                                         "Sigmoid",
                                         "Sign",
                                         "Sin",
                                         "Slice",
                                         "Softmax",
                                         "Softplus",
                                         "Softsign",
                                         "SpaceToDepth",
                                         "Split",
                                         "Sqrt",
                                         "Squeeze",
                                         "Sub",
                                         "Tanh",
                                         "Tile",
                                         "TopK",
                                         "Transpose",
                                         "Unsqueeze",
                                         "Where"};
// The same of com.microsoft.
constexpr std::string_view kHalfContribOps[] = {"Attention",
                                                "BiasGelu",
                                                "EmbedLayerNormalization",
                                                "FastGelu",
                                                "FusedMatMul",
                                                "Gelu",
                                                "SkipLayerNormalization",
                                                "QuickGelu",
                                                "RotaryEmbedding",
                                                "SkipSimplifiedLayerNormalization",
                                                "SimplifiedLayerNormalization"};
// Powers and sums of many terms leave float16's range on ordinary activations.
constexpr std::string_view kRangeOps[] = {
    "Pow",        "Exp",    "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceProd", "CumSum", "Log",       "ReduceLogSumExp"};
// What follows such a value up to the next other operand: the variance of a norm, for one.
constexpr std::string_view kFollowers[] = {"ReduceMean", "Sqrt", "Add", "Mul", "Reciprocal", "Neg"};

// Whatever they read, they give what fits.
constexpr std::string_view kBounding[] = {"Softmax", "LogSoftmax",  "Sigmoid",
                                          "Tanh",    "HardSigmoid", "ArgMax",
                                          "ArgMin",  "Clip",        "Softsign"};

constexpr double kHalfMax = 65504;
constexpr double kHalfLeast = 0x1p-25;  // this and what is smaller rounds to 0
// Measured on some samples; others reach further.
constexpr double kRangeMargin = 2;

template <size_t N>
bool is_among(const std::string_view (&names)[N], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

struct Reach {
  double largest = 0;
  bool vanishes = false;  // elements, and each of them that is not 0 rounds to 0
};

Reach reach_of(const Tensor& tensor) {
  Reach out;
  double least = HUGE_VAL, most = 0;
  const TensorData data = tensor.read();
  for (const float x : data.as<float>()) {
    const double magnitude = std::fabs(double{x});
    if (std::isinf(magnitude)) continue;  // float16 has infinities, too
    out.largest = std::max(out.largest, magnitude);
    if (magnitude > 0) least = std::min(least, magnitude);
    most = std::max(most, magnitude);
  }
  out.vanishes = most > 0 && most <= kHalfLeast && least <= kHalfLeast;
  return out;
}

// Slots whose type follows the operator's; the others are fixed (Resize's scales) or integers.
bool follows_type(const Node& node, size_t slot) {
  if (node.is("Resize") || node.is("Upsample") || node.is("Dropout")) return slot == 0;
  return true;
}

class HalfConverter {
 public:
  HalfConverter(Model& model, PassContext& context)
      : model_(model),
        graph_(model.graph),
        context_(context),
        selection_(context.options),
        overrides_(context.options),
        base_(half_dtype(context.options)),
        half_io_(context.options.flag("half-io")) {}

  PassResult run() {
    if (base_ == DType::undefined && !overrides_.has(QuantMode::half)) return std::move(result_);
    infer_known_types(model_);
    choose();
    const std::vector<NodeId> order = graph_.order();
    for (const NodeId id : order) {
      if (chosen_.count(id) > 0) convert(id);
    }
    if (half_io_) convert_boundary();
    result_.changed = !chosen_.empty();
    result_.details = {{"half_nodes", chosen_.size()}, {"casts", casts_}};
    if (base_ == DType::bfloat16 || wants_bfloat16()) {
      result_.details["warning"] =
          "ONNX Runtime's CPU provider has no bfloat16 kernels: it does not load this file; for "
          "storage alone take --mode weight-only --weights bfloat16";
    }
    return std::move(result_);
  }

 private:
  bool is_float_value(ValueId id) const { return id != kNoValue && type_of(id) == DType::float32; }
  DType type_of(ValueId id) const {
    const Value& value = graph_.value(id);
    return value.is_constant() ? value.constant.dtype() : value.type.dtype;
  }

  bool wants_bfloat16() const {
    return std::any_of(chosen_.begin(), chosen_.end(),
                       [](const auto& row) { return row.second == DType::bfloat16; });
  }

  // --- Which nodes ------------------------------------------------------------------------------

  void choose() {
    for (const NodeId id : graph_.order()) {
      const Node& node = graph_.node(id);
      const DType wanted = wanted_type(node);
      if (wanted == DType::undefined || !meets_floats(node)) continue;
      std::string reason = refusal(node, wanted);
      if (reason.empty()) {
        chosen_[id] = wanted;
      } else {
        if (reason != kQuantized) result_.skipped.push_back({label(graph_, node), reason});
        for (const ValueId out : node.outputs) {
          if (out != kNoValue && out_of_range_) kept_wide_.insert(out);
          if (out != kNoValue && beyond_) kept_beyond_.insert(out);
        }
      }
    }
  }

  DType wanted_type(const Node& node) const {
    const Precision* precision = overrides_.find(graph_, node);
    if (precision == nullptr) return base_;
    return precision->mode == QuantMode::half ? precision->half : DType::undefined;
  }

  bool meets_floats(const Node& node) const {
    const auto is_float = [&](ValueId id) { return is_float_value(id); };
    return std::any_of(node.inputs.begin(), node.inputs.end(), is_float) ||
           std::any_of(node.outputs.begin(), node.outputs.end(), is_float);
  }

  // Why the node stays float32; "" where it does not.
  std::string refusal(const Node& node, DType wanted) {
    out_of_range_ = beyond_ = false;
    if (std::string reason = selection_.refusal(node); !reason.empty()) return reason;
    if (selection_.has_op_types() && !selection_.names_op(node.op_type)) {
      return "not among --op-types";
    }
    if (!node.bodies.empty()) return "what stands in its bodies is left as it is";
    if (is_quantized(node)) return std::string(kQuantized);
    if (node.domain.empty() && is_among(kRangeOps, node.op_type)) {
      out_of_range_ = true;
      return fmt::format("{} easily leaves the range of float16", node.op_type);
    }
    const bool known = node.domain.empty() ? is_among(kHalfOps, node.op_type)
                                           : node.domain == "com.microsoft" &&
                                                 is_among(kHalfContribOps, node.op_type);
    if (!known) return fmt::format("{} is not known to take half precision", node.op_type);
    if (node.is("Cast") && !is_float_value(node.outputs[0])) return std::string(kQuantized);
    if (std::string reason = unknown_type(node); !reason.empty()) return reason;
    if (wanted == DType::float16) {
      if (std::string reason = range_reason(node); !reason.empty()) return reason;
    }
    return "";
  }

  // A value of unknown type may be float32, and an operator's types have to agree.
  std::string unknown_type(const Node& node) const {
    for (const std::vector<ValueId>* values : {&node.inputs, &node.outputs}) {
      for (const ValueId id : *values) {
        if (id == kNoValue || type_of(id) != DType::undefined) continue;
        return fmt::format("the type of '{}' is not known", graph_.value(id).name);
      }
    }
    return "";
  }

  // Part of a quantized layer: integer kernels want float32 scales around them.
  bool is_quantized(const Node& node) const {
    for (const ValueId id : node.inputs) {
      const NodeId producer = id == kNoValue ? kNoNode : graph_.value(id).producer;
      if (producer != kNoNode && graph_.node(producer).is("DequantizeLinear")) return true;
    }
    for (const ValueId id : node.outputs) {
      if (id == kNoValue) continue;
      for (const Use& use : graph_.uses(id)) {
        if (graph_.node(use.node).is("QuantizeLinear")) return true;
      }
    }
    return node.is("QuantizeLinear") || node.is("DequantizeLinear") ||
           node.is("DynamicQuantizeLinear");
  }

  std::string range_reason(const Node& node) {
    bool all_wide = is_among(kFollowers, node.op_type) && node.domain.empty();
    bool any_wide = false, any_beyond = false;
    for (size_t slot = 0; slot < node.inputs.size(); ++slot) {
      const ValueId id = node.inputs[slot];
      if (!is_float_value(id) || !follows_type(node, slot)) continue;
      const Value& value = graph_.value(id);
      if (!value.is_constant()) {
        any_beyond = any_beyond || kept_beyond_.count(id) > 0;
        if (kept_wide_.count(id) > 0) {
          any_wide = true;
        } else {
          all_wide = false;
        }
        continue;
      }
      const Reach reach = reach_of_constant(id);
      if (reach.largest > kHalfMax) {
        beyond_ = true;
        return fmt::format("its constant '{}' reaches {:g}, beyond float16", value.name,
                           reach.largest);
      }
      if (reach.vanishes) {
        out_of_range_ = true;  // so may what is made of it
        return fmt::format("its constant '{}' would become 0 in float16", value.name);
      }
    }
    if (any_beyond) {
      beyond_ = !is_among(kBounding, node.op_type);
      return "it reads what a constant took beyond float16";
    }
    const bool is_square = node.is("Mul") && node.inputs[0] == node.inputs[1];
    if (is_square || (all_wide && any_wide)) {
      out_of_range_ = true;
      return is_square ? "squares easily leave the range of float16"
                       : "its input stays float32 for its range";
    }
    return measured_reason(node);
  }

  const Reach& reach_of_constant(ValueId id) {
    const auto [row, is_new] = reaches_.try_emplace(id);
    if (is_new) row->second = reach_of(graph_.value(id).constant);
    return row->second;
  }

  std::string measured_reason(const Node& node) {
    if (context_.statistics == nullptr) return "";
    std::vector<ValueId> values = node.outputs;
    values.insert(values.end(), node.inputs.begin(), node.inputs.end());
    for (const ValueId id : values) {
      if (id == kNoValue) continue;
      const auto row = context_.statistics->values.find(graph_.value(id).name);
      if (row == context_.statistics->values.end()) continue;
      const double most =
          std::max(std::fabs(double{row->second.min}), std::fabs(double{row->second.max}));
      if (row->second.finite && most * kRangeMargin <= kHalfMax) continue;
      return fmt::format("'{}' reaches {:g} on the samples, too near to the end of float16's range",
                         graph_.value(id).name, most);
    }
    return "";
  }

  // --- Conversion -------------------------------------------------------------------------------

  bool is_half_node(NodeId id, DType dtype) const {
    const auto row = chosen_.find(id);
    return row != chosen_.end() && row->second == dtype;
  }

  void convert(NodeId id) {
    const DType dtype = chosen_.at(id);
    for (size_t slot = 0; slot < graph_.node(id).inputs.size(); ++slot) {
      const ValueId input = graph_.node(id).inputs[slot];
      if (input == kNoValue || !follows_type(graph_.node(id), slot)) continue;
      const DType from = type_of(input);
      const bool is_foreign_half = is_half(from) && from != dtype && converted_.count(input) > 0;
      if (from != DType::float32 && !is_foreign_half) continue;
      if (graph_.node(id).is("Cast")) continue;  // takes anything
      graph_.set_input(id, slot, as_half(input, dtype));
    }
    if (graph_.node(id).is("Cast"))
      graph_.edit(id).set_attribute("to", static_cast<int64_t>(dtype));
    const std::vector<ValueId> outputs = graph_.node(id).outputs;
    for (const ValueId out : outputs) {
      if (out != kNoValue && is_float_value(out)) make_half(out, dtype);
    }
  }

  // The value in `dtype`, for readers of that type.
  ValueId as_half(ValueId id, DType dtype) {
    const auto [row, is_new] = halves_.try_emplace({id, dtype}, kNoValue);
    if (!is_new) return row->second;
    const Value& value = graph_.value(id);
    if (value.is_constant()) {
      if (all_readers_are(id, dtype)) {
        Tensor content = compress::convert(value.constant, dtype);
        graph_.set_constant(id, std::move(content));
        if (graph_.value(id).type.dtype != DType::undefined) retype(id, dtype);
        return row->second = id;
      }
      return row->second = graph_.add_constant(fmt::format("{}_{}", value.name, info(dtype).name),
                                               compress::convert(value.constant, dtype));
    }
    return row->second = add_cast(id, dtype, fmt::format("{}_{}", value.name, info(dtype).name));
  }

  bool all_readers_are(ValueId id, DType dtype) const {
    if (graph_.is_output(id) || graph_.value(id).is_input) return false;
    return std::all_of(graph_.uses(id).begin(), graph_.uses(id).end(), [&](const Use& use) {
      const Node& node = graph_.node(use.node);
      const auto slot = static_cast<size_t>(use.slot);
      return is_half_node(use.node, dtype) && slot < node.inputs.size() && follows_type(node, slot);
    });
  }

  ValueId add_cast(ValueId from, DType to, const std::string& name) {
    ++casts_;
    const NodeId cast = graph_.add(
        {"Cast", {from}, {name}, {{"to", static_cast<int64_t>(to), ""}}, name + "_Cast"});
    const ValueId out = graph_.node(cast).outputs[0];
    TypeInfo type = graph_.value(from).type;
    type.dtype = to;
    graph_.set_type(out, type);
    return out;
  }

  void retype(ValueId id, DType dtype) {
    TypeInfo type = graph_.value(id).type;
    type.dtype = dtype;
    graph_.set_type(id, type);
  }

  // The output of a half node: who stays float32 reads it through a Cast.
  void make_half(ValueId id, DType dtype) {
    const TypeInfo wide = graph_.value(id).type;
    retype(id, dtype);
    converted_.insert(id);
    halves_[{id, dtype}] = id;
    std::vector<Use> half_readers;
    bool has_others = graph_.is_output(id) && !half_io_;
    for (const Use& use : graph_.uses(id)) {
      const Node& node = graph_.node(use.node);
      const auto slot = static_cast<size_t>(use.slot);
      const bool is_input = slot < node.inputs.size();
      const bool fits = is_input && (node.is("Cast") ||
                                     (is_half_node(use.node, dtype) && follows_type(node, slot)));
      if (fits) {
        half_readers.push_back(use);
      } else {
        has_others = true;
      }
    }
    if (!has_others) return;
    const ValueId out = add_cast(id, DType::float32, graph_.value(id).name + "_float32");
    const NodeId cast = graph_.value(out).producer;
    graph_.replace_uses(id, out, !half_io_);
    graph_.set_input(cast, 0, id);
    for (const Use& use : half_readers) {
      graph_.set_input(use.node, static_cast<size_t>(use.slot), id);
    }
    graph_.set_type(out, wide);
    retype(id, dtype);
  }

  // Inputs that half nodes alone read through their Cast, and outputs, which make_half() left half.
  void convert_boundary() {
    const std::vector<ValueId> inputs(graph_.inputs().begin(), graph_.inputs().end());
    for (const ValueId id : inputs) {
      const auto& uses = graph_.uses(id);
      if (graph_.value(id).is_constant() || uses.size() != 1 || graph_.is_output(id)) continue;
      const NodeId cast = uses[0].node;
      if (!graph_.node(cast).is("Cast")) continue;
      const ValueId half = graph_.node(cast).outputs[0];
      const auto row = std::find_if(halves_.begin(), halves_.end(),
                                    [&](const auto& entry) { return entry.second == half; });
      if (row == halves_.end() || row->first.first != id) continue;
      const DType dtype = row->first.second;
      graph_.replace_uses(half, id, false);
      graph_.erase(cast);
      retype(id, dtype);
      --casts_;
    }
  }

  static constexpr std::string_view kQuantized = "quantized";

  Model& model_;
  Graph& graph_;
  PassContext& context_;
  Selection selection_;
  Overrides overrides_;
  DType base_;
  bool half_io_;
  bool out_of_range_ = false;  // of the node that refusal() looked at
  bool beyond_ = false;
  int64_t casts_ = 0;
  std::map<NodeId, DType> chosen_;
  std::set<ValueId> kept_wide_;    // values of nodes that stay float32 for their range
  std::set<ValueId> kept_beyond_;  // of nodes that constants took beyond it
  std::set<ValueId> converted_;
  std::map<ValueId, Reach> reaches_;
  std::map<std::pair<ValueId, DType>, ValueId> halves_;
  PassResult result_;
};

}  // namespace

PassResult convert_half(Model& model, PassContext& context) {
  return HalfConverter(model, context).run();
}

void store_half(QuantJob& job) {
  const DType dtype = weight_dtype(job.options, QuantMode::weight_only);
  std::map<std::pair<Graph*, ValueId>, ValueId> casts;
  std::map<std::pair<Graph*, ValueId>, bool> fits;
  for (const WeightRead& read : find_weights(job.model, true)) {
    Graph& graph = *read.home;
    const Node node = read.graph->node(read.node);
    if (!job.selection.wants_op(node.op_type, true) || !job.selection.refusal(node).empty()) {
      continue;
    }
    if (!graph.value(read.value).alive || !graph.value(read.value).is_constant()) {
      if (casts.count({&graph, read.value}) > 0) ++job.quantized;
      continue;
    }
    const Tensor weight = graph.value(read.value).constant;
    if (weight.dtype() != DType::float32) continue;
    const auto key = std::pair(&graph, read.value);
    const auto [cast, is_new] = casts.try_emplace(key, kNoValue);
    if (is_new) {
      const bool in_range = dtype == DType::bfloat16 || reach_of(weight).largest <= kHalfMax;
      fits[key] = in_range && static_cast<int64_t>(weight.bytes()) > 2 * kNodeProtoBytes &&
                  !graph.is_output(read.value) && !graph.value(read.value).is_input;
      if (!fits[key]) {
        job.skip(label(graph, node),
                 in_range ? "too small to gain" : "its weights reach beyond float16");
      }
    }
    if (!fits[key]) continue;
    ++job.quantized;
    if (!is_new) continue;
    const std::string name = graph.value(read.value).name;
    const ValueId half =
        graph.add_constant(fmt::format("{}_{}", name, info(dtype).name), convert(weight, dtype));
    const NodeId id = graph.add({"Cast",
                                 {half},
                                 {name + "_float32"},
                                 {{"to", static_cast<int64_t>(DType::float32), ""}},
                                 name + "_Cast"});
    cast->second = graph.node(id).outputs[0];
    graph.set_type(cast->second, {DType::float32, true, weight.shape()});
    graph.replace_uses(read.value, cast->second);
    graph.erase_value(read.value);
  }
}

}  // namespace compress
