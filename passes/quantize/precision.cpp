#include "passes/quantize/precision.h"

#include <algorithm>

#include "compress/error.h"
#include "passes/quantize/static_plan.h"
#include "passes/quantize/target.h"

namespace compress {
namespace {

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('/', begin), text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// The opset that a precision needs.
int opset_for(const Options& options, QuantMode mode) {
  switch (mode) {
    case QuantMode::static_: {
      const int bits = info(weight_dtype(options, mode)).bits;
      const int activation_bits = info(activation_dtype(options)).bits;
      return bits == 4 || activation_bits == 16 ? 21 : 13;  // 13: scales by channel
    }
    case QuantMode::dynamic:
      return 11;  // DynamicQuantizeLinear
    case QuantMode::weight_only: {
      if (is_half(weight_dtype(options, mode))) return 13;
      if (options.has("format") && options.text("format") == "qdq") return 21;
      const bool by_channel = granularity_of(options, mode).kind != Granularity::block;
      if (by_channel && info(weight_dtype(options, mode)).bits < 8) return 21;
      return by_channel || !options.list("op-types").empty() ? 13 : 0;
    }
    case QuantMode::half:
      return half_dtype(options) == DType::bfloat16 ? 22 : 7;
    case QuantMode::none:
      break;
  }
  return 0;
}

int needed_opset(const Options& options, QuantMode mode) {
  int needed = opset_for(options, mode);
  const Overrides overrides(options);
  for (const Precision* precision : overrides.kinds()) {
    if (precision->mode == QuantMode::none) continue;
    needed = std::max(needed, opset_for(options_for(options, *precision), precision->mode));
  }
  if (half_dtype(options) == DType::bfloat16) needed = std::max(needed, 22);
  return needed;
}

}  // namespace

Precision parse_precision(std::string_view text) {
  Precision out;
  out.text = text;
  if (text == "float32") return out;
  if (text == "float16" || text == "bfloat16") {
    out.mode = QuantMode::half;
    out.half = find_dtype(text)->dtype;
    return out;
  }
  const std::vector<std::string> parts = split(text);
  const bool is_static = parts[0] == "static";
  out.mode = is_static                   ? QuantMode::static_
             : parts[0] == "dynamic"     ? QuantMode::dynamic
             : parts[0] == "weight-only" ? QuantMode::weight_only
                                         : QuantMode::none;
  if (out.mode == QuantMode::none || parts.size() > (is_static ? 4U : 3U)) {
    fail(ErrorCode::usage,
         "--override: '{}' is no precision; float32, float16, bfloat16 or "
         "MODE[/WEIGHTS[/GRANULARITY[/ACTIVATIONS]]] with MODE static, dynamic or weight-only",
         text);
  }
  if (parts.size() > 1) out.weights = parts[1];
  if (parts.size() > 2) out.granularity = parts[2];
  if (parts.size() > 3) out.activations = parts[3];
  return out;
}

Overrides::Overrides(const Options& options) : rows_(read_overrides(options, "PRECISION")) {
  for (const OverrideRow& row : rows_) {
    precisions_.push_back(parse_precision(row.value));
    const Precision& precision = precisions_.back();
    if (precision.mode == QuantMode::none || precision.mode == QuantMode::half) continue;
    const Options checked = options_for(options, precision);
    weight_dtype(checked, precision.mode);
    granularity_of(checked, precision.mode);
  }
}

const Precision* Overrides::find(const Graph& graph, const Node& node) const {
  const int row = find_override(rows_, graph, node);
  return row < 0 ? nullptr : &precisions_[static_cast<size_t>(row)];
}

std::vector<const Precision*> Overrides::kinds() const {
  std::vector<const Precision*> out;
  for (const Precision& precision : precisions_) {
    const bool known = std::any_of(out.begin(), out.end(), [&](const Precision* before) {
      return before->text == precision.text;
    });
    if (!known) out.push_back(&precision);
  }
  return out;
}

bool Overrides::has(QuantMode mode) const {
  return std::any_of(precisions_.begin(), precisions_.end(),
                     [&](const Precision& precision) { return precision.mode == mode; });
}

DType half_dtype(const Options& options) {
  if (options.has("mode")) {
    const DTypeInfo* row = find_dtype(options.text("mode"));
    if (row != nullptr && is_half(row->dtype)) return row->dtype;
  } else if (!target_of(options).has_integer_kernels && !options.given("rest")) {
    return DType::float16;
  }
  const DType rest = find_dtype(options.text("rest"))->dtype;
  return is_half(rest) ? rest : DType::undefined;
}

Options options_for(const Options& options, const Precision& precision) {
  Json json = options.json();
  json["mode"] = mode_name(precision.mode);
  for (const char* name : {"weights", "granularity", "include", "exclude", "op-types", "override",
                           "rest", "half-io"}) {
    json.erase(name);
  }
  if (!options.given("activations")) json.erase("activations");  // the target's own
  if (!precision.weights.empty()) json["weights"] = precision.weights;
  if (!precision.granularity.empty()) json["granularity"] = precision.granularity;
  if (!precision.activations.empty()) json["activations"] = precision.activations;
  // Rounding that this mode does not know is that of other nodes.
  const std::string algorithm = options.text("algorithm");
  const DTypeInfo* weights = find_dtype(precision.weights);
  const bool is_half_type = weights != nullptr && is_half(weights->dtype);
  const bool rounds = (precision.mode == QuantMode::static_ && algorithm == "gptq") ||
                      (precision.mode == QuantMode::weight_only && !is_half_type &&
                       precision.granularity != "tensor");
  if (!rounds) json.erase("algorithm");
  if (precision.mode != QuantMode::static_) {
    const std::vector<std::string> recover = options.list("recover");
    const bool learns = std::find(recover.begin(), recover.end(), "adaround") != recover.end();
    json.erase("recover");
    if (learns && rounds && precision.mode == QuantMode::weight_only) {
      json["recover"] = {"adaround"};
    }
    json.erase("min-cosine");
    if (json.value("format", "") == "qoperator") json.erase("format");
  }
  return in_context([&] { return "--override " + precision.text; },
                    [&] { return Options(find_step("quantize").options, json); });
}

void restrict_to(Selection& selection, const Graph& graph, const Overrides& overrides,
                 std::string text) {
  if (overrides.empty()) return;
  selection.restrict([&graph, &overrides, text = std::move(text)](const Node& node) -> std::string {
    const Precision* precision = overrides.find(graph, node);
    const std::string_view own = precision == nullptr ? std::string_view() : precision->text;
    if (own == text) return "";
    return own.empty() ? "no --override names it" : fmt::format("{} by --override", own);
  });
}

void restrict_to_static(Selection& selection, const Graph& graph, const Overrides& overrides,
                        bool by_default) {
  if (overrides.empty()) return;
  selection.restrict([&graph, &overrides, by_default](const Node& node) -> std::string {
    const Precision* precision = overrides.find(graph, node);
    if (precision == nullptr) return by_default ? "" : "no --override names it";
    return precision->mode == QuantMode::static_ ? ""
                                                 : fmt::format("{} by --override", precision->text);
  });
}

PassResult raise_opset(Model& model, PassContext& context) {
  PassResult result;
  const ModeChoice choice = choose_mode(model, context.options, context.has_data);
  if (choice.mode == QuantMode::none) return result;
  const int needed = needed_opset(context.options, choice.mode);
  if (model.opset() >= needed) return result;
  if (context.lift_opset == nullptr || !*context.lift_opset) {
    result.skipped.push_back(
        {"", fmt::format("opset {} stays: no version converter is at hand", model.opset())});
    return result;
  }
  const int before = model.opset();
  Model lifted = model;
  try {
    (*context.lift_opset)(lifted, needed);
    check_graph(lifted.graph);
  } catch (const Error& error) {
    result.skipped.push_back({"", fmt::format("opset {} stays: {}", before, error.message())});
    return result;
  }
  model = std::move(lifted);
  result.changed = true;
  result.details = {{"from", before}, {"to", model.opset()}};
  return result;
}

}  // namespace compress
