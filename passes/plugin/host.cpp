// The functions that a plug-in's pass is given: each checks what it is told, and turns errors into
// status codes, since nothing may be thrown through C.
#include <cmath>
#include <cstring>
#include <optional>

#include "compress/error.h"
#include "passes/plugin/plugin.h"
#include "passes/types.h"

using namespace compress;

// One run of a pass on one graph.
struct compress_context {
  compress_context(Model& whole, PassContext& given) : graph(whole.graph), pass(given) {}

  Graph& graph;
  PassContext& pass;
  PassResult result;
  std::string error;
  // What was handed out last stays where it is.
  std::vector<NodeId> order;
  std::optional<TensorData> content;
  compress_tensor tensor{};
};

namespace {

using Context = compress_context;

template <class Body>
int guarded(Context* context, Body&& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    context->error = error.what();
    return 1;
  }
}

// The same, for what changes the model.
template <class Body>
int editing(Context* context, Body&& body) {
  return guarded(context, [&] {
    body();
    context->result.changed = true;
  });
}

template <class T>
void check_size(const T* given) {
  if (given == nullptr || given->size < sizeof(T)) {
    fail(ErrorCode::usage, "a structure of the plug-in has size {}, not {}",
         given == nullptr ? 0 : given->size, sizeof(T));
  }
}

// Members that a newer header added stay as they are.
template <class T>
void give(T* out, T full) {
  check_size(out);
  full.size = out->size;
  std::memcpy(static_cast<void*>(out), &full, sizeof(T));
}

std::string text_of(const char* text, const char* what) {
  if (text == nullptr) fail(ErrorCode::usage, "the plug-in gave no {}", what);
  return text;
}

const Node& node_of(const Context* context, compress_node id) {
  if (id < 0 || id >= context->graph.node_slots() || !context->graph.node(id).alive) {
    fail(ErrorCode::usage, "the plug-in names node {}, which is not there", id);
  }
  return context->graph.node(id);
}

const Value& value_of(const Context* context, compress_value id) {
  if (id < 0 || id >= context->graph.value_slots() || !context->graph.value(id).alive) {
    fail(ErrorCode::usage, "the plug-in names value {}, which is not there", id);
  }
  return context->graph.value(id);
}

Tensor tensor_of(const compress_tensor* given) {
  check_size(given);
  if (given->rank < 0 || given->rank > kMaxRank || (given->rank > 0 && given->dims == nullptr)) {
    fail(ErrorCode::usage, "a tensor of the plug-in has rank {}", given->rank);
  }
  const auto dtype = static_cast<DType>(given->dtype);
  const bool known = given->dtype > 0 && given->dtype <= static_cast<int>(DType::int2);
  if (!known || info(dtype).bits == 0) {
    fail(ErrorCode::usage, "a tensor of the plug-in has type {}", given->dtype);
  }
  Shape shape;
  uint64_t count = 1;
  for (int32_t axis = 0; axis < given->rank; ++axis) {
    const int64_t dim = given->dims[axis];
    if (dim < 0 || __builtin_mul_overflow(count, static_cast<uint64_t>(dim), &count)) {
      fail(ErrorCode::usage, "a tensor of the plug-in has axes that cannot be");
    }
    shape.push_back(dim);
  }
  if (byte_size(dtype, count) != given->bytes || (given->bytes > 0 && given->data == nullptr)) {
    fail(ErrorCode::usage, "a tensor of the plug-in has {} bytes, and its shape {} needs {}",
         given->bytes, shape.to_string(), byte_size(dtype, count));
  }
  Tensor tensor = Tensor::allocate(dtype, shape);
  if (given->bytes > 0) std::memcpy(tensor.mutable_data(), given->data, given->bytes);
  return tensor;
}

compress_tensor give_tensor(Context* context, const Tensor& tensor) {
  const Shape& shape = tensor.shape();
  context->content.emplace(tensor.read());
  return {sizeof(compress_tensor),
          static_cast<compress_dtype>(tensor.dtype()),
          static_cast<int32_t>(shape.rank()),
          shape.begin(),
          context->content->bytes().data(),
          context->content->bytes().size()};
}

// --- Words ---------------------------------------------------------------------------------------

int host_fail(Context* context, const char* message) {
  context->error = message == nullptr ? "" : message;
  return 1;
}

