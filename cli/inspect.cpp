#include <algorithm>
#include <map>
#include <set>

#include "cli/explaining.h"
#include "cli/machine.h"
#include "cli/verification.h"
#include "compress/error.h"
#include "compress/ops/op.h"
#include "formats/onnx.h"
#include "passes/pass.h"
#include "passes/weights.h"

namespace compress {
namespace {

struct Command {
  CommonFlags flags;
  std::string model;
  bool ops = false;
  bool passes = false;
  bool tensors = false;
  bool explain = false;
  bool rules_only = false;
};

std::string list_ops() {
  std::string out;
  for (const auto& family : op_families()) {
    for (const OpDef& op : family) {
      std::string facts;
      if (op.quant.weight_input >= 0)
        facts += fmt::format("  weights: input {}", op.quant.weight_input);
      if (op.quant.shares_scale) facts += "  keeps the scale";
      out += fmt::format("{:<16} {:<28} since {}{}\n", op.domain.empty() ? "ai.onnx" : op.domain,
                         op.name, op.since_version, facts);
    }
  }
  return out;
}

std::string list_passes() {
  std::string out;
  for (const StepDef& step : all_steps()) {
    out += fmt::format("{}: {}\n", step.name, step.summary);
    for (const PassDef& pass : all_passes()) {
      if (pass.step == step.name) out += fmt::format("  {:<24} {}\n", pass.name, pass.summary);
    }
  }
  return out;
}

void each_graph(const Graph& graph, const std::function<void(const Graph&)>& visit) {
  visit(graph);
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    for (const Body& body : node.bodies) each_graph(*body.graph, visit);
  }
}

std::string type_text(const Graph& graph, const TypeInfo& type) {
  std::string out(info(type.dtype).name);
  if (!type.has_shape) return out + " (any shape)";
  out += "[";
  for (int i = 0; i < type.shape.rank(); ++i) {
    const int64_t dim = type.shape[i];
    if (i > 0) out += ",";
    if (dim >= 0) {
      out += std::to_string(dim);
    } else {
      const std::string_view symbol = graph.symbol_name(dim);
      out += symbol.empty() ? "?" : std::string(symbol);
    }
  }
  return out + "]";
}

Json types_json(const Graph& graph, std::span<const ValueId> ids) {
  Json out = Json::array();
  for (const ValueId id : ids) {
    const Value& value = graph.value(id);
    if (value.is_input && value.is_constant()) continue;
    out.push_back({{"name", value.name}, {"type", type_text(graph, value.type)}});
  }
  return out;
}

// Whether the node's operator runs by the body that its specification gives.
bool has_operator_function(const Graph& graph, const Node& node, int opset, const Model& model) {
  if (model.operator_function == nullptr) return false;
  std::vector<TypeInfo> inputs;
  for (const ValueId id : node.inputs) {
    inputs.push_back(id == kNoValue ? TypeInfo{} : graph.value(id).type);
  }
  try {
    return model.operator_function(node, opset, inputs).has_value();
  } catch (const Error& error) {
    return error.code() == ErrorCode::unsupported;  // it has one, for types that a session finds
  }
}

Json ops_json(const Model& model, Json& unsupported) {
  std::map<std::string, int64_t> counts;
  std::set<std::string> missing;
  each_graph(model.graph, [&](const Graph& graph) {
    for (NodeId id = 0; id < graph.node_slots(); ++id) {
      const Node& node = graph.node(id);
      if (!node.alive) continue;
      const std::string name =
          node.domain.empty() ? node.op_type : node.domain + "." + node.op_type;
      ++counts[name];
      const auto opset = model.opsets.find(node.domain);
      const int version = opset == model.opsets.end() ? 1 : opset->second;
      const bool control = !node.bodies.empty();
      if (!control && model.find_function(node) == nullptr && !node.is("Constant") &&
          find_op(node.domain, node.op_type, version) == nullptr &&
          !has_operator_function(graph, node, version, model)) {
        missing.insert(name);
      }
    }
  });
  std::vector<std::pair<std::string, int64_t>> rows(counts.begin(), counts.end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  Json out = Json::object();
  for (const auto& [name, count] : rows) out[name] = count;
  unsupported = missing;
  return out;
}

struct Constants {
  std::map<std::string, std::pair<int64_t, uint64_t>> by_dtype;  // elements, bytes
  uint64_t bytes = 0;
  uint64_t dead_bytes = 0;
};

Constants constants_of(const Model& model) {
  Constants out;
  std::set<const void*> seen;  // shared buffers are stored once
  const auto add = [&](const Tensor& tensor) {
    if (tensor.identity() != nullptr && !seen.insert(tensor.identity()).second) return;
    const uint64_t bytes = info(tensor.dtype()).bits > 0 ? tensor.bytes() : 0;
    auto& row = out.by_dtype[std::string(info(tensor.dtype()).name)];
    row.first += tensor.count();
    row.second += bytes;
    out.bytes += bytes;
  };
  each_graph(model.graph, [&](const Graph& graph) {
    for (ValueId id = 0; id < graph.value_slots(); ++id) {
      const Value& value = graph.value(id);
      if (!value.alive || !value.is_constant()) continue;
      add(value.constant);
      if (graph.is_unused(id) && info(value.constant.dtype()).bits > 0) {
        out.dead_bytes += value.constant.bytes();
      }
    }
    for (NodeId id = 0; id < graph.node_slots(); ++id) {
      const Node& node = graph.node(id);
      if (!node.alive || !node.is("Constant")) continue;
      if (const Tensor* tensor = node.tensor_or_null("value")) add(*tensor);
    }
  });
  return out;
}

Json weights_json(const Model& model, bool tensors) {
  Model copy = model;
  adopt_constant_nodes(copy.graph);
  struct Row {
    int64_t tensors = 0;
    int64_t elements = 0;
    uint64_t bytes = 0;
  };
  std::map<std::pair<std::string, std::string>, Row> rows;  // op, dtype
  std::set<std::pair<const Graph*, ValueId>> seen;
  Json each = Json::array();
  for (const WeightRead& read : find_weights(copy, true)) {
    if (!seen.emplace(read.home, read.value).second) continue;
    const Value& value = read.home->value(read.value);
    const Tensor& tensor = value.constant;
    const std::string& op = read.graph->node(read.node).op_type;
    const std::string dtype(info(tensor.dtype()).name);
    Row& row = rows[{op, dtype}];
    ++row.tensors;
    row.elements += tensor.count();
    row.bytes += tensor.bytes();
    if (tensors) {
      each.push_back({{"name", value.name},
                      {"op", op},
                      {"dtype", dtype},
                      {"shape", tensor.shape().to_string()},
                      {"bytes", tensor.bytes()}});
    }
  }
  Json out = Json::object();
  out["by_op"] = Json::array();
  for (const auto& [key, row] : rows) {
    out["by_op"].push_back({{"op", key.first},
                            {"dtype", key.second},
                            {"tensors", row.tensors},
                            {"elements", row.elements},
                            {"bytes", row.bytes}});
  }
  if (tensors) out["tensors"] = each;
  return out;
}

// What the model would become: the steps are tried on a copy, whose quantized tensors are never
// computed.
Json try_step(const Model& model, const std::string& title, const Recipe& recipe) {
  Json out = {{"step", title}};
  try {
    Model copy = model;
    PipelineOptions options;
    options.lift_opset = convert_opset;
    options.sizes_only = true;
    const PipelineResult result = run_pipeline(copy, recipe, options);
    const uint64_t before = constants_of(model).bytes, after = constants_of(copy).bytes;
    bool changed = false;
    std::map<std::string, int64_t> reasons;
    for (const PassRecord& pass : result.passes) {
      if (pass.step != recipe.steps.back().name) continue;
      changed = changed || pass.changed;
      for (const Skipped& skip : pass.skipped) ++reasons[skip.reason];
    }
    out["changed"] = changed;
    out["bytes"] = model.file_bytes > before ? model.file_bytes - before + after : after;
    out["left"] = Json::array();
    for (const auto& [reason, nodes] : reasons) {
      out["left"].push_back({{"reason", reason}, {"nodes", nodes}});
    }
  } catch (const Error& error) {
    out["error"] = error.what();
  }
  return out;
}

Json opportunities(const Model& model) {
  Json out = Json::array();
  Recipe recipe;
  const auto attempt = [&](const char* title, const char* step, Json options) {
    recipe.steps = {{step, std::move(options)}};
    out.push_back(try_step(model, title, recipe));
  };
  attempt("optimize", "optimize", Json::object());
  attempt("quantize --mode dynamic", "quantize", {{"mode", "dynamic"}});
  attempt("quantize --mode weight-only --weights int8", "quantize",
          {{"mode", "weight-only"}, {"weights", "int8"}});
  attempt("quantize --mode weight-only --weights int4", "quantize",
          {{"mode", "weight-only"}, {"weights", "int4"}});
  return out;
}

Json describe(const Model& model, const std::string& path, bool tensors) {
  const ModelSummary summary = summarize(model, path);
  const Constants constants = constants_of(model);
  Json json = {{"schema", "compress.inspect/1"},
               {"path", path},
               {"bytes", model.file_bytes},
               {"ir_version", model.ir_version},
               {"opsets", Json::object()},
               {"producer", model.producer_name},
               {"inputs", types_json(model.graph, model.graph.inputs())},
               {"outputs", types_json(model.graph, model.graph.outputs())},
               {"nodes", summary.nodes},
               {"functions", model.functions.size()}};
  for (const auto& [domain, version] : model.opsets) {
    json["opsets"][domain.empty() ? "ai.onnx" : domain] = version;
  }
  Json unsupported;
  json["ops"] = ops_json(model, unsupported);
  json["unsupported_ops"] = unsupported;
  json["parameters"] = summary.parameters;
  json["parameter_bytes"] = constants.bytes;
  json["by_dtype"] = Json::array();
  for (const auto& [dtype, row] : constants.by_dtype) {
    json["by_dtype"].push_back({{"dtype", dtype}, {"elements", row.first}, {"bytes", row.second}});
  }
  json["dead_bytes"] = constants.dead_bytes;
  json["sparsity"] = *summary.sparsity;
  json["weights"] = weights_json(model, tensors);
  json["could_be"] = opportunities(model);
  for (const auto& [key, value] : model.metadata) {
    if (key == "compress") json["made_by"] = value;
  }
  return json;
}

std::string table(const Json& json) {
  std::string out = fmt::format("{}: {}, IR {}, ", json["path"].get<std::string>(),
                                human_bytes(json["bytes"]), json["ir_version"].get<int64_t>());
  for (const auto& [domain, version] : json["opsets"].items()) {
    out += fmt::format("{} {} ", domain, version.get<int>());
  }
  out += "\n";
  for (const char* side : {"inputs", "outputs"}) {
    for (const Json& row : json[side]) {
      out +=
          fmt::format("{:<8} {}  {}\n", std::string(side).substr(0, std::string(side).size() - 1),
                      row["name"].get<std::string>(), row["type"].get<std::string>());
    }
  }
  out += fmt::format("nodes    {}:", json["nodes"].get<int64_t>());
  for (const auto& [name, count] : json["ops"].items()) {
    out += fmt::format(" {} {},", name, count.get<int64_t>());
  }
  out.back() = '\n';
  for (const Json& name : json["unsupported_ops"]) {
    out += fmt::format("unsupported operator: {}; this program cannot run the model\n",
                       name.get<std::string>());
  }
  out += fmt::format("numbers  {} in {}\n", json["parameters"].get<int64_t>(),
                     human_bytes(json["parameter_bytes"]));
  for (const Json& row : json["by_dtype"]) {
    out += fmt::format("  {:<10} {:>12}  {:>10}\n", row["dtype"].get<std::string>(),
                       row["elements"].get<int64_t>(), human_bytes(row["bytes"]));
  }
  if (json["dead_bytes"].get<uint64_t>() > 0) {
    out += fmt::format("  read by nothing: {}\n", human_bytes(json["dead_bytes"]));
  }
  out += fmt::format("weights  {:.1f} % zero\n", 100 * json["sparsity"].get<double>());
  for (const Json& row : json["weights"]["by_op"]) {
    out += fmt::format("  {:<16} {:<8} {:>5} tensors  {:>10}\n", row["op"].get<std::string>(),
                       row["dtype"].get<std::string>(), row["tensors"].get<int64_t>(),
                       human_bytes(row["bytes"]));
  }
  if (json["weights"].contains("tensors")) {
    for (const Json& row : json["weights"]["tensors"]) {
      out += fmt::format("  {}  {} {} {}  {}\n", row["name"].get<std::string>(),
                         row["op"].get<std::string>(), row["dtype"].get<std::string>(),
                         row["shape"].get<std::string>(), human_bytes(row["bytes"]));
    }
  }
  out += "could be\n";
  for (const Json& row : json["could_be"]) {
    const std::string step = row["step"];
    if (row.contains("error")) {
      out += fmt::format("  {:<44} no: {}\n", step, row["error"].get<std::string>());
      continue;
    }
    if (row["changed"].get<bool>()) {
      out += fmt::format("  {:<44} about {}\n", step, human_bytes(row["bytes"]));
    } else {
      out += fmt::format("  {:<44} no change\n", step);
    }
    for (const Json& left : row["left"]) {
      if (step == "optimize") continue;
      out += fmt::format("    left {} nodes: {}\n", left["nodes"].get<int64_t>(),
                         left["reason"].get<std::string>());
    }
  }
  return out;
}

// Names come from the file: lines stay, other control characters do not.
std::string printable_lines(const std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    out += printable(std::string_view(text).substr(at, end - at)) + "\n";
    at = end + 1;
  }
  return out;
}

// Runs the model once on noise; where that fails, what ONNX Runtime does is told all the same.
Explanation explain_alone(Model& model, const Command& command, std::vector<std::string>& notes) {
  name_nodes(model);
  std::vector<NamedTensor> feed;
  std::vector<KernelRecord> kernels;
  try {
    feed = random_feed(model, input_shapes(command.flags), command.flags.seed, command.flags.batch);
    SessionOptions options;
    options.lower = !command.flags.no_lower;
    options.max_memory = max_memory_bytes(command.flags);
    Session session(model, options);
    kernels = profile_kernels(session, feed);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::internal) throw;
    notes.push_back(fmt::format("not run here: {}; name sizes with --input-shape", error.what()));
  }
  return explain_model(model, command.model, feed, std::move(kernels), !command.rules_only, nullptr,
                       notes);
}

