// Dynamic quantization: activations get their range at run time (DynamicQuantizeLinear), weights
// are int8. The form is what ONNX Runtime fuses into DynamicQuantizeMatMul: DynamicQuantizeLinear
// -> MatMulInteger -> Cast -> Mul by both scales (-> Add).
#include <map>

#include "compress/error.h"
#include "passes/edit.h"
#include "passes/quantize/linear.h"
#include "passes/quantize/pack.h"
#include "passes/quantize/quantize_recurrent.h"

namespace compress {
namespace {

class DynamicQuantizer {
 public:
  explicit DynamicQuantizer(QuantJob& job)
      : job_(job),
        graph_(job.model.graph),
        dtype_(weight_dtype(job.options, QuantMode::dynamic)),
        granularity_(granularity_of(job.options, QuantMode::dynamic)) {}

  void run(Candidates found) {
    for (Linear& linear : found.linears) {
      refresh(graph_, linear);
      in_context([&] { return fmt::format("while quantizing {}", name_of(linear.node)); },
                 [&] { multiply(linear); });
    }
    for (Table& table : found.tables) {
      refresh(graph_, table);
      in_context([&] { return fmt::format("while quantizing {}", name_of(table.node)); },
                 [&] { gather(table); });
    }
    quantize_recurrent(job_, QuantMode::dynamic);
    if (job_.selection.names_op("Conv")) convolutions();
  }

 private:
  std::string name_of(NodeId id) const { return graph_.node(id).name; }

  struct Activation {
    ValueId quantized;
    ValueId scale;
    ValueId zero_point;
  };

  // One DynamicQuantizeLinear a value, shared by its readers.
  Activation activation_of(NodeId reader, ValueId input) {
    if (const auto row = activations_.find(input); row != activations_.end()) return row->second;
    const std::string name = graph_.value(input).name;
    NodeSpec spec{"DynamicQuantizeLinear",
                  {input},
                  {name + "_quantized", name + "_scale", name + "_zero_point"},
                  {},
                  name + "_QuantizeLinear"};
    const NodeId id = graph_.insert_before(reader, std::move(spec));
    const std::vector<ValueId>& out = graph_.node(id).outputs;
    return activations_.emplace(input, Activation{out[0], out[1], out[2]}).first->second;
  }

  struct Weight {
    ValueId quantized;
    ValueId scale;
    ValueId zero_point;
  };

  Weight weight_of(const Linear& linear) {
    const auto key = std::pair(linear.weight, linear.transposed);
    if (const auto row = weights_.find(key); row != weights_.end()) return row->second;
    const std::string name = graph_.value(linear.weight).name;
    const bool by_channel = granularity_.kind == Granularity::channel;
    const IntegerWeight made =
        integer_weight(job_, graph_.value(linear.weight).constant, linear.transposed,
                       {dtype_, info(dtype_).is_signed || by_channel, by_channel,
                        job_.options.flag("reduce-range")});
    const Weight ids{graph_.add_constant(name + "_quantized", made.quantized),
                     graph_.add_constant(name + "_scale", made.scale),
                     graph_.add_constant(name + "_zero_point", made.zero_point)};
    return weights_.emplace(key, ids).first->second;
  }

  bool opset_fits(NodeId id) {
    if (job_.model.opset() >= 11) return true;
    job_.skip(id, fmt::format("DynamicQuantizeLinear needs opset 11, the model has {}",
                              job_.model.opset()));
    return false;
  }

  void multiply(const Linear& linear) {
    if (!opset_fits(linear.node)) return;
    const int64_t nodes = linear.bias == kNoValue ? 5 : 6;
    if (linear.k * linear.n + 5 * linear.n + nodes * kNodeProtoBytes >= linear.k * linear.n * 4) {
      return job_.skip(linear.node, fmt::format("too small to gain: {} bytes of weights",
                                                linear.k * linear.n * 4));
    }
    const Weight weight = weight_of(linear);
    const Activation a = activation_of(linear.node, linear.input);
    finish(linear.node, "MatMulInteger",
           {a.quantized, weight.quantized, a.zero_point, weight.zero_point}, {}, a.scale,
           weight.scale, linear.bias);
    ++job_.quantized;
  }

  ValueId add(NodeId before, NodeSpec spec) {
    return graph_.node(graph_.insert_before(before, std::move(spec))).outputs[0];
  }

