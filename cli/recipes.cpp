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

constexpr std::string_view kVerify = "verify";
constexpr OptionDef kVerifyOptions[] = {
    {"gate", OptionType::list, "", "conditions, as top1_drop<=1%; more than those of \"gates\""},
    {"time-budget", OptionType::number, "30", "most seconds for timing; 0 leaves timing out",
     "0..1000000"},
    {"eval-samples", OptionType::integer, "",
     "samples for verification, evenly spaced; without it all, up to 1000", "1..1099511627776"},
    {"batch", OptionType::integer, "1", "samples in one run", "1..1073741824"},
    {"metric-output", OptionType::text, "",
     "NAME or NAME:AXIS: the output whose arg-max and labels count, and its class axis"},
    {"device", OptionType::choice, "cpu", "where models run; all: the CPU, and a GPU beside it",
     "cpu|cuda|all"},
    {"no-lower", OptionType::flag, "", "run op by op with reference kernels"},
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

Json step_schema(std::string_view name, std::string_view summary, std::span<const OptionDef> defs) {
  Json options = {{"type", "object"}, {"additionalProperties", false}};
  for (const OptionDef& def : defs) {
    Json row = type_schema(def);
    row["description"] = def.help;
    if (!def.fallback.empty()) row["default"] = option_from_text(def, def.fallback);
    options["properties"][std::string(def.name)] = row;
  }
  return {{"type", "object"},
          {"description", summary},
          {"required", {name}},
          {"additionalProperties", false},
          {"properties", {{std::string(name), options}}}};
}

// From the rows that flags and help are made from.
Json recipe_schema() {
  Json steps = Json::array();
  for (const StepDef& step : all_steps()) {
    steps.push_back(step_schema(step.name, step.summary, step.options));
  }
  steps.push_back(step_schema(
      kVerify, "last: how what the other steps made is compared with the input", kVerifyOptions));
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

std::span<const OptionDef> verify_options() { return kVerifyOptions; }

Json take_verification(Recipe& recipe, CommonFlags& flags,
                       const std::function<bool(const std::string&)>& given) {
  for (size_t i = 0; i < recipe.steps.size(); ++i) {
    if (recipe.steps[i].name != kVerify || (i + 1 == recipe.steps.size() && i > 0)) continue;
    fail(ErrorCode::usage, "recipe: {}",
         recipe.steps.size() == 1 ? "there is nothing to verify but a step before it; to compare "
                                    "two models use compress verify"
                                  : "the step 'verify' comes last, after what it is to verify");
  }
  if (recipe.steps.empty() || recipe.steps.back().name != kVerify) return nullptr;
  const Step step = recipe.steps.back();
  recipe.steps.pop_back();
  const Options options = in_context([] { return "step verify"; },
                                     [&] { return Options(kVerifyOptions, step.options); });
  const auto wanted = [&](std::string_view name) {
    return options.given(name) && !given("--" + std::string(name));
  };
  if (wanted("time-budget")) flags.time_budget = options.number("time-budget");
  if (wanted("eval-samples")) flags.eval_samples = options.integer("eval-samples");
  if (wanted("batch")) flags.batch = options.integer("batch");
  if (wanted("metric-output")) flags.metric_output = options.text("metric-output");
  if (wanted("device")) flags.device = options.text("device");
  if (wanted("no-lower")) flags.no_lower = options.flag("no-lower");
  for (const std::string& gate : options.list("gate")) flags.gates.push_back(gate);
  return Json{{std::string(kVerify), step.options}};
}

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