void host_skipped(Context* context, const char* node, const char* reason) {
  context->result.skipped.push_back({node == nullptr ? "" : node, reason == nullptr ? "" : reason});
}

void host_detail(Context* context, const char* name, double value) {
  if (name == nullptr) return;
  const bool whole = std::abs(value) < 0x1p53 && value == std::floor(value);
  context->result.details[name] = whole ? Json(static_cast<int64_t>(value)) : Json(value);
}

int host_option(Context* context, const char* name, compress_option* out) {
  return guarded(context, [&] {
    const Options& options = context->pass.options;
    const std::string wanted = text_of(name, "name of an option");
    const Json& all = options.json();
    compress_option row{};
    const auto value = all.find(wanted);
    if (value != all.end()) {
      row.given = options.given(wanted) ? 1 : 0;
      if (value->is_boolean()) row.integer = value->get<bool>() ? 1 : 0;
      if (value->is_number_integer()) row.integer = value->get<int64_t>();
      if (value->is_number()) row.number = value->get<double>();
      if (value->is_string()) row.text = value->get_ref<const std::string&>().c_str();
    }
    give(out, row);
  });
}

// --- Reading -------------------------------------------------------------------------------------

int host_nodes(Context* context, const compress_node** list, size_t* count) {
  return guarded(context, [&] {
    context->order = context->graph.order();
    *list = context->order.data();
    *count = context->order.size();
  });
}

int host_node(Context* context, compress_node id, compress_node_info* out) {
  return guarded(context, [&] {
    const Node& node = node_of(context, id);
    compress_node_info row{};
    row.name = node.name.c_str();
    row.op_type = node.op_type.c_str();
    row.domain = node.domain.c_str();
    row.inputs = node.inputs.data();
    row.outputs = node.outputs.data();
    row.input_count = static_cast<uint32_t>(node.inputs.size());
    row.output_count = static_cast<uint32_t>(node.outputs.size());
    row.attribute_count = static_cast<uint32_t>(node.attributes.size());
    row.body_count = static_cast<uint32_t>(node.bodies.size());
    give(out, row);
  });
}

int host_value(Context* context, compress_value id, compress_value_info* out) {
  return guarded(context, [&] {
    const Value& value = value_of(context, id);
    compress_value_info row{};
    row.name = value.name.c_str();
    row.dtype = static_cast<compress_dtype>(value.type.dtype);
    row.rank = value.type.has_shape ? static_cast<int32_t>(value.type.shape.rank()) : -1;
    row.dims = value.type.shape.begin();
    row.producer = value.producer;
    row.use_count = static_cast<uint32_t>(context->graph.uses(id).size());
    row.is_input = value.is_input || value.is_capture ? 1 : 0;
    row.is_output = context->graph.is_output(id) ? 1 : 0;
    row.is_constant = value.is_constant() ? 1 : 0;
    give(out, row);
  });
}

int host_use(Context* context, compress_value id, uint32_t index, compress_node* node,
             uint32_t* slot) {
  return guarded(context, [&] {
    const Value& value = value_of(context, id);
    const auto uses = context->graph.uses(id);
    if (index >= uses.size()) {
      fail(ErrorCode::usage, "'{}' is read {} times", value.name, uses.size());
    }
    *node = uses[index].node;
    *slot = static_cast<uint32_t>(uses[index].slot);
  });
}

int host_find_value(Context* context, const char* name, compress_value* out) {
  return guarded(context,
                 [&] { *out = context->graph.find_value(text_of(name, "name of a value")); });
}

int host_constant(Context* context, compress_value id, compress_tensor* out) {
  return guarded(context, [&] {
    const Value& value = value_of(context, id);
    if (!value.is_constant() || value.constant.dtype() == DType::string) {
      fail(ErrorCode::usage, "'{}' is no constant of numbers", value.name);
    }
    give(out, give_tensor(context, value.constant));
  });
}