  // Integer product -> Cast -> Mul by the product of the scales (-> Add), in place of the node.
  void finish(NodeId old, const std::string& op, std::vector<ValueId> inputs,
              std::vector<Attribute> attributes, ValueId a_scale, ValueId w_scale, ValueId bias) {
    const std::string node = name_of(old);
    const std::string out = graph_.value(graph_.node(old).outputs[0]).name;
    const ValueId product = add(old, {op,
                                      std::move(inputs),
                                      {out + "_output_quantized"},
                                      std::move(attributes),
                                      node + "_quant"});
    const auto to_float = static_cast<int64_t>(DType::float32);
    const ValueId wide = add(old, {"Cast",
                                   {product},
                                   {out + "_output_quantized_cast"},
                                   {{"to", to_float, ""}},
                                   out + "_output_quantized_cast"});
    const ValueId scale =
        add(old, {"Mul", {a_scale, w_scale}, {out + "_scale_mul"}, {}, node + "_quant_scales_mul"});
    NodeSpec scaled{"Mul", {wide, scale}, {}, {}, node + "_quant_output_scale_mul"};
    if (bias == kNoValue) {
      replace_node(graph_, old, std::move(scaled));
      return;
    }
    scaled.outputs = {out + "_product"};
    const ValueId unbiased = add(old, std::move(scaled));
    replace_node(graph_, old, {"Add", {unbiased, bias}, {}, {}, node + "_quant_bias_add"});
  }

  void gather(const Table& table) {
    if (job_.model.opset() < 10) return job_.skip(table.node, "this form needs opset 10");
    const int64_t elements = table.rows * table.width;
    if (elements + 16 + kNodeProtoBytes >= elements * 4) {
      return job_.skip(table.node, fmt::format("too small to gain: {} bytes", elements * 4));
    }
    quantize_table(job_, table, dtype_);
    ++job_.quantized;
  }

  // ConvInteger takes uint8 weights in ONNX Runtime; 128 stands for zero.
  void convolutions() {
    const std::vector<NodeId> order = graph_.order();
    for (const NodeId id : order) {
      const Node node = graph_.node(id);
      if (!node.is("Conv") || !opset_fits(id)) continue;
      if (std::string reason = job_.selection.refusal(node); !reason.empty()) {
        job_.skip(id, std::move(reason));
        continue;
      }
      const Tensor* weight = graph_.constant_input(node, 1);
      if (weight == nullptr || weight->dtype() != DType::float32 ||
          graph_.uses(node.inputs[1]).size() != 1 ||
          weight->bytes() < static_cast<uint64_t>(8 * kNodeProtoBytes) ||
          (operand(node, 2) != kNoValue && graph_.constant_input(node, 2) == nullptr)) {
        job_.skip(id, "no float32 constants of its own, or too small to gain");
        continue;
      }
      const std::string name = graph_.value(node.inputs[1]).name;
      const Tensor kept = *weight;
      const QuantParams params = weight_params(kept, DType::uint8, true, {});
      const ValueId quantized = graph_.add_constant(name + "_quantized", quantize(kept, params));
      const ValueId scale = graph_.add_constant(name + "_scale", scale_tensor(params, {}));
      const ValueId zero = graph_.add_constant(name + "_zero_point", zero_point_tensor(params, {}));
      const Activation a = activation_of(id, node.inputs[0]);
      finish(id, "ConvInteger", {a.quantized, quantized, a.zero_point, zero}, node.attributes,
             a.scale, scale, channel_bias(node, kept.shape().rank()));
      ++job_.quantized;
      job_.result.details["warning"] =
          "dynamic convolutions run slower than float (measured 3 to 10 times)";
    }
  }

  // The bias as [C, 1, 1], to be added to a value of `rank` dimensions.
  ValueId channel_bias(const Node& node, int rank) {
    const Tensor* bias = graph_.constant_input(node, 2);
    if (bias == nullptr) return kNoValue;
    Shape shape{bias->count()};
    for (int i = 2; i < rank; ++i) shape.push_back(1);
    const Tensor reshaped = bias->reshaped(shape);
    return graph_.add_constant(graph_.value(node.inputs[2]).name + "_reshaped", reshaped);
  }

  QuantJob& job_;
  Graph& graph_;
  DType dtype_;
  Granularity granularity_;
  std::map<ValueId, Activation> activations_;
  std::map<std::pair<ValueId, bool>, Weight> weights_;
};

}  // namespace

void quantize_dynamic(QuantJob& job) {
  for_each_scope(job, [](QuantJob& scope, Candidates found) {
    DynamicQuantizer(scope).run(std::move(found));
  });
}

}  // namespace compress
