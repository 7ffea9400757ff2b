// Training graphs: convolutions whose weights change, and gradients, become library kernels on
// channels-last values; products whose second operand changes become products of matrices.
#include <algorithm>
#include <array>

#include "compress/ops/gradient_families.h"
#include "compress/runtime/lower.h"
#include "compress/runtime/lower_internal.h"
#include "compress/runtime/lower_patterns.h"

namespace compress::runtime {
namespace {

bool is_float(const Graph& graph, ValueId id) {
  return id != kNoValue && graph.value(id).type.dtype == DType::float32;
}

bool varies(const Graph& graph, ValueId id) {
  return is_float(graph, id) && !graph.value(id).is_constant();
}

class TrainingLowering {
 public:
  explicit TrainingLowering(Graph& graph) : graph_(graph) {}

  void run() {
    const std::vector<NodeId> order = graph_.order();
    for (const NodeId id : order) {
      const Node& node = graph_.node(id);
      if (!node.alive || node.inputs.size() < 2) continue;
      if (node.is("Gemm")) {
        lower_gemm(id);
      } else if (node.is("Conv")) {
        lower_conv(id);
      } else if (node.is("ElementGradient", kGradientDomain)) {
        fuse_relu_pool(id);
      } else if (node.domain == kGradientDomain) {
        lower_gradient(id);
      }
    }
  }

 private:
  void lower_conv(NodeId id) {
    const Node node = graph_.node(id);
    if (!varies(graph_, node.inputs[1]) || rank_of(graph_, node.inputs[1]) != 4) return;
    if (!is_float(graph_, node.inputs[0]) || rank_of(graph_, node.outputs[0]) != 4) return;
    std::vector<Attribute> attributes = node.attributes;
    std::vector<NodeId> parts = {id};
    ValueId out = node.outputs[0];
    const NodeId reader = only_reader(graph_, out);
    if (reader != kNoNode) {
      if (const auto bounds = bounds_of(graph_, graph_.node(reader))) {
        attributes.push_back({kLo, bounds->lo, ""});
        attributes.push_back({kHi, bounds->hi, ""});
        out = graph_.node(reader).outputs[0];
        parts.push_back(reader);
      }
    }
    replace_parts(graph_, "TrainConv", node.inputs, std::move(attributes), out, parts);
  }

  // The rows of the gradients' own domain for float images; others stay with the reference.
  void lower_gradient(NodeId id) {
    constexpr std::array<std::string_view, 3> kRows = {"ConvDataGradient", "ConvWeightGradient",
                                                       "MaxPoolGradient"};
    const Node& node = graph_.node(id);
    if (std::find(kRows.begin(), kRows.end(), node.op_type) == kRows.end()) return;
    if (!is_float(graph_, node.inputs[0]) || rank_of(graph_, node.inputs[0]) != 4) return;
    graph_.edit(id).domain = kInternalDomain;
  }

  // Relu, then MaxPool: what the pool's gradient gives to a maximum that is no more than 0, the
  // slope of Relu takes away, and both look at the same value.
  void fuse_relu_pool(NodeId id) {
    const Node node = graph_.node(id);
    if (node.string_or("of", "") != "Relu") return;
    const NodeId pool = producer_of(graph_, node.inputs[0], "MaxPoolGradient");
    if (pool == kNoNode || graph_.node(pool).domain != kInternalDomain) return;
    if (only_reader(graph_, node.inputs[0]) != id) return;
    if (graph_.node(pool).inputs[1] != node.inputs[1]) return;
    graph_.edit(pool).set_attribute("relu", int64_t{1});
    add_origin(graph_, pool, pool);
    add_origin(graph_, pool, id);
    graph_.replace_uses(node.outputs[0], node.inputs[0]);
    graph_.erase(id);
  }

  // alpha A' B' + beta C with B no constant.
  void lower_gemm(NodeId id) {
    const Node node = graph_.node(id);
    if (!varies(graph_, node.inputs[1]) || !is_float(graph_, node.inputs[0])) return;
    if (rank_of(graph_, node.inputs[0]) != 2 || rank_of(graph_, node.inputs[1]) != 2) return;
    const float beta = node.float_or("beta", 1.0f);
    const bool has_c = node.inputs.size() > 2 && node.inputs[2] != kNoValue;
    if (has_c && beta != 1.0f) return;
    ValueId a = node.inputs[0];
    if (node.int_or("transA", 0) != 0) a = transposed(id, a);
    const ValueId out = node.outputs[0];
    const NodeId product = add_internal(graph_, "MatMul", {a, node.inputs[1]},
                                        {{kTransposed, int64_t{node.int_or("transB", 0) != 0}, ""},
                                         {kAlpha, node.float_or("alpha", 1.0f), ""}},
                                        out);
    ValueId result = graph_.node(product).outputs[0];
    if (has_c) {
      NodeSpec spec{"Add", {result, node.inputs[2]}, {graph_.value(out).name + "/sum"}};
      result = graph_.node(graph_.add(std::move(spec))).outputs[0];
      graph_.set_type(result, graph_.value(out).type);
    }
    add_origin(graph_, product, id);
    graph_.replace_uses(out, result);
    graph_.erase(id);
  }

  ValueId transposed(NodeId before, ValueId a) {
    TypeInfo type = graph_.value(a).type;
    if (type.has_shape) std::swap(type.shape[0], type.shape[1]);
    NodeSpec spec{"Transpose",
                  {a},
                  {graph_.value(a).name + "/transposed"},
                  {{"perm", std::vector<int64_t>{1, 0}, ""}}};
    const ValueId out = graph_.node(graph_.insert_before(before, std::move(spec))).outputs[0];
    graph_.set_type(out, std::move(type));
    return out;
  }

  Graph& graph_;
};

}  // namespace

void lower_training(Graph& graph) { TrainingLowering(graph).run(); }

}  // namespace compress::runtime
