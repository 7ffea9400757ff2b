// Static quantization in QDQ form: uint8 activations with calibrated ranges, int8 weights, int32
// biases. static_plan says where; here the graph is rewritten. Names follow ONNX Runtime's
// quantizer, since other tools match on them.
#include <algorithm>
#include <cfloat>
#include <cmath>

#include "compress/error.h"
#include "compress/ops/op.h"
#include "compress/quant/range.h"
#include "passes/edit.h"
#include "passes/quantize/integer_bias.h"
#include "passes/quantize/linear.h"
#include "passes/quantize/mean_error.h"
#include "passes/quantize/pack.h"
#include "passes/quantize/precision.h"
#include "passes/quantize/static_plan.h"
#include "passes/quantize/target.h"
#include "passes/recover/recover_static.h"
#include "passes/recover/round_blocks.h"
#include "passes/types.h"

namespace compress {
namespace {

constexpr int64_t kBiasMax = 0x7FFFFFFF;

CalibratorOptions calibrator_options(const Options& options, DType dtype) {
  CalibratorOptions out;
  out.percentile = options.number("percentile");
  out.bits = info(dtype).bits;
  out.symmetric = symmetric_activations(options);
  return out;
}

class StaticQuantizer {
 public:
  explicit StaticQuantizer(QuantJob& job)
      : job_(job),
        graph_(job.model.graph),
        target_(target_of(job.options)),
        weight_dtype_(weight_dtype(job.options, QuantMode::static_)),
        activation_dtype_(activation_dtype(job.options)),
        symmetric_(symmetric_activations(job.options)),
        by_channel_(granularity_of(job.options, QuantMode::static_).kind == Granularity::channel &&
                    job.model.opset() >= 13),
        rounds_anew_(recover_options(job.options).rounding != Rounding::nearest) {}

  void run() {
    if (job_.model.opset() < 10) {
      return job_.skip("",
                       fmt::format("Q/DQ needs opset 10, the model has {}", job_.model.opset()));
    }
    if (!by_channel_ && job_.model.opset() < 13) {
      job_.skip("", fmt::format("opset {}: scales per tensor, since DequantizeLinear has no axis "
                                "before 13",
                                job_.model.opset()));
    }
    if (job_.model.opset() < 21) {
      narrow_types_to_opset();
    }
    infer_known_types(job_.model);
    make_plan();
    choose_parameters();
    find_inputs();
    record();
    for (const Unit& unit : plan_.units) {
      in_context([&] { return fmt::format("while quantizing {}", graph_.node(unit.node).name); },
                 [&] { rewrite(unit); });
    }
    insert_pairs();
    for (const NodeId id : plan_.tables) {
      Table table;
      if (!read_table(job_.model, id, table).empty()) continue;
      quantize_table(job_, table, info(weight_dtype_).bits == 8 ? weight_dtype_ : DType::int8);
      ++job_.quantized;
    }
  }

 private:
  // --- Plan and ranges --------------------------------------------------------------------------

  // Plans anew without the values that turn out to have no usable statistics.
  void make_plan() {
    std::set<ValueId> banned;
    for (;;) {
      plan_ = plan_static(job_.model, job_.options, job_.selection, banned);
      const size_t before = banned.size();
      for (const ValueId id : plan_.quantized) {
        if (plan_.root.count(id) == 0 && !has_range(id)) banned.insert(id);
      }
      if (banned.size() == before) break;
    }
    for (Skipped& row : plan_.skipped) job_.result.skipped.push_back(std::move(row));
  }

  bool is_softmax(ValueId id) const {
    const NodeId producer = graph_.value(id).producer;
    return producer != kNoNode && graph_.node(producer).is("Softmax");
  }

  bool has_range(ValueId id) const {
    if (is_softmax(id)) return true;
    if (job_.statistics == nullptr) return false;
    const auto row = job_.statistics->values.find(graph_.value(id).name);
    return row != job_.statistics->values.end() && row->second.finite && row->second.count > 0;
  }

  // Q/DQ of 4 and 16 bits came with opset 21; where the model could not be lifted, 8 bits do.
  void narrow_types_to_opset() {
    has_all_types_ = false;
    const DType weights = weight_dtype_, activations = activation_dtype_;
    weight_dtype_ = allowed(weights);
    activation_dtype_ = allowed(activations);
    if (weights != weight_dtype_ || activations != activation_dtype_) {
      job_.skip("", fmt::format("opset {}: 8 bits, since Q/DQ of 4 and 16 bits needs 21",
                                job_.model.opset()));
    }
  }

