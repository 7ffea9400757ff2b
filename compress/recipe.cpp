#include "compress/recipe.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>

#include "compress/core/nearest.h"
#include "compress/error.h"

namespace compress {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr std::string_view kSchema = "compress.recipe/1";

std::vector<std::string_view> split_choices(std::string_view choices) {
  std::vector<std::string_view> out;
  while (!choices.empty()) {
    const size_t bar = choices.find('|');
    out.push_back(choices.substr(0, bar));
    choices = bar == std::string_view::npos ? "" : choices.substr(bar + 1);
  }
  return out;
}

// "min..max"; either side may be left out.
struct Limits {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

Limits limits_of(const OptionDef& def) {
  Limits limits;
  const size_t dots = def.choices.find("..");
  if (dots == std::string_view::npos) return limits;
  const std::string low(def.choices.substr(0, dots));
  const std::string high(def.choices.substr(dots + 2));
  if (!low.empty()) limits.min = std::strtod(low.c_str(), nullptr);
  if (!high.empty()) limits.max = std::strtod(high.c_str(), nullptr);
  return limits;
}

bool is_fraction(const OptionDef& def) {
  const Limits limits = limits_of(def);
  return limits.min >= 0 && limits.max <= 1;
}

std::string_view expected(OptionType type) {
  switch (type) {
    case OptionType::flag:
      return "true or false";
    case OptionType::integer:
      return "an integer";
    case OptionType::number:
      return "a number";
    case OptionType::text:
    case OptionType::choice:
      return "a string";
    case OptionType::list:
      return "a list of strings";
  }
  return "";
}

void check_limits(const OptionDef& def, double value) {
  const Limits limits = limits_of(def);
  // Written so that NaN fails.
  if (!(value >= limits.min && value <= limits.max) || std::isinf(value)) {
    fail(ErrorCode::usage, "option '{}' is {}, outside {}", def.name, value,
         def.choices.empty() ? "the finite numbers" : def.choices);
  }
}

// The value in its canonical JSON type, or an error.
Json checked(const OptionDef& def, const Json& value) {
  const auto mistyped = [&]() {
    fail(ErrorCode::usage, "option '{}' wants {}, not {}", def.name, expected(def.type),
         value.dump(-1, ' ', false, Json::error_handler_t::replace));
  };
  switch (def.type) {
    case OptionType::flag:
      if (!value.is_boolean()) mistyped();
      return value;
    case OptionType::integer: {
      if (!value.is_number_integer()) mistyped();
      if (value.is_number_unsigned() &&
          value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        fail(ErrorCode::usage, "option '{}' is too large: {}", def.name, value.dump());
      }
      check_limits(def, value.get<double>());
      return value.get<int64_t>();
    }
    case OptionType::number:
      if (!value.is_number()) mistyped();
      check_limits(def, value.get<double>());
      return value.get<double>();
    case OptionType::text:
      if (!value.is_string()) mistyped();
      return value;
    case OptionType::choice: {
      if (!value.is_string()) mistyped();
      const std::string text = value.get<std::string>();
      const auto choices = split_choices(def.choices);
      for (const std::string_view choice : choices) {
        if (choice == text) return value;
      }
      fail(ErrorCode::usage, "option '{}' cannot be '{}'{}", def.name, text,
           suggestion(text, choices));
    }
    case OptionType::list: {
      if (value.is_string()) return Json::array({value});
      if (!value.is_array()) mistyped();
      for (const Json& item : value) {
        if (!item.is_string()) mistyped();
      }
      return value;
    }
  }
  return value;
}

// Commas separate, except inside brackets: regular expressions are such lists.
Json split_list(std::string_view text) {
  Json out = Json::array();
  std::string item;
  int depth = 0;
  for (const char c : text) {
    if (c == '(' || c == '[' || c == '{') ++depth;
    if (c == ')' || c == ']' || c == '}') --depth;
    if (c == ',' && depth <= 0) {
      out.push_back(item);
      item.clear();
    } else {
      item += c;
    }
  }
  if (!item.empty()) out.push_back(item);
  return out;
}

// Builds the tree while the parser runs, so that depth and keys are checked before memory is spent.
class Reader : public nlohmann::json_sax<Json> {
 public:
  explicit Reader(std::string_view what) : what_(what) {}
  Json take() { return std::move(root_); }

