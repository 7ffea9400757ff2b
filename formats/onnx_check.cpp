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

}  // namespace

void check_cut_model(const std::string& for_checker) {
  const onnx::ModelProto model = parse(for_checker);
  guarded(ErrorCode::invalid_model, "ONNX's checker", [&] { onnx::checker::check_model(model); });
}

void infer_cut_model(const std::string& for_inference) {
  onnx::ModelProto model = parse(for_inference);
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
  const onnx::ModelProto model = parse(wire);
  return guarded(ErrorCode::unsupported, "ONNX's version converter", [&] {
    return onnx::version_conversion::ConvertVersion(model, opset).SerializeAsString();
  });
}

}  // namespace compress