  DType allowed(DType dtype) const {
    if (has_all_types_ || info(dtype).bits == 8) return dtype;
    return info(dtype).is_signed ? DType::int8 : DType::uint8;
  }

  // --- What --override says of single nodes -----------------------------------------------------

  const Precision* precision_of(const Node& node) const {
    return job_.overrides == nullptr ? nullptr : job_.overrides->find(graph_, node);
  }

  DType weight_dtype_of(const Node& node) const {
    const Precision* own = precision_of(node);
    return own == nullptr || own->weights.empty() ? weight_dtype_
                                                  : allowed(find_dtype(own->weights)->dtype);
  }

  bool is_by_channel(const Node& node) const {
    const Precision* own = precision_of(node);
    if (own == nullptr || own->granularity.empty()) return by_channel_;
    return own->granularity == "channel" && job_.model.opset() >= 13;
  }

  // A value has one type: 16 bits where any unit beside it wants them.
  void choose_activation_types() {
    for (const Unit& unit : plan_.units) {
      const Precision* own = precision_of(graph_.node(unit.node));
      if (own == nullptr || own->activations.empty()) continue;
      const DType dtype = allowed(find_dtype(own->activations)->dtype);
      std::vector<ValueId> values = unit.inputs;
      values.push_back(unit.output);
      for (const ValueId id : values) {
        const auto root = plan_.root.find(id);
        DType& chosen =
            activation_types_.try_emplace(root == plan_.root.end() ? id : root->second, dtype)
                .first->second;
        if (info(dtype).bits > info(chosen).bits) chosen = dtype;
      }
    }
  }

  DType activation_dtype_of(ValueId id) const {
    const auto row = activation_types_.find(id);
    return row == activation_types_.end() ? activation_dtype_ : row->second;
  }

  struct Parameters {
    DType dtype = DType::uint8;
    ScaleZeroPoint q;
    ValueId scale = kNoValue;  // constants, made when first used
    ValueId zero_point = kNoValue;
    std::string name;
  };

  void choose_parameters() {
    const CalibratorDef& calibrator = find_calibrator(job_.options.text("calibrator"));
    choose_activation_types();
    for (const ValueId id : plan_.quantized) {
      if (plan_.root.count(id) > 0) continue;
      const DType dtype = activation_dtype_of(id);
      const CalibratorOptions options = calibrator_options(job_.options, dtype);
      Range range{0, 1};
      if (!is_softmax(id)) {
        range = calibrator.range(job_.statistics->values.at(graph_.value(id).name), options);
      }
      parameters_[id] = {dtype, choose_scale(range.min, range.max, dtype, symmetric_), kNoValue,
                         kNoValue, graph_.value(id).name};
    }
  }

  // By the names of now: values that activations are absorbed into lose theirs.
  void find_inputs() {
    for (const Unit& unit : plan_.units) {
      if (!unit.has_weights || job_.statistics == nullptr) continue;
      const auto row = job_.statistics->values.find(graph_.value(unit.inputs[0]).name);
      if (row != job_.statistics->values.end()) input_statistics_[unit.node] = &row->second;
    }
  }

  void record() {
    StaticTrace& trace = job_.trace;
    trace.root = plan_.root;
    for (const auto& [id, p] : parameters_) {
      trace.activations[id] = {p.dtype, symmetric_, {}, 0, {p.q.scale}, {p.q.zero_point}};
    }
    for (const Unit& unit : plan_.units) {
      StaticTrace::Step step{unit.node, unit.has_weights, unit.inputs};
      if (!unit.output_optional) {
        const auto& outputs = graph_.node(unit.node).outputs;
        step.values.insert(step.values.end(), outputs.begin(), outputs.end());
        step.values.push_back(unit.output);
      }
      trace.steps.push_back(std::move(step));
    }
    for (const NodeId id : plan_.tables) trace.steps.push_back({id, true, {}});
  }

  Parameters& parameters_of(ValueId id) {
    const auto root = plan_.root.find(id);
    return parameters_.at(root == plan_.root.end() ? id : root->second);
  }

