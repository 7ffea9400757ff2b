// Which mode suits a model, and the defaults that depend on it.
#include <algorithm>
#include <charconv>
#include <functional>

#include "compress/core/nearest.h"
#include "compress/error.h"
#include "compress/graph/label.h"
#include "passes/edit.h"
#include "passes/quantize/linear.h"
#include "passes/quantize/target.h"
#include "passes/weights.h"

namespace compress {
namespace {

// What the weights of the float model are spent on.
struct Census {
  int64_t conv = 0;
  int64_t product = 0;
  int64_t table = 0;
  int64_t recurrent = 0;
  int64_t in_bodies = 0;  // products of If, Loop and Scan
  int attention = 0;      // products of two activations, or fused attention
  std::string quantized;  // a node that works on integers already
  bool has_half = false;  // a weight in half precision
};

bool is_quantized_op(const Node& node) {
  for (const char* op : {"QuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger",
                         "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear", "MatMulNBits",
                         "GatherBlockQuantized", "QGemm", "QLinearAdd", "DynamicQuantizeMatMul",
                         "MatMulIntegerToFloat", "DynamicQuantizeLSTM", "QAttention"}) {
    if (node.op_type == op) return true;
  }
  return false;
}

// It would stay in float for its reader there, so static quantization does not count with it.
bool is_captured(const Graph& graph, ValueId id) {
  const auto uses = graph.uses(id);
  return std::any_of(uses.begin(), uses.end(), [&](const Use& use) {
    return static_cast<size_t>(use.slot) >= graph.node(use.node).inputs.size();
  });
}

// `constant`: what a value of the graph is, nullptr for none.
void count_bodies(const Graph& graph, const std::function<const Tensor*(ValueId)>& constant,
                  Census& out) {
  for (const NodeId id : graph.order()) {
    for (const Body& body : graph.node(id).bodies) {
      const Graph& inner = *body.graph;
      const auto inner_constant = [&](ValueId value) -> const Tensor* {
        if (inner.value(value).is_constant()) return &inner.value(value).constant;
        for (const Body::Capture& capture : body.captures) {
          if (capture.inner == value) return constant(capture.outer);
        }
        return nullptr;
      };
      for (const NodeId read : inner.order()) {
        const Node& node = inner.node(read);
        if (is_quantized_op(node) && out.quantized.empty()) {
          out.quantized = describe(inner, node);
        }
        if ((!node.is("MatMul") && !node.is("Gemm")) || operand(node, 1) == kNoValue) continue;
        const Tensor* weight = inner_constant(node.inputs[1]);
        if (weight != nullptr && is_float(weight->dtype())) out.in_bodies += weight->count();
      }
      count_bodies(inner, inner_constant, out);
    }
  }
}

Census take_census(const Model& model) {
  Census out;
  const Graph& graph = model.graph;
  for (const NodeId id : graph.order()) {
    const Node& node = graph.node(id);
    if (is_quantized_op(node) && out.quantized.empty()) {
      out.quantized = describe(graph, node);
    }
    if (node.is("MatMul") && !graph.constant_input(node, 1) && !graph.constant_input(node, 0)) {
      Linear linear;
      out.attention += read_linear(model, id, linear) == "both inputs are activations";
    }
    out.attention += node.op_type.find("Attention") != std::string::npos;
    if (node.is("LSTM")) {
      for (const size_t slot : {size_t{1}, size_t{2}}) {
        if (const Tensor* weight = graph.constant_input(node, slot))
          out.recurrent += weight->count();
      }
    }
    const bool is_conv = node.is("Conv") || node.is("ConvTranspose");
    const bool is_product = node.is("MatMul") || node.is("Gemm");
    const bool is_table = node.is("Gather");
    if (!is_conv && !is_product && !is_table) continue;
    const Tensor* weight = graph.constant_input(node, is_table ? 0 : 1);
    if (weight == nullptr || !is_float(weight->dtype())) continue;
    out.has_half = out.has_half || is_half(weight->dtype());
    if (is_product && is_captured(graph, node.inputs[1])) continue;
    (is_conv ? out.conv : is_product ? out.product : out.table) += weight->count();
  }
  count_bodies(
      graph, [&](ValueId id) { return constant_of(model, id); }, out);
  return out;
}

}  // namespace

bool is_transformer(const Model& model) {
  const Census census = take_census(model);
  return census.attention > 0 && census.product + census.table > census.conv;
}

bool has_half_weights(const Model& model) { return take_census(model).has_half; }

std::string_view mode_name(QuantMode mode) {
  switch (mode) {
    case QuantMode::static_:
      return "static";
    case QuantMode::dynamic:
      return "dynamic";
    case QuantMode::weight_only:
      return "weight-only";
    case QuantMode::half:
      return "half";
    case QuantMode::none:
      break;
  }
  return "none";
}

ModeChoice choose_mode(const Model& model, const Options& options, bool has_data) {
  const Census census = take_census(model);
  if (!census.quantized.empty()) {
    return {QuantMode::none, "already quantized: " + census.quantized};
  }
  if (options.has("mode")) {
    const std::string mode = options.text("mode");
    if (mode == "float16" || mode == "bfloat16") return {QuantMode::half, "asked for"};
    const QuantMode asked = mode == "static"    ? QuantMode::static_
                            : mode == "dynamic" ? QuantMode::dynamic
                                                : QuantMode::weight_only;
    return {asked, "asked for"};
  }
  if (!target_of(options).has_integer_kernels) {
    if (is_transformer(model)) {
      return {QuantMode::weight_only, "products by int4 blocks; no integer kernels for Q/DQ there"};
    }
    return {QuantMode::half, "no integer kernels for Q/DQ there: float16"};
  }
  if (is_transformer(model)) {
    if (has_data) {
      return {
          QuantMode::dynamic,
          "a transformer: activation ranges vary with the input, so they are taken at run time"};
    }
    return {QuantMode::weight_only, "a transformer without calibration data"};
  }
  if (has_data &&
      census.recurrent + census.in_bodies > census.conv + census.product + census.table) {
    return {QuantMode::dynamic,
            census.recurrent > census.in_bodies
                ? "mostly LSTM, whose integer kernels take ranges at run time"
                : "mostly products in bodies of loops, whose ranges are taken at run time"};
  }
  if (has_data) return {QuantMode::static_, "convolutions or dense layers, with calibration data"};
  return {QuantMode::weight_only,
          "no calibration data; with --data, static quantization would be smaller and faster"};
}

Granularity granularity_of(const Options& options, QuantMode mode) {
  Granularity out;
  out.kind = mode == QuantMode::weight_only ? Granularity::block : Granularity::channel;
  out.block_size = mode == QuantMode::weight_only ? 32 : 0;
  if (!options.has("granularity")) return out;
  const std::string text = options.text("granularity");
  if (text == "tensor" || text == "channel") {
    return {text == "tensor" ? Granularity::tensor : Granularity::channel, 0};
  }
  int64_t block = 0;
  if (text.rfind("block:", 0) == 0) {
    const auto [end, error] = std::from_chars(text.data() + 6, text.data() + text.size(), block);
    const bool is_power = block >= 16 && block <= 4096 && (block & (block - 1)) == 0;
    if (error == std::errc() && end == text.data() + text.size() && is_power) {
      if (mode != QuantMode::weight_only) {
        fail(ErrorCode::usage, "--granularity {} is for --mode weight-only", text);
      }
      return {Granularity::block, block};
    }
    fail(ErrorCode::usage, "--granularity {}: a block is a power of two from 16 to 4096", text);
  }
  constexpr std::string_view kNames[] = {"tensor", "channel", "block:32"};
  fail(ErrorCode::usage, "--granularity cannot be '{}'{}", text, suggestion(text, kNames));
}

DType weight_dtype(const Options& options, QuantMode mode) {
  if (!options.has("weights")) {
    return mode == QuantMode::weight_only ? DType::int4 : DType::int8;
  }
  std::string name = options.text("weights");
  if (name == "int3" || name == "uint3") name.back() = '4';  // ONNX has no type of 3 bits
  const DType dtype = find_dtype(name)->dtype;
  const bool fits = info(dtype).bits == 8 || mode == QuantMode::weight_only ||
                    (mode == QuantMode::static_ && dtype == DType::int4 && name.back() == '4');
  if (!fits || (options.text("weights") == "int3" && mode != QuantMode::weight_only)) {
    fail(ErrorCode::usage, "--weights {} is for --mode weight-only; {} takes {}",
         options.text("weights"), mode_name(mode),
         mode == QuantMode::static_ ? "int8 or int4" : "int8");
  }
  return dtype;
}

int weight_bits(const Options& options, QuantMode mode) {
  if (options.has("weights") && options.text("weights").back() == '3') return 3;
  return info(weight_dtype(options, mode)).bits;
}

}  // namespace compress
