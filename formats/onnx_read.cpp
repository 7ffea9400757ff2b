#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "compress/graph/label.h"
#include "compress/graph/limits.h"
#include "formats/onnx.h"
#include "formats/onnx_check.h"
#include "formats/onnx_fields.h"
#include "formats/onnx_reader.h"
#include "formats/onnx_scales.h"
#include "formats/wire.h"

namespace compress {
namespace {

namespace field = onnx_field;

// Above these, strict shape inference would take more than a second or two and is left out
// (measured: 1.4 s where calls of functions amount to 100,000 nodes, 0.8 s for the whole reading of
// a chain of as many); operators infer shapes again before they run.
constexpr int64_t kMaxInferredNodes = 200'000;
constexpr int64_t kMaxInferredCalls = 20'000;

std::string_view shown(std::string_view domain) { return domain.empty() ? "ai.onnx" : domain; }

void read_opset(std::string_view wire, std::map<std::string, int>& opsets) {
  std::string domain;
  int64_t version = 0;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    if (f.number == field::opset::domain) domain = normal_domain(f.text());
    if (f.number == field::opset::version) version = f.int64();
  }
  if (version < 1 || version > std::numeric_limits<int>::max()) {
    fail(ErrorCode::invalid_model, "opset {} of domain '{}' cannot be", version, shown(domain));
  }
  if (domain.empty() && version > newest_opset()) {
    fail(ErrorCode::unsupported, "opset {} is newer than the newest known one, {}", version,
         newest_opset());
  }
  if (!opsets.emplace(domain, static_cast<int>(version)).second) {
    fail(ErrorCode::invalid_model, "domain '{}' is imported twice", shown(domain));
  }
}

struct FunctionWire {
  std::vector<std::string_view> nodes;
  std::vector<std::string_view> defaults;
};

FunctionWire scan_function(std::string_view wire, Function& function) {
  FunctionWire parts;
  function.wire = wire;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    switch (f.number) {
      case field::function::name:
        function.name = f.string();
        break;
      case field::function::domain:
        function.domain = normal_domain(f.text());
        break;
      case field::function::overload:
        function.overload = f.string();
        break;
      case field::function::input:
        function.inputs.push_back(f.string());
        break;
      case field::function::output:
        function.outputs.push_back(f.string());
        break;
      case field::function::attribute:
        function.attributes.push_back(f.string());
        break;
      case field::function::attribute_proto:
        parts.defaults.push_back(f.text());
        break;
      case field::function::node:
        parts.nodes.push_back(f.text());
        break;
      case field::function::opset_import:
        read_opset(f.text(), function.opsets);
        break;
      default:
        break;
    }
  }
  return parts;
}

void declare_outputs(const std::vector<std::string_view>& nodes, Graph& graph) {
  for (const std::string_view wire : nodes) {
    WireReader reader(wire);
    for (WireField f; reader.next(f);) {
      if (f.number == field::node::output && !f.text().empty()) graph.add_value(f.string(), {});
    }
  }
}

// --- Calls of functions ------------------------------------------------------------------------

class CallCheck {
 public:
  explicit CallCheck(const Model& model) : model_(model), limit_(max_inlined_nodes(model)) {
    for (size_t i = 0; i < model.functions.size(); ++i) {
      const Function& f = model.functions[i];
      if (!index_.emplace(key(f.domain, f.name, f.overload), i).second) {
        fail(ErrorCode::invalid_model, "function '{}' of domain '{}' is defined twice", f.name,
             f.domain);
      }
    }
    sizes_.assign(model.functions.size(), kUnknown);
  }

  // Number of nodes after inlining everything.
  int64_t run() { return graph_size(model_.graph, 0); }

 private:
  static constexpr int64_t kUnknown = -1;
  static constexpr int64_t kOpen = -2;
  static constexpr int kMaxCallDepth = 100;

  static std::string key(const std::string& domain, const std::string& name,
                         const std::string& overload) {
    return domain + '\0' + name + '\0' + overload;
  }

  int64_t graph_size(const Graph& graph, int depth) {
    int64_t total = 0;
    for (NodeId id = 0; id < graph.node_slots(); ++id) {
      const Node& node = graph.node(id);
      total += node_size(graph, node, depth);
      for (const Body& body : node.bodies) total += graph_size(*body.graph, depth);
      if (total > limit_ && !index_.empty()) {
        fail(ErrorCode::unsupported, "inlining the model's functions gives more than {} nodes",
             limit_);
      }
    }
    return total;
  }

  int64_t node_size(const Graph& graph, const Node& node, int depth) {
    if (index_.empty()) return 1;
    const auto row = index_.find(key(node.domain, node.op_type, node.overload));
    if (row == index_.end()) return 1;
    const Function& function = model_.functions[row->second];
    int64_t& size = sizes_[row->second];
    if (size == kOpen || depth > kMaxCallDepth) {
      fail(ErrorCode::invalid_model, "function '{}' calls itself, or the calls nest too deep",
           function.name);
    }
    if (node.inputs.size() > function.inputs.size() ||
        node.outputs.size() > function.outputs.size()) {
      fail(ErrorCode::invalid_model,
           "{} calls function '{}' of {} inputs and {} outputs with {} and {}",
           describe(graph, node), function.name, function.inputs.size(), function.outputs.size(),
           node.inputs.size(), node.outputs.size());
    }
    if (size == kUnknown) {
      size = kOpen;
      const int64_t found = graph_size(*function.graph, depth + 1);
      size = found;
    }
    return size;
  }

