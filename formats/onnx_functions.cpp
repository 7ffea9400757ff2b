// Operators that ONNX defines as functions: their bodies, from the schemas of ONNX's library.
#include <onnx/defs/schema.h>
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <memory>

#include "formats/onnx.h"
#include "formats/onnx_proto.h"
#include "formats/onnx_reader.h"
#include "formats/onnx_writer.h"

namespace compress {
namespace {

// No body of ONNX's comes near it; one that a modifier graph of FlexAttention is put into may.
constexpr int64_t kMaxBodyNodes = 1'000'000;

std::string label(const Node& node, int opset) {
  return fmt::format("{}operator {}{} of opset {}",
                     node.name.empty() ? "" : "node '" + node.name + "': ",
                     node.domain.empty() ? "" : node.domain + ".", node.op_type, opset);
}

onnx::NodeProto node_proto(const Node& node) {
  Node plain = node;
  // What the runtime adds to nodes is nothing that ONNX's schemas know.
  std::erase_if(plain.attributes,
                [](const Attribute& a) { return a.name.starts_with("compress_"); });
  return parse_proto<onnx::NodeProto>(lone_node_wire(plain), "protobuf cannot parse the node");
}

std::vector<onnx::TypeProto> type_protos(std::span<const TypeInfo> types) {
  std::vector<onnx::TypeProto> protos(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i].dtype == DType::undefined) continue;
    onnx::TypeProto_Tensor& tensor = *protos[i].mutable_tensor_type();
    tensor.set_elem_type(static_cast<int32_t>(types[i].dtype));
    if (!types[i].has_shape) continue;
    onnx::TensorShapeProto& shape = *tensor.mutable_shape();
    for (const int64_t size : types[i].shape) {
      onnx::TensorShapeProto_Dimension& dim = *shape.add_dim();
      if (size >= 0) dim.set_dim_value(size);
    }
  }
  return protos;
}

std::string describe(std::span<const TypeInfo> types) {
  std::string text;
  for (const TypeInfo& type : types) {
    text += text.empty() ? "" : ", ";
    if (type.dtype == DType::undefined) {
      text += "none or unknown";
    } else {
      text += info(type.dtype).name;
      text += type.has_shape ? type.shape.to_string() : " of unknown rank";
    }
  }
  return text;
}

Function read_body(const onnx::OpSchema& schema, const onnx::FunctionProto& proto) {
  // Constants of the body stay in these bytes.
  const auto wire = std::make_shared<const std::string>(proto.SerializeAsString());
  TensorSource source(wire, "", false);
  ReadState state{source, kMaxBodyNodes};
  Function function = read_function(*wire, state, true);
  for (const auto& [name, attribute] : schema.attributes()) {
    const auto same = [&name = name](const Attribute& a) { return a.name == name; };
    const auto& defaults = function.attribute_defaults;
    if (attribute.default_value.name().empty() ||
        std::any_of(defaults.begin(), defaults.end(), same)) {
      continue;
    }
    Graph none;
    GraphScope scope{none};
    function.attribute_defaults.push_back(
        read_attribute(attribute.default_value.SerializeAsString(), scope, state));
  }
  return function;
}

}  // namespace

std::optional<Function> onnx_operator_function(const Node& node, int opset,
                                               std::span<const TypeInfo> inputs) {
  const onnx::OpSchema* schema =
      onnx::OpSchemaRegistry::Instance()->GetSchema(node.op_type, opset, node.domain);
  if (schema == nullptr || !(schema->HasFunction() || schema->HasContextDependentFunction())) {
    return std::nullopt;
  }
  return guarded(ErrorCode::invalid_model, label(node, opset), [&]() -> std::optional<Function> {
    const onnx::NodeProto proto = node_proto(node);
    schema->Verify(proto);
    // Not validated: ONNX means by that whether the body could do without its own opset.
    if (const onnx::FunctionProto* body = schema->GetFunction(opset, false)) {
      return read_body(*schema, *body);
    }
    if (!schema->HasContextDependentFunction()) return std::nullopt;
    const onnx::FunctionBodyBuildContextImpl context(proto, type_protos(inputs));
    onnx::FunctionProto body;
    if (!schema->BuildContextDependentFunction(context, body, opset)) {
      fail(ErrorCode::unsupported,
           "{} has no kernel, and ONNX gives it no body for these attributes and inputs ({})",
           label(node, opset), describe(inputs));
    }
    return read_body(*schema, body);
  });
}

}  // namespace compress