  void make_constants(Parameters& p) {
    if (p.scale != kNoValue) return;
    p.scale = graph_.add_constant(p.name + "_scale", Tensor::scalar(p.q.scale));
    const QuantParams params{p.dtype, symmetric_, {}, 0, {}, {p.q.zero_point}};
    p.zero_point = graph_.add_constant(p.name + "_zero_point", zero_point_tensor(params, {}));
  }

  // --- Nodes ------------------------------------------------------------------------------------

  void rewrite(const Unit& unit) {
    ++job_.quantized;
    if (unit.has_weights) {
      quantize_weight(unit);
      job_.layers.push_back(unit.node);
    } else {
      for (size_t slot = 0; slot < unit.inputs.size(); ++slot) {
        if (graph_.value(unit.inputs[slot]).is_constant()) quantize_operand(unit.node, slot);
      }
    }
    if (unit.activation != kNoNode) absorb_activation(unit);
  }

  // Depthwise weights are few and have no sum to even out their errors, and the first layer's
  // errors reach all others: of int4 weights these stay int8.
  bool is_narrow(const Node& node, const Tensor& weight) const {
    const Precision* own = precision_of(node);
    if (own != nullptr && !own->weights.empty()) return info(weight_dtype_of(node)).bits < 8;
    const bool depthwise = node.is("Conv") && node.int_or("group", 1) > 1 && weight.shape()[1] == 1;
    return info(weight_dtype_).bits < 8 && !depthwise && !job_.layers.empty() &&
           job_.model.opset() >= 21;
  }

  QuantParams weight_parameters(const Node& node, const Tensor& weight) const {
    std::optional<int> axis;
    const DType dtype = weight_dtype_of(node);
    const bool by_channel = is_by_channel(node);
    if (by_channel) axis = node.is("Conv") || node.int_or("transB", 0) != 0 ? 0 : 1;
    if (is_narrow(node, weight)) return clipped_params(weight, dtype, axis);
    const bool reduce_range = job_.options.flag("reduce-range");
    if (info(dtype).bits < 8) {
      return weight_params(weight, DType::int8, true, axis, 0, reduce_range);
    }
    const bool symmetric = info(dtype).is_signed || by_channel;
    return weight_params(weight, dtype, symmetric, axis, 0, reduce_range);
  }

  void quantize_weight(const Unit& unit) {
    const Node node = graph_.node(unit.node);
    const Tensor weight = graph_.value(node.inputs[1]).constant;
    QuantParams params = weight_parameters(node, weight);
    const float input_scale = parameters_of(unit.inputs[0]).q.scale;
    const bool takes_bias = node.is("Conv") || node.is("Gemm");
    const Tensor* bias = takes_bias ? graph_.constant_input(node, 2) : nullptr;
    const bool integer_bias =
        target_.integer_bias && bias != nullptr && bias->dtype() == DType::float32 &&
        node.float_or("beta", 1) == 1 &&
        (params.scales.size() == 1 || bias->count() == static_cast<int64_t>(params.scales.size()));
    std::vector<double> biases;
    if (integer_bias) biases = bias->to_doubles();
    repair_scales(weight, params, biases, input_scale);
    const Tensor quantized = quantize(weight, params);
    if (integer_bias) {
      correct_biases(unit.node, weight, compress::dequantize(quantized, params), biases);
    } else if (node.is("MatMul")) {
      correct_added_bias(unit.node, weight, compress::dequantize(quantized, params));
    }

    const std::string name = graph_.value(node.inputs[1]).name;
    const Shape shape = params.axis ? Shape{static_cast<int64_t>(params.scales.size())} : Shape();
    NodeSpec spec{"DequantizeLinear",
                  {graph_.add_constant(name + "_quantized", quantized),
                   graph_.add_constant(name + "_scale", scale_tensor(params, shape)),
                   graph_.add_constant(name + "_zero_point", zero_point_tensor(params, shape))},
                  {name + "_DequantizeLinear_Output"},
                  {},
                  name + "_DequantizeLinear"};
    if (params.axis) spec.attributes.push_back({"axis", int64_t{*params.axis}, ""});
    if (info(params.dtype).bits < 8) {
      job_.model.ir_version = std::max<int64_t>(job_.model.ir_version, 10);
    }
    const NodeId dequantize = graph_.insert_before(unit.node, std::move(spec));
    graph_.set_input(unit.node, 1, graph_.node(dequantize).outputs[0]);
    if (integer_bias) quantize_bias(unit.node, biases, params, input_scale);
  }