  const Model& model_;
  int64_t limit_;
  std::unordered_map<std::string, size_t> index_;
  std::vector<int64_t> sizes_;
};

// --- The model ---------------------------------------------------------------------------------

void refuse_other_formats(std::string_view wire) {
  if (wire.empty()) fail(ErrorCode::invalid_model, "the file is empty");
  if (wire.starts_with("version https://git-lfs")) {
    fail(ErrorCode::invalid_model, "it is a Git LFS pointer; fetch the file with git lfs pull");
  }
}

void scan_model(std::string_view wire, Model& model, std::string_view& graph,
                std::vector<std::string_view>& functions) {
  bool has_graph = false;
  model.ir_version = 0;
  WireReader reader(wire);
  for (WireField f; reader.next(f);) {
    switch (f.number) {
      case field::model::ir_version:
        model.ir_version = f.int64();
        break;
      case field::model::producer_name:
        model.producer_name = f.string();
        break;
      case field::model::producer_version:
        model.producer_version = f.string();
        break;
      case field::model::domain:
        model.domain = f.string();
        break;
      case field::model::model_version:
        model.model_version = f.int64();
        break;
      case field::model::doc_string:
        model.doc_string = f.string();
        break;
      case field::model::graph:
        // Protobuf would merge the two; nothing writes such files on purpose.
        if (has_graph) fail(ErrorCode::invalid_model, "the file holds two graphs");
        graph = f.text();
        has_graph = true;
        break;
      case field::model::opset_import:
        read_opset(f.text(), model.opsets);
        break;
      case field::model::metadata_props:
        model.metadata.push_back(read_entry(f.text()));
        break;
      case field::model::functions:
        functions.push_back(f.text());
        break;
      default:
        model.unknown_fields += f.whole;
        break;
    }
  }
  if (!has_graph) fail(ErrorCode::invalid_model, "not an ONNX model: it has no graph");
  if (model.opsets.empty()) fail(ErrorCode::invalid_model, "the model imports no opset");
  if (model.ir_version < 1 || model.ir_version > newest_ir_version()) {
    fail(model.ir_version < 1 ? ErrorCode::invalid_model : ErrorCode::unsupported,
         "IR version {}; known are 1 to {}", model.ir_version, newest_ir_version());
  }
}

}  // namespace

Function read_function(std::string_view wire, ReadState& state, bool partial) {
  Function function;
  const FunctionWire parts = scan_function(wire, function);
  const auto describe = [&] { return "function '" + function.name + "'"; };
  in_context(describe, [&] {
    auto graph = std::make_shared<Graph>();
    graph->name = function.name;
    GraphScope scope{*graph, nullptr, nullptr, 0, true};
    for (const std::string& input : function.inputs) graph->add_input(input, {});
    declare_outputs(parts.nodes, *graph);
    for (const std::string_view attribute : parts.defaults) {
      function.attribute_defaults.push_back(read_attribute(attribute, scope, state));
    }
    read_nodes(parts.nodes, scope, state);
    for (const std::string& output : function.outputs) {
      ValueId id = graph->find_value(output);
      if (id == kNoValue && partial) id = graph->add_value(output, {});
      if (id == kNoValue) {
        fail(ErrorCode::invalid_model, "its output '{}' is produced nowhere", output);
      }
      graph->add_output(id);
    }
    function.graph = std::move(graph);
  });
  return function;
}

Model read_model(std::string_view wire, TensorSource& source, const ReadOptions& options) {
  refuse_other_formats(wire);
  Model model;
  model.operator_function = onnx_operator_function;
  std::string_view graph;
  std::vector<std::string_view> functions;
  scan_model(wire, model, graph, functions);
  ReadState state{source, options.max_nodes};
  GraphScope scope{model.graph, nullptr, nullptr, 0, false};
  read_graph(graph, scope, state);
  if (model.graph.outputs().empty()) fail(ErrorCode::invalid_model, "the graph has no outputs");
  for (const std::string_view function : functions) {
    model.functions.push_back(read_function(function, state));
  }
  const int64_t nodes = CallCheck(model).run();
  if (options.check) {
    check_cut_model(cut_model(wire, Cut::for_checker, source));
    const bool has_calls = !model.functions.empty();
    if (nodes <= (has_calls ? kMaxInferredCalls : kMaxInferredNodes))
      infer_cut_model(cut_model(wire, Cut::for_inference, source));
    check_scales(model.graph);
  }
  return model;
}

Model read_onnx(const std::string& path, const ReadOptions& options) {
  const auto file = MappedFile::open(path);
  return in_context(
      [&] { return path; },
      [&] {
        if (file->bytes().size() > options.max_model_bytes) {
          fail(ErrorCode::unsupported, "the file has {} bytes, more than the {} that are allowed",
               file->bytes().size(), options.max_model_bytes);
        }
        const size_t slash = path.rfind('/');
        const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
        TensorSource source(file, folder, true);
        Model model = read_model(file->text(), source, options);
        model.path = path;
        model.file_bytes = file->bytes().size() + source.external_bytes();
        return model;
      });
}

Tensor read_tensor_file(const std::string& path, std::string* name) {
  const auto file = MappedFile::open(path);
  return in_context([&] { return path; },
                    [&] {
                      TensorSource source(file, "", false);
                      const TensorWire wire = scan_tensor(file->text());
                      if (name != nullptr) *name = wire.name;
                      return read_tensor(wire, source);
                    });
}

}  // namespace compress