  bool null() override { return place(nullptr) != nullptr; }
  bool boolean(bool value) override { return place(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return place(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return place(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override {
    return place(value) != nullptr;
  }
  bool string(string_t& value) override { return place(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    if (!keys_.back().insert(value).second) {
      fail(ErrorCode::usage, "{}: the key '{}' stands twice in one object", what_, value);
    }
    key_ = std::move(value);
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: reason"
    const std::string_view text = error.what();
    const size_t bracket = text.find("] ");
    fail(ErrorCode::usage, "{}: not valid JSON: {}", what_,
         bracket == std::string_view::npos ? text : text.substr(bracket + 2));
  }

 private:
  Json* place(Json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    // Keys are known to be new: appending avoids ordered_map's linear search for each.
    auto& rows = parent.get_ref<Json::object_t&>();
    rows.Json::object_t::Container::emplace_back(std::move(key_), std::move(value));
    return &rows.back().second;
  }
  bool open(Json value) {
    if (stack_.size() >= kMaxDepth) {
      fail(ErrorCode::usage, "{}: JSON nested deeper than {} levels", what_, kMaxDepth);
    }
    stack_.push_back(place(std::move(value)));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }

  std::string_view what_;
  Json root_;
  std::vector<Json*> stack_;  // the open containers; a parent does not grow while a child is open
  std::vector<std::set<std::string>> keys_;
  std::string key_;
};

Step parse_step(const Json& item, size_t index) {
  if (!item.is_object() || item.size() != 1) {
    fail(ErrorCode::usage,
         "recipe: steps[{}] must be an object with one key, as {{\"quantize\": {{...}}}}", index);
  }
  const auto& [name, options] = item.get_ref<const Json::object_t&>().front();
  if (!options.is_object()) {
    fail(ErrorCode::usage, "recipe: the options of steps[{}] '{}' must be an object", index, name);
  }
  return {name, options};
}

}  // namespace

Json option_from_text(const OptionDef& def, std::string_view text) {
  const auto mistyped = [&]() {
    fail(ErrorCode::usage, "option '{}' wants {}, not '{}'", def.name, expected(def.type), text);
  };
  switch (def.type) {
    case OptionType::flag:
      if (text == "true" || text == "false" || text.empty()) return text == "true";
      mistyped();
      break;
    case OptionType::integer: {
      int64_t value = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      if (error != std::errc() || end != text.data() + text.size()) mistyped();
      return checked(def, value);
    }
    case OptionType::number: {
      double value = 0;
      const char* stop = text.data() + text.size();
      // Fractions may be written as percentages: 50% is 0.5.
      const bool percent = is_fraction(def) && text.ends_with('%');
      if (percent) --stop;
      const auto [end, error] = std::from_chars(text.data(), stop, value);
      if (error != std::errc() || end != stop) mistyped();
      return checked(def, percent ? value / 100 : value);
    }
    case OptionType::text:
    case OptionType::choice:
      return checked(def, std::string(text));
    case OptionType::list:
      return split_list(text);
  }
  return nullptr;
}

Options::Options(std::span<const OptionDef> defs, const Json& given) {
  if (!given.is_object()) fail(ErrorCode::usage, "options must be an object of option and value");
  for (const auto& [key, value] : given.items()) {
    std::vector<std::string_view> names;
    bool known = false;
    for (const OptionDef& def : defs) {
      names.push_back(def.name);
      known = known || def.name == key;
    }
    if (!known) {
      fail(ErrorCode::usage, "unknown option '{}'{}", key,
           names.empty() ? ": this step has none" : suggestion(key, names));
    }
    given_.push_back(key);
  }
  for (const OptionDef& def : defs) {
    const std::string name(def.name);
    if (const auto row = given.find(name); row != given.end()) {
      values_[name] = checked(def, *row);
    } else if (!def.fallback.empty() || def.type == OptionType::flag ||
               def.type == OptionType::list) {
      values_[name] = option_from_text(def, def.fallback);
    }
  }
}

bool Options::has(std::string_view name) const { return values_.contains(std::string(name)); }

bool Options::given(std::string_view name) const {
  for (const std::string& row : given_) {
    if (row == name) return true;
  }
  return false;
}

bool Options::flag(std::string_view name) const { return values_.at(std::string(name)); }
int64_t Options::integer(std::string_view name) const { return values_.at(std::string(name)); }
double Options::number(std::string_view name) const { return values_.at(std::string(name)); }
std::string Options::text(std::string_view name) const { return values_.at(std::string(name)); }
std::vector<std::string> Options::list(std::string_view name) const {
  return values_.at(std::string(name));
}

Json parse_json(std::string_view text, std::string_view what) {
  Reader reader(what);
  constexpr bool kStrict = true, kIgnoreComments = true;
  Json::sax_parse(text.begin(), text.end(), &reader, Json::input_format_t::json, kStrict,
                  kIgnoreComments);
  return reader.take();
}

Recipe Recipe::parse(std::string_view text) {
  const Json json = parse_json(text, "recipe");
  if (!json.is_object()) fail(ErrorCode::usage, "recipe: not a JSON object");
  if (!json.contains("schema") || json["schema"] != Json(std::string(kSchema))) {
    fail(ErrorCode::usage, "recipe: \"schema\" must be \"{}\"", kSchema);
  }
  Recipe recipe;
  for (const auto& [key, value] : json.items()) {
    if (key == "schema") continue;
    if (key == "steps") {
      if (!value.is_array()) fail(ErrorCode::usage, "recipe: 'steps' must be a list");
      for (size_t i = 0; i < value.size(); ++i) recipe.steps.push_back(parse_step(value[i], i));
    } else if (key == "data") {
      if (!value.is_object() && !value.is_string() && !value.is_null()) {
        fail(ErrorCode::usage, "recipe: 'data' must be a path or an object of role and path");
      }
      recipe.data = value;
    } else if (key == "seed") {
      if (!value.is_number_unsigned()) {
        fail(ErrorCode::usage, "recipe: 'seed' must be a non-negative integer");
      }
      recipe.seed = value;
    } else if (key == "gates") {
      const bool strings =
          value.is_array() && std::all_of(value.begin(), value.end(),
                                          [](const Json& item) { return item.is_string(); });
      if (!strings) fail(ErrorCode::usage, "recipe: 'gates' must be a list of strings");
      recipe.gates = value.get<std::vector<std::string>>();
    } else {
      constexpr std::string_view kKeys[] = {"schema", "steps", "data", "seed", "gates"};
      fail(ErrorCode::usage, "recipe: unknown key '{}'{}", key, suggestion(key, kKeys));
    }
  }
  return recipe;
}

Json Recipe::to_json() const {
  Json list = Json::array();
  for (const Step& step : steps) list.push_back(Json{{step.name, step.options}});
  Json json = {{"schema", kSchema}, {"steps", list}};
  if (!data.is_null()) json["data"] = data;
  json["seed"] = seed;
  if (!gates.empty()) json["gates"] = gates;
  return json;
}

}  // namespace compress