  // Takes what rounding of the weights adds to the output's mean out of the bias; where the weights
  // are rounded anew, that is done then.
  void correct_biases(NodeId node, const Tensor& weight, const Tensor& rounded,
                      std::vector<double>& biases) {
    const auto input = input_statistics_.find(node);
    if (input == input_statistics_.end() || rounds_anew_) return;
    const std::vector<double> error = mean_error(job_.model, node, weight, rounded, *input->second);
    if (error.size() != biases.size()) return;
    for (size_t c = 0; c < biases.size(); ++c) biases[c] -= error[c];
    job_.result.details["bias_corrected_layers"] = ++corrected_;
  }

  // The same where a MatMul's bias is an Add of its own.
  void correct_added_bias(NodeId node, const Tensor& weight, const Tensor& rounded) {
    if (rounds_anew_ || weight.shape().rank() != 2) return;
    const auto bias = added_bias(graph_, node, weight.shape()[1]);
    if (!bias) return;
    std::vector<double> shift(static_cast<size_t>(weight.shape()[1]), 0);
    const int64_t before = corrected_;
    correct_biases(node, weight, rounded, shift);
    if (corrected_ > before) shift_added_bias(graph_, *bias, shift);
  }

  // A channel of zeros has no scale of its own: it takes the smallest of the others, so that its
  // bias stays fine. And where a bias would overflow int32, the weight scale is raised until it
  // fits.
  static void repair_scales(const Tensor& weight, QuantParams& params,
                            const std::vector<double>& biases, float input_scale) {
    if (params.axis) {
      const TensorData data = weight.read();
      const float* w = data.view().as<const float>();
      const Shape& shape = weight.shape();
      const int64_t inner = shape.count(*params.axis + 1, shape.rank());
      const int64_t channels = shape[*params.axis];
      std::vector<char> is_zero(static_cast<size_t>(channels), 1);
      for (int64_t i = 0; i < weight.count(); ++i) {
        if (w[i] != 0) is_zero[static_cast<size_t>(i / inner % channels)] = 0;
      }
      float smallest = 0;
      for (size_t c = 0; c < params.scales.size(); ++c) {
        if (!is_zero[c] && (smallest == 0 || params.scales[c] < smallest))
          smallest = params.scales[c];
      }
      for (size_t c = 0; c < params.scales.size(); ++c) {
        if (is_zero[c] && smallest > 0) params.scales[c] = smallest;
      }
    }
    for (size_t c = 0; c < params.scales.size(); ++c) {
      double largest = 0;
      for (size_t i = params.scales.size() == 1 ? 0 : c; i < biases.size(); ++i) {
        largest = std::max(largest, std::fabs(biases[i]));
        if (params.scales.size() > 1) break;
      }
      const double least =
          1.0001 * std::max(largest / static_cast<double>(kBiasMax), double{FLT_MIN});
      if (static_cast<double>(params.scales[c]) * input_scale < least) {
        params.scales[c] = static_cast<float>(least / input_scale);
      }
    }
  }

  void quantize_bias(NodeId node, const std::vector<double>& biases, const QuantParams& params,
                     float input_scale) {
    const Value& old = graph_.value(graph_.node(node).inputs[2]);
    const std::string name = old.name;
    const Shape shape = old.constant.shape();
    add_integer_bias(graph_, node, name, biases, shape, params.scales, input_scale);
  }

  // A constant that Add, Mul or Concat reads: integers with the range of what it holds.
  void quantize_operand(NodeId node, size_t slot) {
    const ValueId old = graph_.node(node).inputs[slot];
    auto [row, is_new] = operands_.try_emplace(old, kNoValue);
    if (is_new) {
      const Tensor tensor = graph_.value(old).constant;
      const std::string name = graph_.value(old).name;
      const QuantParams params = weight_params(tensor, activation_dtype_, symmetric_, {});
      NodeSpec spec{"DequantizeLinear",
                    {graph_.add_constant(name + "_quantized", quantize(tensor, params)),
                     graph_.add_constant(name + "_scale", scale_tensor(params, {})),
                     graph_.add_constant(name + "_zero_point", zero_point_tensor(params, {}))},
                    {name + "_DequantizeLinear_Output"},
                    {},
                    name + "_DequantizeLinear"};
      row->second = graph_.node(graph_.insert_before(node, std::move(spec))).outputs[0];
    }
    graph_.set_input(node, slot, row->second);
  }

