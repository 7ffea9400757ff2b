// The job as plain data: options with their types and defaults, steps, seed, gates.
//
// Each command and pass declares options[]; flags, JSON, the recipe's schema and docs are all made
// from those rows. Option names are the long flags without dashes.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace compress {

using Json = nlohmann::ordered_json;

enum class OptionType { flag, integer, number, text, choice, list };

struct OptionDef {
  std::string_view name;  // "block-size"
  OptionType type;
  std::string_view fallback;      // the default as it would be written; "" where there is none
  std::string_view help;          // one line; says what changes and when to change it
  std::string_view choices = "";  // choice: "a|b|c"; integer and number: "min..max"
};

// The value as written on a command line, in its JSON type; commas separate the items of a list,
// except inside brackets. Fails (usage) on wrong types and on values outside the range.
Json option_from_text(const OptionDef& def, std::string_view text);

// The resolved values of a step. Reading a name that the rows do not declare is a programmer error.
class Options {
 public:
  Options() = default;
  // Applies `given` (a JSON object of option -> value) to the defaults of `defs`. Fails (usage) on
  // unknown keys, naming the nearest, on wrong types and on values outside the range.
  Options(std::span<const OptionDef> defs, const Json& given);

  bool has(std::string_view name) const;  // given, or with a default
  bool given(std::string_view name) const;
  bool flag(std::string_view name) const;
  int64_t integer(std::string_view name) const;
  double number(std::string_view name) const;
  std::string text(std::string_view name) const;  // text and choice
  std::vector<std::string> list(std::string_view name) const;
  const Json& json() const { return values_; }  // every option with a value, in the rows' order

 private:
  Json values_ = Json::object();
  std::vector<std::string> given_;
};

struct Step {
  std::string name;  // "optimize", "prune", "quantize"
  Json options = Json::object();
};

// {"schema": "compress.recipe/1", "steps": [{"quantize": {"mode": "static"}}], "data": ...,
//  "seed": 0, "gates": ["top1_drop<=1%"]}
struct Recipe {
  std::vector<Step> steps;
  Json data = nullptr;  // role -> path or spec
  uint64_t seed = 0;
  std::vector<std::string> gates;

  // Fails (usage) naming the key at fault. Nesting is limited to 64.
  static Recipe parse(std::string_view text);
  Json to_json() const;
};

// JSON text with a depth limit and without duplicate keys; fails (usage) with line and reason.
Json parse_json(std::string_view text, std::string_view what);

}  // namespace compress