compress_attribute describe(Context* context, const Attribute& attribute) {
  compress_attribute row{};
  row.name = attribute.name.c_str();
  const AttributeValue& value = attribute.value;
  if (const auto* i = std::get_if<int64_t>(&value)) {
    row.type = COMPRESS_ATTRIBUTE_INT;
    row.i = *i;
  } else if (const auto* f = std::get_if<float>(&value)) {
    row.type = COMPRESS_ATTRIBUTE_FLOAT;
    row.f = *f;
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    row.type = COMPRESS_ATTRIBUTE_STRING;
    row.text = text->c_str();
    row.count = text->size();
  } else if (const auto* ints = std::get_if<std::vector<int64_t>>(&value)) {
    row.type = COMPRESS_ATTRIBUTE_INTS;
    row.ints = ints->data();
    row.count = ints->size();
  } else if (const auto* floats = std::get_if<std::vector<float>>(&value)) {
    row.type = COMPRESS_ATTRIBUTE_FLOATS;
    row.floats = floats->data();
    row.count = floats->size();
  } else if (const auto* tensor = std::get_if<Tensor>(&value);
             tensor != nullptr && tensor->dtype() != DType::string) {
    row.type = COMPRESS_ATTRIBUTE_TENSOR;
    context->tensor = give_tensor(context, *tensor);
    row.tensor = &context->tensor;
  }
  return row;
}

int host_attribute(Context* context, compress_node id, uint32_t index, compress_attribute* out) {
  return guarded(context, [&] {
    const Node& node = node_of(context, id);
    if (index >= node.attributes.size()) {
      fail(ErrorCode::usage, "node '{}' has {} attributes", node.name, node.attributes.size());
    }
    give(out, describe(context, node.attributes[index]));
  });
}

int host_find_attribute(Context* context, compress_node id, const char* name,
                        compress_attribute* out) {
  return guarded(context, [&] {
    const Node& node = node_of(context, id);
    const std::string wanted = text_of(name, "name of an attribute");
    for (const Attribute& attribute : node.attributes) {
      if (attribute.name == wanted) return give(out, describe(context, attribute));
    }
    fail(ErrorCode::usage, "node '{}' has no attribute '{}'", node.name, wanted);
  });
}

// --- Editing -------------------------------------------------------------------------------------

int host_rename_node(Context* context, compress_node id, const char* name) {
  return guarded(context, [&] {
    const std::string wanted = text_of(name, "name of a node");
    if (node_of(context, id).name == wanted) return;
    context->graph.edit(id).name = context->graph.unique_node_name(wanted);
    context->result.changed = true;
  });
}

int host_rename_value(Context* context, compress_value id, const char* name) {
  return editing(context, [&] {
    const Value& value = value_of(context, id);
    const std::string wanted = text_of(name, "name of a value");
    if (value.is_input || value.is_capture || context->graph.is_output(id)) {
      fail(ErrorCode::usage, "'{}' is an input or output, which keep their names", value.name);
    }
    if (wanted.empty() || context->graph.find_value(wanted) != kNoValue) {
      fail(ErrorCode::usage, "'{}' cannot be renamed to '{}': the name is taken", value.name,
           wanted);
    }
    context->graph.rename(id, wanted);
  });
}

AttributeValue value_of(const compress_attribute& given) {
  const auto list = [&](const auto* items) {
    if (given.count > 0 && items == nullptr) fail(ErrorCode::usage, "an attribute has no content");
    return std::vector(items, items + given.count);
  };
  switch (given.type) {
    case COMPRESS_ATTRIBUTE_INT:
      return given.i;
    case COMPRESS_ATTRIBUTE_FLOAT:
      return given.f;
    case COMPRESS_ATTRIBUTE_STRING: {
      const std::vector<char> text = list(given.text);
      return std::string(text.begin(), text.end());
    }
    case COMPRESS_ATTRIBUTE_INTS:
      return list(given.ints);
    case COMPRESS_ATTRIBUTE_FLOATS:
      return list(given.floats);
    case COMPRESS_ATTRIBUTE_TENSOR:
      return tensor_of(given.tensor);
    default:
      fail(ErrorCode::usage, "an attribute of the plug-in has type {}", given.type);
  }
}

int host_set_attribute(Context* context, compress_node id, const compress_attribute* given) {
  return editing(context, [&] {
    node_of(context, id);
    check_size(given);
    const std::string name = text_of(given->name, "name of an attribute");
    context->graph.edit(id).set_attribute(name, value_of(*given));
  });
}

int host_remove_attribute(Context* context, compress_node id, const char* name) {
  return editing(context, [&] {
    node_of(context, id);
    context->graph.edit(id).remove_attribute(text_of(name, "name of an attribute"));
  });
}