  // Saturation to [0, 255] does what the activation did where the integers reach no further than it
  // lets through.
  void absorb_activation(const Unit& unit) {
    const Node& node = graph_.node(unit.activation);
    const Parameters& p = parameters_of(unit.output);
    const IntegerRange range = integer_range(p.dtype, symmetric_);
    const double low = static_cast<double>(dequantize_value(range.min, p.q.scale, p.q.zero_point));
    const double high = static_cast<double>(dequantize_value(range.max, p.q.scale, p.q.zero_point));
    const auto [min, max] = bounds(node);
    const double slack = 1e-5 * (high - low);
    if (low < min - slack || high > max + slack) {
      return job_.skip(unit.activation,
                       "its bounds lie inside the quantized range, so it stays a node and its "
                       "producer may run in float");
    }
    const ValueId from = graph_.node(unit.node).outputs[0];
    absorb(graph_, unit.activation, from);
    moved_[unit.output] = from;
    ++absorbed_;
    job_.result.details["absorbed_activations"] = absorbed_;
  }

  std::pair<double, double> bounds(const Node& node) const {
    double min = node.is("Relu") ? 0 : -HUGE_VAL;
    double max = HUGE_VAL;
    if (node.is("Relu")) return {min, max};
    if (job_.model.opset() < 11) {
      return {node.float_or("min", -FLT_MAX), node.float_or("max", FLT_MAX)};
    }
    if (const Tensor* bound = graph_.constant_input(node, 1)) min = bound->to_double();
    if (const Tensor* bound = graph_.constant_input(node, 2)) max = bound->to_double();
    return {min, max};
  }

  // --- Q/DQ -------------------------------------------------------------------------------------

  ValueId now(ValueId id) const {
    const auto row = moved_.find(id);
    return row == moved_.end() ? id : row->second;
  }

  void insert_pairs() {
    std::set<NodeId> integer_nodes;
    for (const Unit& unit : plan_.units) {
      integer_nodes.insert(unit.node);
      for (const ValueId id : unit.inputs) operands_read_[unit.node].insert(now(id));
    }
    for (const ValueId planned : plan_.quantized) {
      Parameters& p = parameters_of(planned);
      make_constants(p);
      const ValueId id = now(planned);
      const NodeId producer = graph_.value(id).producer;
      const bool from_integers =
          target_.quantizes_outputs && producer != kNoNode &&
          (integer_nodes.count(producer) > 0 || is_kept_activation(producer, integer_nodes));
      insert_pair(id, p, from_integers, integer_nodes);
    }
  }

  // A Relu or Clip of an integer node that could not be absorbed: its output still is the unit's.
  bool is_kept_activation(NodeId id, const std::set<NodeId>& integer_nodes) const {
    const Node& node = graph_.node(id);
    if (!node.is("Relu") && !node.is("Clip")) return false;
    const NodeId before = graph_.value(node.inputs[0]).producer;
    return before != kNoNode && integer_nodes.count(before) > 0;
  }

  // What `id` reads as behind QuantizeLinear and DequantizeLinear of its own.
  ValueId add_pair(ValueId id, const Parameters& p) {
    const std::string name = graph_.value(id).name;
    const NodeId quantize = graph_.add({"QuantizeLinear",
                                        {id, p.scale, p.zero_point},
                                        {name + "_QuantizeLinear_Output"},
                                        {},
                                        name + "_QuantizeLinear"});
    const NodeId dequantize = graph_.add({"DequantizeLinear",
                                          {graph_.node(quantize).outputs[0], p.scale, p.zero_point},
                                          {name + "_DequantizeLinear_Output"},
                                          {},
                                          name + "_DequantizeLinear"});
    const ValueId out = graph_.node(dequantize).outputs[0];
    graph_.set_type(out, graph_.value(id).type);
    return out;
  }

