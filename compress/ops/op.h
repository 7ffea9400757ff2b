// The table of operators. One row an operator; every list of operators in the program is a query on
// these rows. `infer` is the truth about types and shapes; `prepare` turns a node with concrete
// shapes into a kernel.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compress/core/tensor.h"
#include "compress/graph/graph.h"
#include "compress/graph/model.h"

namespace compress {

struct OpDef;

// What `infer` and `prepare` see of a node: its attributes, the types of its operands, and those
// contents that are known already (initializers, and what follows from them and from shapes).
class NodeContext {
 public:
  NodeContext(const Node& node, int opset) : node_(node), opset_(opset) {}

  const Node& node() const { return node_; }
  // The version of the operator's domain that the model imports.
  int opset() const { return opset_; }
  int input_count() const { return static_cast<int>(node_.inputs.size()); }
  bool has_input(int i) const;
  bool has_output(int i) const;
  // Of undefined type where the input is omitted.
  const TypeInfo& in(int i) const;
  const Shape& shape(int i) const { return in(i).shape; }
  DType dtype(int i) const { return in(i).dtype; }
  // The content of input i where it is known, else nullptr.
  const Tensor* constant(int i) const;
  // The ints of attribute `name` (old opsets) or of constant input i (newer ones); nullopt where
  // the input is present but not known yet. `fallback` where neither is given.
  std::optional<std::vector<int64_t>> ints(std::string_view attribute, int i,
                                           std::vector<int64_t> fallback = {}) const;
  [[noreturn]] void invalid(std::string_view what) const;      // ErrorCode::invalid_model
  [[noreturn]] void unsupported(std::string_view what) const;  // names node and op

  std::vector<TypeInfo> input_types;  // one a slot; undefined dtype where omitted
  std::vector<const Tensor*> constants;
  std::vector<TypeInfo> output_types;  // infer's result; prepare may rely on it being concrete

  // For infer.
  void set_output(int i, DType dtype, const Shape& shape);
  void set_output(int i, DType dtype);  // rank unknown until the node has run

 private:
  const Node& node_;
  int opset_;
};

// One run of a kernel.
struct KernelArgs {
  std::span<const TensorView> inputs;  // data is null where an input is omitted
  std::span<TensorView> outputs;       // allocated, unless the node's shapes depend on data
  std::byte* workspace = nullptr;      // Kernel::workspace_bytes, 64-byte aligned
  // For outputs whose shape infer could not tell: gives memory for output i and sets its view.
  std::function<void(int i, DType dtype, const Shape& shape)> allocate;
};

struct Kernel {
  std::string name;  // what reports show: "conv_f32_ref", "gemm_s8_avx2"
  std::function<void(const KernelArgs&)> run;
  size_t workspace_bytes = 0;
  // Bit i: the kernel holds input i, a constant, in a form of its own (packed), and run does not
  // read it; its data may be null then.
  uint32_t held_inputs = 0;

  bool holds(size_t input) const { return input < 32 && (held_inputs >> input & 1) != 0; }
};

// What quantization needs to know of an operator.
struct QuantFacts {
  int weight_input = -1;  // slot of the weights, -1: none
  int bias_input = -1;
  int channel_axis = -1;      // output-channel axis of the weights (Gemm: see transB)
  bool shares_scale = false;  // moves or selects values: output has the input's scale
};

using InferFn = void (*)(NodeContext&);
// REQUIRES concrete input and (unless data-dependent) output types. Constants may be packed; the
// kernel keeps what it needs of them. Fails (unsupported) for a type or attribute it cannot do.
using PrepareFn = Kernel (*)(const NodeContext&);

struct OpDef {
  std::string_view domain;
  std::string_view name;
  int since_version;  // of the oldest version that this row handles; it branches on opset() itself
  InferFn infer;
  PrepareFn prepare;
  QuantFacts quant = {};
  // Works on elements of any type by their size (Reshape, Concat, Gather...), so float16 needs no
  // widening. Others that meet float16 or bfloat16 run in float32 and round each result once.
  bool any_type = false;
  // Reads and writes elements below 8 bits packed, as they are stored. Others see them as int8 or
  // uint8.
  bool packed_types = false;
  // The kernel sizes its outputs itself (KernelArgs::allocate), since knowing how large they are is
  // all of its work.
  bool sizes_outputs = false;
};

// The rows of all families.
std::span<const std::span<const OpDef>> op_families();
// The newest row with since_version <= opset, or nullptr.
const OpDef* find_op(std::string_view domain, std::string_view name, int opset);
// The same for a node; fails (unsupported) naming node, op, and the nearest name in the table.
const OpDef& op_of(const Node& node, const Model& model);

// Runs infer and prepare on whatever is in the context, with the widening of half types applied.
Kernel prepare_kernel(const OpDef& op, const NodeContext& context);

// Infers types over the whole graph and writes them to its values; what is not known stays unknown.
// `input_shapes` overrides inputs by name. Bodies of control flow are not entered. Folds what
// depends only on shapes and small constants, so that traced Shape-Gather-Concat chains resolve.
// Nodes without a row leave their outputs unknown.
void infer_types(Model& model, const std::map<std::string, Shape>& input_shapes = {});

// The same a node at a time, for who edits the graph on the way. REQUIRES that each node is visited
// after those it reads.
class TypeInference {
 public:
  TypeInference(Graph& graph, const Model& model);
  ~TypeInference();
  void visit(NodeId id);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace compress
