#include "passes/quantize/linear.h"

#include <algorithm>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "passes/edit.h"
#include "passes/quantize/pack.h"

namespace compress {
namespace {

Tensor transposed(const Tensor& tensor) {
  const Shape& shape = tensor.shape();
  Tensor out = Tensor::allocate(DType::float32, {shape[1], shape[0]});
  const TensorData data = tensor.read();
  const float* from = data.view().as<const float>();
  float* to = out.mutable_as<float>().data();
  constexpr int64_t kTile = 32;  // both sides stay in the cache
  parallel_for(0, (shape[1] + kTile - 1) / kTile, 4, [&](int64_t begin, int64_t end) {
    for (int64_t j0 = begin * kTile; j0 < std::min(shape[1], end * kTile); j0 += kTile) {
      for (int64_t i0 = 0; i0 < shape[0]; i0 += kTile) {
        for (int64_t j = j0; j < std::min(shape[1], j0 + kTile); ++j) {
          for (int64_t i = i0; i < std::min(shape[0], i0 + kTile); ++i) {
            to[j * shape[0] + i] = from[i * shape[1] + j];
          }
        }
      }
    }
  });
  return out;
}

// Why an operator that holds weights is not for dynamic and weight-only; "" for others.
std::string unfit_operator(const Node& node) {
  if (node.is("ConvTranspose")) {
    return "no integer kernel for ConvTranspose; --op-types ConvTranspose with --mode weight-only "
           "stores its weights in 8 bits";
  }
  if (node.is("Conv")) {
    return "a convolution becomes slower this way (measured 3 to 10 times); --op-types Conv "
           "insists, --mode static is the fast way";
  }
  if (node.op_type == "Attention" && node.domain == "com.microsoft") {
    return "fused attention stays float";
  }
  if (node.op_type == "EmbedLayerNormalization") return "fused embedding stays float";
  return "";
}

}  // namespace

std::string read_linear(const Model& model, NodeId id, Linear& out) {
  const Graph& graph = model.graph;
  const Node& node = graph.node(id);
  out = {};
  out.node = id;
  out.input = operand(node, 0);
  ValueId weight = operand(node, 1);
  if (out.input == kNoValue || weight == kNoValue) return "an input is missing";
  if (node.is("Gemm")) {
    if (node.float_or("alpha", 1) != 1 || node.int_or("transA", 0) != 0) return "alpha or transA";
    out.bias = operand(node, 2);
    if (out.bias != kNoValue && node.float_or("beta", 1) != 1) return "beta is not 1";
    out.transposed = node.int_or("transB", 0) != 0;
  }
  if (!graph.value(weight).is_constant() && graph.value(weight).producer != kNoNode) {
    const Node& before = graph.node(graph.value(weight).producer);
    const std::vector<int64_t> perm = before.ints_or("perm", {1, 0});
    if (before.is("Transpose") && perm == std::vector<int64_t>{1, 0}) {
      out.transpose = graph.value(weight).producer;
      weight = operand(before, 0);
      out.transposed = !out.transposed;
    }
  }
  if (!graph.value(weight).is_constant()) return "both inputs are activations";
  const Tensor& tensor = graph.value(weight).constant;
  if (tensor.dtype() != DType::float32) {
    return fmt::format("weights of type {}", info(tensor.dtype()).name);
  }
  if (tensor.shape().rank() != 2) return "weights that are no matrix";
  if (graph.value(out.input).is_constant()) return "both inputs are constants";
  out.weight = weight;
  out.k = tensor.shape()[out.transposed ? 1 : 0];
  out.n = tensor.shape()[out.transposed ? 0 : 1];
  return out.k > 0 && out.n > 0 ? "" : "empty weights";
}

std::string read_table(const Model& model, NodeId id, Table& out) {
  const Node& node = model.graph.node(id);
  out = {};
  const Tensor* tensor = model.graph.constant_input(node, 0);
  if (tensor == nullptr) return "its table is no constant";
  if (tensor->dtype() != DType::float32 || tensor->shape().rank() != 2 ||
      node.int_or("axis", 0) != 0) {
    return "no float32 table of rows";
  }
  out = {id, node.inputs[0], operand(node, 1), tensor->shape()[0], tensor->shape()[1]};
  return out.rows > 0 && out.width > 0 && out.indices != kNoValue ? "" : "an empty table";
}

void refresh(const Graph& graph, Linear& linear) {
  const Node& node = graph.node(linear.node);
  linear.input = operand(node, 0);
  linear.bias = node.is("Gemm") ? operand(node, 2) : kNoValue;
}

void refresh(const Graph& graph, Table& table) {
  table.indices = operand(graph.node(table.node), 1);
}

Tensor weight_rows(const Graph& graph, const Linear& linear) {
  const Tensor& tensor = graph.value(linear.weight).constant;
  return linear.transposed ? tensor : transposed(tensor);
}

Tensor weight_columns(const Graph& graph, const Linear& linear) {
  const Tensor& tensor = graph.value(linear.weight).constant;
  return linear.transposed ? transposed(tensor) : tensor;
}

Candidates find_candidates(QuantJob& job) {
  Graph& graph = job.model.graph;
  Candidates found;
  for (const NodeId id : graph.order()) {
    const Node& node = graph.node(id);
    const bool is_product = node.is("MatMul") || node.is("Gemm");
    const bool is_table = node.is("Gather") && graph.constant_input(node, 0) != nullptr &&
                          is_float(graph.constant_input(node, 0)->dtype());
    if (!is_product && !is_table) {
      if (std::string reason = unfit_operator(node); !reason.empty()) {
        if (!job.selection.names_op(node.op_type)) job.skip(id, std::move(reason));
      }
      continue;
    }
    if (!job.selection.wants_op(node.op_type, true)) {
      job.skip(id, "not among --op-types");
      continue;
    }
    if (std::string reason = job.selection.refusal(node); !reason.empty()) {
      job.skip(id, std::move(reason));
      continue;
    }
    Linear linear;
    Table table;
    std::string reason =
        is_product ? read_linear(job.model, id, linear) : read_table(job.model, id, table);
    if (!reason.empty()) {
      job.skip(id, std::move(reason));
    } else if (is_product) {
      found.linears.push_back(linear);
    } else {
      found.tables.push_back(table);
    }
  }
  return found;
}

NodeId replace_node(Graph& graph, NodeId old, NodeSpec spec) {
  const ValueId before = graph.node(old).outputs[0];
  const std::string name = graph.value(before).name;
  const TypeInfo type = graph.value(before).type;
  spec.outputs = {name};
  const NodeId id = graph.insert_before(old, std::move(spec));
  const ValueId after = graph.node(id).outputs[0];
  graph.set_type(after, type);
  graph.replace_uses(before, after);
  graph.erase(old);
  if (graph.value(after).name != name) graph.rename(after, name);
  return id;
}

IntegerWeight integer_weight(const QuantJob& job, const Tensor& constant, bool is_transposed,
                             const IntegerFormat& format) {
  const Shape& stored = constant.shape();
  const Shape shape = is_transposed ? Shape{stored[1], stored[0]} : stored;
  const Shape scales = format.by_column ? Shape{shape[1]} : Shape();
  const auto make = [=] {
    const Tensor columns = is_transposed ? transposed(constant) : constant;
    const QuantParams params =
        weight_params(columns, format.dtype, format.symmetric,
                      format.by_column ? std::optional(1) : std::nullopt, 0, format.reduce_range);
    return std::vector<Tensor>{quantize(columns, params), scale_tensor(params, scales),
                               zero_point_tensor(params, scales)};
  };
  std::vector<Tensor> made =
      job.sizes_only
          ? computed_later({outline(format.dtype, shape), outline(DType::float32, scales),
                            outline(format.dtype, scales)},
                           make)
          : make();
  return {std::move(made[0]), std::move(made[1]), std::move(made[2])};
}

void quantize_table(QuantJob& job, const Table& table, DType dtype) {
  Graph& graph = job.model.graph;
  const std::string name = graph.value(table.weight).name;
  auto [row, is_new] = job.tables.try_emplace(table.weight);
  if (is_new) {
    const IntegerWeight made = integer_weight(job, graph.value(table.weight).constant, false,
                                              {dtype, info(dtype).is_signed, false, false});
    row->second = {graph.add_constant(name + "_quantized", made.quantized),
                   graph.add_constant(name + "_scale", made.scale),
                   graph.add_constant(name + "_zero_point", made.zero_point)};
  }
  const auto [weight, scale, zero] = row->second;
  const std::string node = graph.node(table.node).name;
  const std::string out = graph.value(graph.node(table.node).outputs[0]).name;
  NodeSpec gather{"Gather", {weight, table.indices}, {out + "_quantized"}, {}, node + "_quant"};
  const NodeId id = graph.insert_before(table.node, std::move(gather));
  NodeSpec dequantize{"DequantizeLinear",
                      {graph.node(id).outputs[0], scale, zero},
                      {},
                      {},
                      out + "_DequantizeLinear"};
  replace_node(graph, table.node, std::move(dequantize));
}

}  // namespace compress
