#include "compress/report/gate.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "compress/error.h"

namespace compress {
namespace {

constexpr std::string_view kShape = "METRIC OP NUMBER[%], as in 'top1_drop<=1%'";

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

bool strip(std::string_view& text, std::string_view suffix) {
  if (text.size() <= suffix.size() || text.substr(text.size() - suffix.size()) != suffix)
    return false;
  text.remove_suffix(suffix.size());
  return true;
}

double parse_bound(std::string_view expression, std::string_view text) {
  text = trim(text);
  const bool percent = strip(text, "%");
  if (percent) text = trim(text);
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (text.empty() || error != std::errc() || stop != end || !std::isfinite(value)) {
    fail(ErrorCode::usage, "gate '{}': '{}' is no number; write {}", expression, text, kShape);
  }
  return percent ? value / 100 : value;
}

double number_or_nan(const Json& json) {
  if (json.is_number()) return json.get<double>();
  if (json == "inf") return std::numeric_limits<double>::infinity();
  if (json == "-inf") return -std::numeric_limits<double>::infinity();
  return std::numeric_limits<double>::quiet_NaN();
}

double gated_value(const Gate& gate, const Measured& value) {
  switch (gate.of) {
    case Gate::Of::drop:
      return drop(*gate.metric, value);
    case Gate::Of::relative_drop:
      return relative_drop(*gate.metric, value);
    case Gate::Of::candidate:
      break;
  }
  return value.candidate;
}

}  // namespace

bool Gate::holds(double value) const {
  switch (op) {
    case Op::less_equal:
      return value <= bound;
    case Op::greater_equal:
      return value >= bound;
    case Op::less:
      return value < bound;
    case Op::greater:
      return value > bound;
    case Op::equal:
      return value == bound;
  }
  return false;
}

Gate parse_gate(std::string_view expression) {
  Gate gate;
  gate.expression = std::string(trim(expression));
  const size_t at = expression.find_first_of("<>=");
  if (at == std::string_view::npos) {
    fail(ErrorCode::usage, "gate '{}' has no comparison; write {}", expression, kShape);
  }
  struct Row {
    std::string_view text;
    Gate::Op op;
  };
  constexpr Row kOps[] = {{"<=", Gate::Op::less_equal},
                          {">=", Gate::Op::greater_equal},
                          {"==", Gate::Op::equal},
                          {"<", Gate::Op::less},
                          {">", Gate::Op::greater}};
  const Row* op = nullptr;
  for (const Row& row : kOps) {
    if (expression.substr(at, row.text.size()) == row.text) {
      op = &row;
      break;
    }
  }
  if (op == nullptr) {
    fail(ErrorCode::usage, "gate '{}': the comparison is one of <= >= < > ==; write {}", expression,
         kShape);
  }
  gate.op = op->op;
  gate.bound = parse_bound(expression, expression.substr(at + op->text.size()));
  std::string_view name = trim(expression.substr(0, at));
  if (strip(name, "_drop_rel")) {
    gate.of = Gate::Of::relative_drop;
  } else if (strip(name, "_drop")) {
    gate.of = Gate::Of::drop;
  }
  gate.metric = &find_metric(name);
  return gate;
}

std::vector<GateResult> check_gates(const std::vector<Gate>& gates, const Measurements& values,
                                    const Measurements* baseline) {
  std::vector<GateResult> out;
  for (const Gate& gate : gates) {
    const auto row = values.find(gate.metric->name);
    if (row == values.end()) {
      fail(ErrorCode::usage, "gate '{}': {} was not measured; it needs {}", gate.expression,
           gate.metric->name, describe(gate.metric->needs));
    }
    Measured value = row->second;
    if (baseline != nullptr && gate.of != Gate::Of::candidate) {
      const auto earlier = baseline->find(gate.metric->name);
      if (earlier == baseline->end()) {
        fail(ErrorCode::usage, "gate '{}': the baseline report holds no {}", gate.expression,
             gate.metric->name);
      }
      value.reference = earlier->second.candidate;
    }
    const double number = gated_value(gate, value);
    bool passed = gate.holds(number);
    // Two runs on different days: what noise explains is no regression.
    if (baseline != nullptr && gate.of != Gate::Of::candidate && value.interval) {
      for (const double end : {value.interval->first, value.interval->second}) {
        passed = passed || gate.holds(gated_value(gate, {value.reference, end}));
      }
    }
    out.push_back({gate.expression, number, passed});
  }
  return out;
}

Measurements read_baseline(std::string_view text, std::string_view what) {
  const Json json = parse_json(text, what);
  const bool known = json.is_object() && json.value("schema", Json()) == "compress.report/1";
  if (!known) fail(ErrorCode::usage, "{} is no report of this program (compress.report/1)", what);
  Measurements out;
  const auto measured = json.find("metrics");
  if (measured == json.end() || !measured->is_object()) return out;
  for (const auto& [name, value] : measured->items()) {
    if (!value.is_object()) continue;
    out[name] = {number_or_nan(value.value("reference", Json())),
                 number_or_nan(value.value("candidate", Json()))};
  }
  return out;
}

}  // namespace compress