int run(const Command& command) {
  apply(command.flags);
  if (command.ops) print(list_ops());
  if (command.passes) print(list_passes());
  if (command.model.empty()) {
    if (command.ops || command.passes) return kDone;
    fail(ErrorCode::usage, "no model; name one, or --ops, or --passes");
  }
  Model model = read_onnx(command.model);
  check_input_shapes(command.flags, {&model});
  Json json = describe(model, command.model, command.tensors);
  std::string text;
  if (command.explain) {
    std::vector<std::string> notes;
    const Explanation explanation = explain_alone(model, command, notes);
    json["explain"] = explanation_json(explanation);
    json["notes"] = notes;
    text = explanation_lines(explanation);
    for (const std::string& note : notes) text += "note: " + printable(note) + "\n";
    text += explanation_table(explanation);
  }
  print(command.flags.json ? json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n"
                           : printable_lines(table(json)) + text);
  return kDone;
}

}  // namespace

Run add_inspect(CLI::App& program) {
  CLI::App* command = program.add_subcommand(
      "inspect", "what is in a model, what could be made smaller, and what could not and why");
  command->footer(
      "Examples:\n"
      "  compress inspect model.onnx\n"
      "  compress inspect model.onnx --tensors --json\n"
      "  compress inspect int8.onnx --explain\n"
      "  compress inspect --ops\n"
      "--explain tells why a quantized model is not faster: which nodes ONNX Runtime computes in\n"
      "integers, which in float, which weights it dequantizes on each run, by rule, or as its "
      "own\n"
      "optimizer says where Python has onnxruntime (COMPRESS_PYTHON names another Python).\n");
  auto state = std::make_shared<Command>();
  command->add_option("MODEL", state->model, "the model to read (.onnx)");
  command->add_flag("--json", state->flags.json, "print JSON");
  command->add_flag("--tensors", state->tensors, "list each weight with its type");
  command->add_flag("--explain", state->explain,
                    "run it once on noise: the kernel of each node here and in ONNX Runtime, and "
                    "what keeps it from being faster");
  command->add_flag("--rules-only", state->rules_only,
                    "with --explain: do not ask ONNX Runtime, even where Python has it");
  command->add_flag("--ops", state->ops, "list the operators that this program runs");
  command->add_flag("--passes", state->passes, "list the steps and their passes");
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  return [state] { return run(*state); };
}

}  // namespace compress
