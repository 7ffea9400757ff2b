// The layers of a search, and one of them at a time.
#include <algorithm>

#include "compress/error.h"
#include "passes/quantize/linear.h"
#include "passes/quantize/precision.h"
#include "passes/search/search.h"

namespace compress {
namespace {

constexpr int64_t kLeastWeights = 1024;  // below it no precision saves what its nodes cost

// The rows of --weights grow with the kernels.
bool knows_weights(std::string_view name) {
  for (const OptionDef& def : find_step("quantize").options) {
    if (def.name != "weights") continue;
    const std::string choices = "|" + std::string(def.choices) + "|";
    return choices.find("|" + std::string(name) + "|") != std::string::npos;
  }
  return false;
}

std::vector<std::string> product_ladder() {
  std::vector<std::string> out;
  if (knows_weights("int2")) out.push_back("weight-only/int2/block:32");
  for (const char* row : {"weight-only/int4/block:256", "weight-only/int4/block:128",
                          "weight-only/int4/block:32", "weight-only/int8/block:128"}) {
    out.emplace_back(row);
  }
  return out;
}

int64_t block_of(std::string_view precision) {
  const size_t at = precision.find("block:");
  return at == std::string_view::npos ? 0
                                      : std::atoll(std::string(precision.substr(at + 6)).c_str());
}

// `k`: elements of a row of weights; blocks beyond it would be padding.
std::vector<std::string> ladder_of(const Node& node, bool transformer, int64_t k) {
  std::vector<std::string> out;
  if (node.is("Gather")) {
    out = {"weight-only/int4/block:256", "weight-only/int4/block:32", "weight-only/int8/tensor"};
  } else if (node.is("Conv")) {
    out = {"static/int4/channel", "static/int8/channel", "weight-only/int8/channel"};
  } else {
    out = product_ladder();
    if (!transformer) {
      out.insert(out.end() - 1, {"static/int4/channel", "static/int8/channel"});
    }
  }
  std::erase_if(out,
                [&](const std::string& rung) { return block_of(rung) > std::max<int64_t>(k, 16); });
  out.emplace_back("weight-only/float16");
  out.emplace_back("float32");
  return out;
}

}  // namespace

std::vector<SearchLayer> search_layers(const Model& model) {
  const Graph& graph = model.graph;
  const bool transformer = is_transformer(model);
  std::vector<SearchLayer> layers;
  for (const NodeId id : graph.order()) {
    const Node& node = graph.node(id);
    Linear linear;
    Table table;
    int64_t weights = 0, k = 0;
    if (node.is("Conv")) {
      const Tensor* weight = graph.constant_input(node, 1);
      if (weight != nullptr && weight->dtype() == DType::float32) weights = weight->count();
    } else if (node.is("MatMul") || node.is("Gemm")) {
      if (read_linear(model, id, linear).empty()) weights = linear.k * linear.n;
      k = linear.k;
    } else if (node.is("Gather")) {
      if (read_table(model, id, table).empty()) weights = table.rows * table.width;
      k = table.width;
    }
    if (weights < kLeastWeights) continue;
    layers.push_back(
        {id, label_of(graph, node), node.op_type, weights, ladder_of(node, transformer, k)});
  }
  return layers;
}

int64_t bytes_in(const std::string& precision, int64_t weights) {
  if (precision == "float32") return weights * 4;
  const Precision row = parse_precision(precision);
  if (row.mode == QuantMode::half) return weights * 2;
  const DTypeInfo* type = find_dtype(row.weights.empty() ? "int8" : row.weights);
  const int bits = type != nullptr ? type->bits : row.weights == "int3" ? 4 : 8;
  int64_t bytes = weights * bits / 8;
  if (row.granularity.starts_with("block:")) {
    bytes += weights / std::max<int64_t>(1, block_of(row.granularity)) * 4;
  } else if (bits < 16) {
    bytes += weights / 32;  // scales of channels
  }
  // As many bytes, but such a layer is computed in float: it has to prevent more harm.
  const bool by_weights = row.mode == QuantMode::weight_only && row.granularity == "channel";
  if (row.activations.ends_with("16") || by_weights) bytes += bytes / 8;
  return bytes;
}

Json options_for_layer(const Json& options, const std::string& label,
                       const std::string& precision) {
  Json out = options;
  for (const char* name : {"include", "exclude", "op-types", "rest", "half-io"}) out.erase(name);
  // What no pattern names would get the mode: all others are named.
  out["override"] = {exact_pattern(label) + "=" + precision, ".*=float32"};
  if (!out.contains("mode")) {
    out["mode"] = precision.starts_with("static") ? "static" : "weight-only";
  }
  if (out["mode"] == "static" && !precision.starts_with("static")) out["mode"] = "weight-only";
  if (!precision.starts_with("static")) {
    out.erase("recover");
    out.erase("algorithm");
  }
  return out;
}

SensitivityRow measure_layer(VariantMeter& meter, ReferenceOutputs& seen, const SearchLayer& layer,
                             const std::string& precision, const Json& options,
                             const SearchSettings& settings, const PipelineOptions& pipeline) {
  Model variant = seen.model();
  Recipe recipe;
  recipe.seed = settings.seed;
  const SearchKind& kind = *settings.kind;
  recipe.steps = {{std::string(kind.step), kind.for_layer(options, layer.label, precision)}};
  // The model is optimized already; and what is ahead of the layer has to keep its values.
  PipelineOptions quick = pipeline;
  quick.disabled.insert(quick.disabled.end(), kind.left_out.begin(), kind.left_out.end());
  run_pipeline(variant, recipe, quick);
  const Evaluation evaluation = meter.measure(variant, layer.node);
  SensitivityRow row;
  row.node = layer.label;
  row.op = layer.op;
  row.precision = precision;
  row.weights = layer.weights;
  row.bytes_saved = layer.weights * 4 - kind.bytes(precision, layer.weights);
  row.damage = damage_of(evaluation, seen.damage());
  row.sqnr_db = evaluation.similarity.at("sqnr").candidate;
  row.agreement = evaluation.similarity.at("agreement").candidate;
  row.drop = drop_of(evaluation, settings.metric, settings.relative);
  return row;
}

double drop_of(const Evaluation& evaluation, const std::string& metric, bool relative) {
  const MetricDef& def = find_metric(metric);
  for (const Measurements* rows : {&evaluation.accuracy, &evaluation.similarity}) {
    const auto row = rows->find(metric);
    if (row == rows->end()) continue;
    Measured value = row->second;
    if (metric == "agreement" || metric == "cosine") value.reference = 1;
    return relative ? relative_drop(def, value) : drop(def, value);
  }
  fail(ErrorCode::usage, "the metric {} needs {}", metric, describe(def.needs));
}

}  // namespace compress
