#include "formats/onnx_check.h"

#include <onnx/checker.h>
#include <onnx/defs/operator_sets.h>
#include <onnx/defs/schema.h>
#include <onnx/onnx_pb.h>
#include <onnx/shape_inference/implementation.h>
#include <onnx/version_converter/convert.h>

#include "formats/onnx.h"
#include "formats/onnx_proto.h"

namespace compress {
namespace {

onnx::ModelProto parse(const std::string& wire) {
  return parse_proto<onnx::ModelProto>(wire, "not an ONNX model: protobuf cannot parse it");
}

// --- Operators that only ONNX Runtime has in ONNX's own domain
// ------------------------------------- Its optimizer and its exporters of language models write
// them so. ONNX's library, which does not know them, sees them in a domain of their own.

constexpr const char* kRuntimeDomain = "compress.runtime";

bool is_runtime_op(const onnx::NodeProto& node, int opset) {
  if (!node.domain().empty() && node.domain() != "ai.onnx") return false;
  return node.op_type() == "SimplifiedLayerNormalization" ||
         (node.op_type() == "LayerNormalization" && opset < 17);
}

template <class Visit>
void for_each_node(google::protobuf::RepeatedPtrField<onnx::NodeProto>* nodes, Visit&& visit) {
  for (onnx::NodeProto& node : *nodes) {
    visit(node);
    for (onnx::AttributeProto& attribute : *node.mutable_attribute()) {
      if (attribute.has_g()) for_each_node(attribute.mutable_g()->mutable_node(), visit);
      for (onnx::GraphProto& body : *attribute.mutable_graphs()) {
        for_each_node(body.mutable_node(), visit);
      }
    }
  }
}

// Of a model or a function.
template <class Scope>
void set_aside(Scope& scope, google::protobuf::RepeatedPtrField<onnx::NodeProto>* nodes) {
  int opset = 0;
  for (const auto& import : scope.opset_import()) {
    if (import.domain().empty()) opset = static_cast<int>(import.version());
  }
  bool any = false;
  for_each_node(nodes, [&](onnx::NodeProto& node) {
    if (!is_runtime_op(node, opset)) return;
    node.set_domain(kRuntimeDomain);
    any = true;
  });
  if (!any) return;
  auto* import = scope.add_opset_import();
  import->set_domain(kRuntimeDomain);
  import->set_version(1);
}

onnx::ModelProto parse_for_onnx(const std::string& wire) {
  onnx::ModelProto model = parse(wire);
  set_aside(model, model.mutable_graph()->mutable_node());
  for (onnx::FunctionProto& function : *model.mutable_functions()) {
    set_aside(function, function.mutable_node());
  }
  return model;
}

void put_back(onnx::ModelProto& model) {
  for_each_node(model.mutable_graph()->mutable_node(), [](onnx::NodeProto& node) {
    if (node.domain() == kRuntimeDomain) node.clear_domain();
  });
  auto* imports = model.mutable_opset_import();
  for (int i = imports->size() - 1; i >= 0; --i) {
    if (imports->Get(i).domain() == kRuntimeDomain) imports->DeleteSubrange(i, 1);
  }
}

}  // namespace

void check_cut_model(const std::string& for_checker) {
  const onnx::ModelProto model = parse_for_onnx(for_checker);
  guarded(ErrorCode::invalid_model, "ONNX's checker", [&] { onnx::checker::check_model(model); });
}

void infer_cut_model(const std::string& for_inference) {
  onnx::ModelProto model = parse_for_onnx(for_inference);
  guarded(ErrorCode::invalid_model, "ONNX's shape inference", [&] {
    const onnx::ShapeInferenceOptions options(true, 1, false);
    onnx::shape_inference::InferShapes(model, onnx::OpSchemaRegistry::Instance(), options);
  });
}

int newest_opset() {
  return onnx::OpSchemaRegistry::DomainToVersionRange::Instance().Map().at("").second;
}

int64_t newest_ir_version() { return onnx::Version::IR_VERSION; }

int64_t ir_version_of_opset(int opset) {
  // onnx.helper.VERSION_TABLE: the release that brought an opset, and the IR version of its day.
  struct Row {
    int opset;
    int64_t ir_version;
  };
  constexpr Row kRows[] = {{8, 3},  {9, 4},   {10, 5},  {11, 6},  {14, 7}, {18, 8},
                           {20, 9}, {22, 10}, {23, 11}, {24, 12}, {27, 13}};
  for (const Row& row : kRows) {
    if (opset <= row.opset) return row.ir_version;
  }
  return newest_ir_version();
}

std::string convert_cut_model(const std::string& wire, int opset) {
  const onnx::ModelProto model = parse_for_onnx(wire);
  return guarded(ErrorCode::unsupported, "ONNX's version converter", [&] {
    onnx::ModelProto lifted = onnx::version_conversion::ConvertVersion(model, opset);
    put_back(lifted);
    return lifted.SerializeAsString();
  });
}

}  // namespace compress
