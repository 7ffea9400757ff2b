#include "passes/quantize/quantize_recurrent.h"

#include <optional>
#include <utility>
#include <vector>

#include "compress/error.h"
#include "passes/edit.h"
#include "passes/quantize/pack.h"

namespace compress {
namespace {

constexpr size_t kW = 1, kR = 2, kPeepholes = 7;

class RecurrentQuantizer {
 public:
  RecurrentQuantizer(QuantJob& job, QuantMode mode)
      : job_(job),
        graph_(job.model.graph),
        dynamic_(mode == QuantMode::dynamic),
        dtype_(dynamic_ ? weight_dtype(job.options, mode) : DType::int8),
        by_channel_(!dynamic_ || granularity_of(job.options, mode).kind == Granularity::channel) {}

  void run() {
    for (const NodeId id : std::vector<NodeId>(graph_.order())) {
      const Node& node = graph_.node(id);
      if (!node.is("LSTM") && !node.is("GRU") && !node.is("RNN")) continue;
      if (std::string reason = refusal(node); !reason.empty()) {
        job_.skip(id, std::move(reason));
        continue;
      }
      in_context([&] { return fmt::format("while quantizing {}", node.name); },
                 [&] { has_integer_form(node) ? multiply(id) : dequantize(id); });
    }
  }

 private:
  // Why the node is left alone; "" where it is not.
  std::string refusal(const Node& node) const {
    if (!job_.selection.wants_op(node.op_type, true)) return "not among --op-types";
    if (std::string reason = job_.selection.refusal(node); !reason.empty()) return reason;
    int64_t count = 0;
    for (const size_t slot : {kW, kR}) {
      const Tensor* weights = graph_.constant_input(node, slot);
      if (weights == nullptr || weights->dtype() != DType::float32 ||
          weights->shape().rank() != 3) {
        return "its weights are no float32 constants";
      }
      if (graph_.uses(node.inputs[slot]).size() != 1) return "its weights are also read elsewhere";
      count += weights->count();
    }
    const int64_t scales = 8 * graph_.constant_input(node, kW)->shape()[1];
    if (count + 2 * scales + 2 * kNodeProtoBytes >= count * 4) {
      return fmt::format("too small to gain: {} bytes of weights", count * 4);
    }
    if (job_.model.opset() < 10) return "this form needs opset 10";
    return "";
  }

  bool has_integer_form(const Node& node) const {
    const bool here = !job_.options.has("target") || job_.options.text("target") == "ort-cpu";
    return dynamic_ && here && node.is("LSTM") && node.int_or("layout", 0) == 0;
  }

  // [directions, gates, k] as integers [directions, k, gates], with scales and zero points of
  // [directions, gates], or of [directions].
  void multiply(NodeId id) {
    struct Operands {
      ValueId weights, scales, zero_points;
    };
    const auto quantized = [&](size_t slot) {
      const ValueId source = graph_.node(id).inputs[slot];
      const std::string name = graph_.value(source).name;
      const Tensor kept = graph_.value(source).constant;
      const Shape shape = kept.shape();
      const int64_t slices = by_channel_ ? shape[0] * shape[1] : shape[0];
      const Tensor rows = kept.reshaped({slices, shape.count() / slices});
      const QuantParams params =
          weight_params(rows, dtype_, true, 0, 0, job_.options.flag("reduce-range"));
      const Shape scales = by_channel_ ? Shape{shape[0], shape[1]} : Shape{shape[0]};
      return Operands{
          graph_.add_constant(name + "_quantized", turned(quantize(rows, params), shape)),
          graph_.add_constant(name + "_scale", scale_tensor(params, scales)),
          graph_.add_constant(name + "_zero_point", zero_point_tensor(params, scales))};
    };
    const Operands w = quantized(kW), r = quantized(kR);
    Node& node = graph_.edit(id);
    node.op_type = "DynamicQuantizeLSTM";
    node.domain = "com.microsoft";
    node.remove_attribute("layout");
    graph_.set_input(id, kW, w.weights);
    graph_.set_input(id, kR, r.weights);
    while (graph_.node(id).inputs.size() <= kPeepholes) {
      graph_.set_input(id, graph_.node(id).inputs.size(), kNoValue);
    }
    for (const ValueId operand : {w.scales, w.zero_points, r.scales, r.zero_points}) {
      graph_.set_input(id, graph_.node(id).inputs.size(), operand);
    }
    job_.model.opsets.emplace("com.microsoft", 1);
    ++job_.quantized;
  }

  // Bytes of [directions, gates, k] as [directions, k, gates].
  Tensor turned(const Tensor& rows, const Shape& shape) const {
    const TensorData data = rows.read();
    const auto* from = static_cast<const uint8_t*>(data.view().data);
    Tensor out = Tensor::allocate(dtype_, {shape[0], shape[2], shape[1]});
    auto* to = reinterpret_cast<uint8_t*>(out.mutable_data());
    for (int64_t d = 0; d < shape[0]; ++d) {
      for (int64_t k = 0; k < shape[2]; ++k) {
        for (int64_t g = 0; g < shape[1]; ++g) *to++ = from[(d * shape[1] + g) * shape[2] + k];
      }
    }
    return out;
  }

  // A scale for each gate, which both directions share: DequantizeLinear has one axis.
  void dequantize(NodeId id) {
    const bool has_axis = by_channel_ && job_.model.opset() >= 13;
    for (const size_t slot : {kW, kR}) {
      const ValueId source = graph_.node(id).inputs[slot];
      const std::string name = graph_.value(source).name;
      const Tensor kept = graph_.value(source).constant;
      const std::optional<int> axis = has_axis ? std::optional(1) : std::nullopt;
      const QuantParams params = weight_params(kept, DType::int8, true, axis);
      const Shape scales = has_axis ? Shape{kept.shape()[1]} : Shape();
      NodeSpec spec;
      spec.op_type = "DequantizeLinear";
      spec.name = name + "_DequantizeLinear";
      spec.outputs = {name + "_dequantized"};
      spec.inputs = {graph_.add_constant(name + "_quantized", quantize(kept, params)),
                     graph_.add_constant(name + "_scale", scale_tensor(params, scales))};
      if (has_axis) spec.attributes.push_back({"axis", int64_t{1}, ""});
      const NodeId dequantize = graph_.insert_before(id, std::move(spec));
      graph_.set_input(id, slot, graph_.node(dequantize).outputs[0]);
    }
    ++job_.quantized;
  }

  QuantJob& job_;
  Graph& graph_;
  bool dynamic_;
  DType dtype_;
  bool by_channel_;
};

}  // namespace

void quantize_recurrent(QuantJob& job, QuantMode mode) { RecurrentQuantizer(job, mode).run(); }

}  // namespace compress
