#include <optional>

#include "compress/error.h"
#include "formats/file.h"
#include "formats/onnx.h"
#include "formats/onnx_check.h"
#include "formats/onnx_reader.h"
#include "formats/onnx_writer.h"

namespace compress {
namespace {

// Protobuf reads messages of at most 2^31 - 1 bytes; below that, room for nodes and names.
constexpr uint64_t kMaxInlineBytes = (uint64_t{1} << 31) - (uint64_t{64} << 20);
constexpr uint64_t kMaxMessageBytes = (uint64_t{1} << 31) - 1;

std::string file_name(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

void write_external(const PayloadPlan& plan, AtomicFile& file) {
  std::vector<Tensor> tensors;
  for (const PayloadPlan::Row& row : plan.rows) tensors.push_back(row.tensor);
  TensorStream stream(std::move(tensors));
  for (const PayloadPlan::Row& row : plan.rows) {
    if (file.size() < row.offset) file.write(std::string(row.offset - file.size(), '\0'));
    stream.next([&](std::span<const std::byte> bytes) { file.write(bytes); });
  }
}

// What a reader of the file will see, before anybody can.
void check_written(const AtomicFile& file, const AtomicFile* data, const std::string& location) {
  const auto written = MappedFile::open(file.temporary_path());
  TensorSource source(written, "", false);
  if (data != nullptr) source.substitute(location, data->temporary_path());
  in_context([] { return "checking what was written"; },
             [&] { read_model(written->text(), source, {}); });
}

void check_message_size(uint64_t bytes) {
  if (bytes <= kMaxMessageBytes) return;
  fail(ErrorCode::unsupported, "the model has {} bytes without its external data", bytes);
}

uint64_t write_files(const Model& model, const std::string& path, const WriteOptions& options) {
  PayloadPlan plan;
  if (options.external_data || payload_bytes(model.graph) > kMaxInlineBytes) {
    plan.kind = PayloadPlan::Kind::external;
    plan.location = file_name(path) + ".data";
  }
  AtomicFile file(path, options.overwrite);
  const Rope rope = model_rope(model, options.provenance, plan);
  check_message_size(rope.size());
  std::optional<AtomicFile> data;
  if (!plan.rows.empty()) {
    data.emplace(path + ".data", options.overwrite);
    write_external(plan, *data);
    data->flush();
  }
  rope.stream([&](std::span<const std::byte> bytes) { file.write(bytes); });
  check_message_size(file.size());
  file.flush();
  check_written(file, data ? &*data : nullptr, plan.location);
  const uint64_t total = file.size() + (data ? data->size() : 0);
  if (data) data->commit();
  file.commit();
  return total;
}

}  // namespace

uint64_t write_onnx(const Model& model, const std::string& path, const WriteOptions& options) {
  return in_context([&] { return "writing " + path; },
                    [&] { return write_files(model, path, options); });
}

std::string serialize_onnx(const Model& model) {
  PayloadPlan plan;
  const Rope rope = model_rope(model, nullptr, plan);
  std::string out;
  out.reserve(static_cast<size_t>(rope.size()));
  rope.stream([&](std::span<const std::byte> bytes) {
    out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  return out;
}

uint64_t serialized_bytes(const Model& model) {
  PayloadPlan plan;
  return model_rope(model, nullptr, plan).size();
}

namespace {

bool is_empty_constant(const Graph& graph, ValueId id) {
  if (id == kNoValue) return false;
  const Value& value = graph.value(id);
  if (value.is_constant()) return value.constant.count() == 0;
  if (value.producer == kNoNode || !graph.node(value.producer).is("Constant")) return false;
  const Tensor* tensor = graph.node(value.producer).tensor_or_null("value");
  return tensor != nullptr && tensor->count() == 0;
}

// Resize-11 marks scales or sizes as absent by an empty tensor, from version 13 on by no input at
// all; the converter leaves the empty tensor, which ONNX Runtime refuses.
void omit_empty_resize_inputs(Graph& graph) {
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    for (const Body& body : node.bodies) omit_empty_resize_inputs(*body.graph);
    if (!node.alive || !node.is("Resize")) continue;
    for (size_t slot = 1; slot < node.inputs.size(); ++slot) {
      if (is_empty_constant(graph, node.inputs[slot])) graph.set_input(id, slot, kNoValue);
    }
  }
}

}  // namespace

void convert_opset(Model& model, int opset) {
  if (opset == model.opset()) return;
  if (opset > newest_opset() || opset < model.opset()) {
    fail(ErrorCode::unsupported, "opset {}: the model has {}, and the newest known is {}", opset,
         model.opset(), newest_opset());
  }
  // The converter drops them.
  if (!model.functions.empty()) {
    fail(ErrorCode::unsupported,
         "the version converter would drop the model's functions; compress optimize --opset {} "
         "inlines them first",
         opset);
  }
  PayloadPlan plan;
  plan.kind = PayloadPlan::Kind::held;
  std::string wire;
  model_rope(model, nullptr, plan).stream([&](std::span<const std::byte> bytes) {
    wire.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  auto converted = std::make_shared<const std::string>(convert_cut_model(wire, opset));
  TensorSource source(converted, "", false);
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    source.hold(fmt::format("held:{}", i), plan.rows[i].tensor);
  }
  ReadOptions options;
  options.check = false;
  Model lifted = read_model(*converted, source, options);
  if (opset >= 13) omit_empty_resize_inputs(lifted.graph);
  model.graph = std::move(lifted.graph);
  model.opsets = std::move(lifted.opsets);
  model.ir_version = needed_ir_version(model);
}

}  // namespace compress