  // Of a sum, one operand may be left in float.
  bool reads_integers(const Use& use) const {
    const auto row = operands_read_.find(use.node);
    return row != operands_read_.end() &&
           row->second.count(graph_.node(use.node).inputs[static_cast<size_t>(use.slot)]) > 0;
  }

  // Readers of what integer nodes make all read the dequantized value: the float one is never
  // stored. Of other values only integer nodes do, so that float readers lose nothing.
  void insert_pair(ValueId id, const Parameters& p, bool from_integers,
                   const std::set<NodeId>& integer_nodes) {
    const std::string name = graph_.value(id).name;
    const auto uses = graph_.uses(id);
    const std::vector<Use> readers(uses.begin(), uses.end());
    if (target_.dedicated_pairs) {
      for (const Use& use : readers) {
        if (integer_nodes.count(use.node) == 0 || !reads_integers(use)) continue;
        graph_.set_input(use.node, static_cast<size_t>(use.slot), add_pair(id, p));
      }
      return;
    }
    const ValueId out = add_pair(id, p);
    const NodeId quantize =
        graph_.value(graph_.node(graph_.value(out).producer).inputs[0]).producer;
    if (!from_integers) {
      for (const Use& use : readers) {
        if (integer_nodes.count(use.node) > 0 && reads_integers(use)) {
          graph_.set_input(use.node, static_cast<size_t>(use.slot), out);
        }
      }
      return;
    }
    const bool is_output = graph_.is_output(id);
    graph_.replace_uses(id, out);
    graph_.set_input(quantize, 0, id);
    if (is_output) {
      graph_.rename(id, graph_.unique_value_name(name + "_QuantizeLinear_Input"));
    }
  }

  QuantJob& job_;
  Graph& graph_;
  const Target& target_;
  DType weight_dtype_;
  DType activation_dtype_;
  bool symmetric_;
  bool by_channel_;
  bool has_all_types_ = true;  // of Q/DQ, by the opset
  bool rounds_anew_;
  int64_t absorbed_ = 0, corrected_ = 0;
  StaticPlan plan_;
  std::map<ValueId, DType> activation_types_;  // where --override says so
  std::map<ValueId, Parameters> parameters_;
  std::map<ValueId, ValueId> operands_;
  std::map<NodeId, const Statistics*> input_statistics_;  // of the data that layers read
  std::map<NodeId, std::set<ValueId>> operands_read_;     // by integer nodes, as integers
  std::map<ValueId, ValueId> moved_;  // outputs of absorbed activations -> of their producers
};

// Whether values fit into float16.
void want_ranges(const Model& model, StatisticsRequests& wanted) {
  const Graph& graph = model.graph;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && !value.is_constant() && value.producer != kNoNode &&
        value.type.dtype == DType::float32) {
      wanted[value.name];
    }
  }
}

}  // namespace

void quantize_static(QuantJob& job) { StaticQuantizer(job).run(); }

StatisticsRequests quantize_wants(const Model& model, const Options& options) {
  StatisticsRequests wanted;
  const QuantMode mode = choose_mode(model, options, true).mode;
  if (mode == QuantMode::none) return wanted;
  if (half_dtype(options) == DType::float16) want_ranges(model, wanted);
  const Overrides overrides(options);
  const bool by_default = mode == QuantMode::static_;
  if (!by_default && !overrides.has(QuantMode::static_)) return wanted;
  const Options of_static = by_default ? options : options_for(options, parse_precision("static"));
  Selection selection(of_static);
  restrict_to_static(selection, model.graph, overrides, by_default);
  const bool histogram = find_calibrator(options.text("calibrator")).needs_histogram;
  const StaticPlan plan = plan_static(model, of_static, selection, {});
  for (const ValueId id : plan.quantized) {
    if (plan.root.count(id) > 0) continue;
    StatisticsRequest request;
    request.histogram = histogram;
    wanted[model.graph.value(id).name] = request;
  }
  for (const Unit& unit : plan.units) {
    if (!unit.has_weights) continue;
    const StatisticsRequest of_mean = mean_error_wants(model.graph.node(unit.node));
    StatisticsRequest& request = wanted[model.graph.value(unit.inputs[0]).name];
    request.channel_sum = of_mean.channel_sum;
    request.channel_axis = of_mean.channel_axis;
  }
  return wanted;
}

}  // namespace compress
