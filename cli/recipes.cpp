#include "cli/recipes.h"

#include <cstdio>
#include <filesystem>
#include <vector>

#include "cli/command.h"
#include "compress/core/nearest.h"
#include "compress/error.h"
#include "formats/file.h"
#include "passes/pass.h"
#include "report_schema.h"

namespace compress {
namespace {

constexpr uint64_t kMaxRecipeBytes = uint64_t{16} << 20;

constexpr ReadyRecipe kReady[] = {
    {"cpu-int8", "int8", "int8 for CPUs: static with calibration data, dynamic for transformers",
     R"({"schema": "compress.recipe/1", "steps": [{"quantize": {"weights": "int8"}}]})"},
    {"cpu-int4-llm", "q4", "language models on CPUs: int4 blocks of 32, embeddings included",
     R"({"schema": "compress.recipe/1", "steps": [{"quantize": {"mode": "weight-only",
         "weights": "int4", "granularity": "block:32"}}]})"},
    {"edge-small", "small",
     "the smallest int8 that keeps its accuracy: GPTQ rounding and bias correction, one scale a "
     "tensor; wants calibration data",
     R"({"schema": "compress.recipe/1", "steps": [{"quantize": {"mode": "static",
         "granularity": "tensor", "algorithm": "gptq", "recover": ["bias", "equalize"]}}]})"},
    {"gpu-int8", "int8_gpu",
     "TensorRT and the like: int8 activations with zero point 0; wants data",
     R"({"schema": "compress.recipe/1", "steps": [{"quantize": {"mode": "static",
         "activations": "int8", "symmetric-activations": true}}]})"},
    {"sparse-int8", "sparse_int8", "half of the weights zero, the others int8",
     R"({"schema": "compress.recipe/1", "steps": [{"prune": {"sparsity": 0.5}},
         {"quantize": {"weights": "int8"}}]})"},
};

Json type_schema(const OptionDef& def) {
  switch (def.type) {
    case OptionType::flag:
      return {{"type", "boolean"}};
    case OptionType::integer:
    case OptionType::number: {
      Json json = {{"type", def.type == OptionType::integer ? "integer" : "number"}};
      const size_t dots = def.choices.find("..");
      if (dots == std::string_view::npos) return json;
      const auto bound = [&](const char* key, std::string_view text) {
        if (!text.empty()) json[key] = option_from_text({"", OptionType::number, "", ""}, text);
      };
      bound("minimum", def.choices.substr(0, dots));
      bound("maximum", def.choices.substr(dots + 2));
      return json;
    }
    case OptionType::choice: {
      Json json = {{"type", "string"}, {"enum", Json::array()}};
      for (std::string_view rest = def.choices; !rest.empty();) {
        const size_t bar = std::min(rest.find('|'), rest.size());
        json["enum"].push_back(rest.substr(0, bar));
        rest.remove_prefix(std::min(bar + 1, rest.size()));
      }
      return json;
    }
    case OptionType::text:
      return {{"type", "string"}};
    case OptionType::list:
      return {{"type", "array"}, {"items", {{"type", "string"}}}};
  }
  return Json::object();
}

// From the rows that flags and help are made from.
Json recipe_schema() {
  Json steps = Json::array();
  for (const StepDef& step : all_steps()) {
    Json options = {{"type", "object"}, {"additionalProperties", false}};
    for (const OptionDef& def : step.options) {
      Json row = type_schema(def);
      row["description"] = def.help;
      if (!def.fallback.empty()) row["default"] = option_from_text(def, def.fallback);
      options["properties"][std::string(def.name)] = row;
    }
    steps.push_back({{"type", "object"},
                     {"description", step.summary},
                     {"required", {step.name}},
                     {"additionalProperties", false},
                     {"properties", {{std::string(step.name), options}}}});
  }
  Json roles = Json::object();
  for (const char* role : {"data", "calibration", "eval", "train", "labels"}) {
    roles[role] = {{"type", "string"}};
  }
  const Json strings = {{"type", "array"}, {"items", {{"type", "string"}}}};
  return {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
          {"title", "compress.recipe/1"},
          {"type", "object"},
          {"required", {"schema", "steps"}},
          {"additionalProperties", false},
          {"properties",
           {{"schema", {{"const", "compress.recipe/1"}}},
            {"steps", {{"type", "array"}, {"minItems", 1}, {"items", {{"oneOf", steps}}}}},
            {"data",
             {{"description", "a path, or paths by role; relative to the recipe"},
              {"oneOf",
               {{{"type", "string"}},
                {{"type", "object"}, {"additionalProperties", false}, {"properties", roles}},
                {{"type", "null"}}}}}},
            {"seed", {{"type", "integer"}, {"minimum", 0}}},
            {"gates", strings}}}};
}

}  // namespace

std::span<const ReadyRecipe> ready_recipes() { return kReady; }

NamedRecipe load_recipe(const std::string& name) {
  const std::filesystem::path path(name);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    std::vector<std::string_view> names;
    for (const ReadyRecipe& row : kReady) {
      if (row.name == name) return {name, std::string(row.suffix), "", Recipe::parse(row.text)};
      names.push_back(row.name);
    }
    if (path.extension().empty() && !path.has_parent_path()) {
      fail(ErrorCode::usage, "there is no file and no ready recipe '{}'{}", name,
           suggestion(name, names));
    }
  }
  Recipe recipe = in_context([&] { return name; },
                             [&] { return Recipe::parse(read_file(name, kMaxRecipeBytes)); });
  if (recipe.steps.empty()) fail(ErrorCode::usage, "{} has no steps", name);
  return {name, path.stem().string(), path.parent_path().string(), std::move(recipe)};
}

Run add_recipes(CLI::App& program) {
  CLI::App* command = program.add_subcommand("recipes", "list the ready recipes, or print one");
  auto name = std::make_shared<std::string>();
  command->add_option("NAME", *name, "the recipe to print, to start your own from");
  command->footer(
      "Examples:\n"
      "  compress recipes\n"
      "  compress recipes cpu-int8 > mine.json\n"
      "  compress run model.onnx -o out.onnx --recipe cpu-int8 --data images.json\n");
  return [name] {
    if (name->empty()) {
      for (const ReadyRecipe& row : kReady) {
        std::printf("%-14s %s\n", std::string(row.name).c_str(), std::string(row.goal).c_str());
      }
      return int{kDone};
    }
    std::vector<std::string_view> names;
    for (const ReadyRecipe& row : kReady) {
      names.push_back(row.name);
      if (row.name != *name) continue;
      std::printf("%s\n", parse_json(row.text, "recipe").dump(2).c_str());
      return int{kDone};
    }
    fail(ErrorCode::usage, "there is no ready recipe '{}'{}", *name, suggestion(*name, names));
  };
}

Run add_schema(CLI::App& program) {
  CLI::App* command =
      program.add_subcommand("schema", "print the JSON Schema of recipes, or of reports");
  command->footer(
      "Examples:\n"
      "  compress schema > recipe.schema.json          # for editors that complete recipes\n"
      "  compress schema report > report.schema.json   # for what reads --report x.json\n");
  auto of = std::make_shared<std::string>("recipe");
  command->add_option("OF", *of, "recipe (default) or report")
      ->check(CLI::IsMember({"recipe", "report"}));
  return [of] {
    std::printf("%s\n", *of == "report" ? kReportSchema : recipe_schema().dump(2).c_str());
    return int{kDone};
  };
}

}  // namespace compress