int host_insert(Context* context, compress_node before, const compress_node_spec* given,
                compress_node* out) {
  return editing(context, [&] {
    check_size(given);
    NodeSpec spec;
    spec.op_type = text_of(given->op_type, "operator of a node");
    if (given->domain != nullptr) spec.domain = given->domain;
    if (given->name != nullptr) spec.name = given->name;
    if ((given->input_count > 0 && given->inputs == nullptr) || given->output_count == 0 ||
        given->outputs == nullptr) {
      fail(ErrorCode::usage, "a new {} has no inputs or outputs", spec.op_type);
    }
    for (uint32_t i = 0; i < given->input_count; ++i) {
      if (given->inputs[i] != COMPRESS_NONE) value_of(context, given->inputs[i]);
      spec.inputs.push_back(given->inputs[i]);
    }
    for (uint32_t i = 0; i < given->output_count; ++i) {
      spec.outputs.push_back(text_of(given->outputs[i], "name of a result"));
    }
    if (before != COMPRESS_NONE) node_of(context, before);
    *out = before == COMPRESS_NONE ? context->graph.add(std::move(spec))
                                   : context->graph.insert_before(before, std::move(spec));
  });
}

int host_set_input(Context* context, compress_node id, uint32_t slot, compress_value to) {
  return editing(context, [&] {
    const Node& node = node_of(context, id);
    if (to != COMPRESS_NONE) value_of(context, to);
    if (slot > node.inputs.size() || (slot == node.inputs.size() && !node.bodies.empty())) {
      fail(ErrorCode::usage, "node '{}' has {} inputs", node.name, node.inputs.size());
    }
    context->graph.set_input(id, slot, to);
  });
}

int host_replace_uses(Context* context, compress_value from, compress_value to) {
  return editing(context, [&] {
    value_of(context, from);
    value_of(context, to);
    if (from != to) context->graph.replace_uses(from, to);
  });
}

int host_erase(Context* context, compress_node id) {
  return editing(context, [&] {
    const Node& node = node_of(context, id);
    for (const ValueId output : node.outputs) {
      if (output != kNoValue && !context->graph.is_unused(output)) {
        fail(ErrorCode::usage, "node '{}' cannot be removed: '{}' is read", node.name,
             context->graph.value(output).name);
      }
    }
    context->graph.erase(id);
  });
}

int host_add_constant(Context* context, const char* name, const compress_tensor* tensor,
                      compress_value* out) {
  return editing(context, [&] {
    const std::string wanted = text_of(name, "name of a constant");
    *out = context->graph.add_constant(wanted.empty() ? "constant" : wanted, tensor_of(tensor));
  });
}

int host_set_constant(Context* context, compress_value id, const compress_tensor* tensor) {
  return editing(context, [&] {
    const Value& value = value_of(context, id);
    if (!value.is_constant() && (value.is_input || value.is_capture)) {
      fail(ErrorCode::usage, "'{}' is an input, and no constant", value.name);
    }
    context->graph.set_constant(id, tensor_of(tensor));
  });
}

constexpr compress_host kHost = {
    sizeof(compress_host),
    COMPRESS_PLUGIN_ABI,
    host_fail,
    host_skipped,
    host_detail,
    host_option,
    host_nodes,
    host_node,
    host_value,
    host_use,
    host_find_value,
    host_constant,
    host_attribute,
    host_find_attribute,
    host_rename_node,
    host_rename_value,
    host_set_attribute,
    host_remove_attribute,
    host_insert,
    host_set_input,
    host_replace_uses,
    host_erase,
    host_add_constant,
    host_set_constant,
};

}  // namespace

namespace compress {

PassResult run_plugin_pass(const Plugin& plugin, const PluginPass& pass, Model& model,
                           PassContext& context) {
  infer_known_types(model);
  compress_context run(model, context);
  if (pass.run(&kHost, &run) != 0) {
    fail(ErrorCode::unsupported, "{} (plug-in {} {})",
         run.error.empty() ? "the pass failed and gave no reason" : run.error, plugin.identity.name,
         plugin.identity.version);
  }
  run.result.details["plugin"] = to_json(plugin.identity);
  return std::move(run.result);
}

}  // namespace compress
