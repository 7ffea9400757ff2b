#include <filesystem>

#include "cli/job.h"
#include "cli/recipes.h"
#include "compress/error.h"

namespace compress {
namespace {

struct Command {
  CommonFlags flags;
  std::string model;
  std::string recipe;
};

// Paths in a recipe are relative to it; what the command line names wins.
void take_data(const NamedRecipe& named, CommonFlags& flags) {
  const Recipe& recipe = named.recipe;
  const std::filesystem::path folder(named.folder);
  const auto take = [&](const Json& value, std::string& into, const char* role) {
    if (!value.is_string()) fail(ErrorCode::usage, "recipe: data.{} must be a path", role);
    if (into.empty()) into = (folder / value.get<std::string>()).string();
  };
  if (recipe.data.is_string()) take(recipe.data, flags.data, "data");
  if (!recipe.data.is_object()) return;
  for (const auto& [role, value] : recipe.data.items()) {
    if (role == "data")
      take(value, flags.data, "data");
    else if (role == "calibration")
      take(value, flags.calibration_data, "calibration");
    else if (role == "eval")
      take(value, flags.eval_data, "eval");
    else if (role == "train")
      take(value, flags.train_data, "train");
    else if (role == "labels")
      take(value, flags.labels, "labels");
    else
      fail(ErrorCode::usage,
           "recipe: data has no role '{}'; data, calibration, eval, train, labels", role);
  }
}

}  // namespace

Run add_run(CLI::App& program) {
  CLI::App* command = program.add_subcommand("run", "carry out a recipe: steps in a JSON file");
  command->footer(
      "Examples:\n"
      "  compress run model.onnx -o out.onnx --recipe cpu-int8 --data images.json\n"
      "  compress run model.onnx -o out.onnx --recipe recipe.json\n"
      "with recipe.json:\n"
      "  {\"schema\": \"compress.recipe/1\",\n"
      "   \"steps\": [{\"prune\": {\"sparsity\": 0.3}}, {\"quantize\": {\"mode\": \"static\"}},\n"
      "             {\"verify\": {\"gate\": [\"top1_drop<=1%\"], \"time-budget\": 5}}],\n"
      "   \"data\": \"test.npz\"}\n"
      "Options of a step are the long flags of its command. Every report holds its recipe.\n");
  auto state = std::make_shared<Command>();
  command->add_option("MODEL", state->model, "the model to read (.onnx)")->required();
  command
      ->add_option("--recipe", state->recipe,
                   "the steps, data, seed and gates: a file, or one of `compress recipes`")
      ->required()
      ->type_name("FILE|NAME");
  add_output_flags(*command, state->flags);
  add_data_flags(*command, state->flags, true);
  add_training_flags(*command, state->flags);
  add_report_flags(*command, state->flags);
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  return [state, command] {
    Job job{"run", state->model, {}};
    const NamedRecipe named = load_recipe(state->recipe);
    job.recipe = named.recipe;
    CommonFlags& flags = state->flags;
    take_data(named, flags);
    const std::vector<std::string> on_line = flags.gates;
    job.verification = take_verification(
        job.recipe, flags, [&](const std::string& flag) { return command->count(flag) > 0; });
    if (command->count("--seed") > 0) job.recipe.seed = flags.seed;
    flags.seed = job.recipe.seed;
    // Those of the step stay with it; the report's recipe lists the others.
    std::vector<std::string> gates = job.recipe.gates;
    gates.insert(gates.end(), on_line.begin(), on_line.end());
    flags.gates.insert(flags.gates.begin(), job.recipe.gates.begin(), job.recipe.gates.end());
    job.recipe.gates = std::move(gates);
    return run_job(std::move(job), flags);
  };
}

}  // namespace compress
