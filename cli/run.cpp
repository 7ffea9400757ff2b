#include <filesystem>

#include "cli/job.h"
#include "compress/error.h"
#include "formats/file.h"

namespace compress {
namespace {

constexpr uint64_t kMaxRecipeBytes = uint64_t{16} << 20;

struct Command {
  CommonFlags flags;
  std::string model;
  std::string recipe;
};

// Paths in a recipe are relative to it; what the command line names wins.
void take_data(const Recipe& recipe, const std::string& path, CommonFlags& flags) {
  const auto folder = std::filesystem::path(path).parent_path();
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
      "Example:\n"
      "  compress run model.onnx -o out.onnx --recipe recipe.json\n"
      "with recipe.json:\n"
      "  {\"schema\": \"compress.recipe/1\",\n"
      "   \"steps\": [{\"prune\": {\"sparsity\": 0.3}}, {\"quantize\": {\"mode\": \"static\"}}],\n"
      "   \"data\": \"test.npz\", \"gates\": [\"top1_drop<=1%\"]}\n"
      "Options of a step are the long flags of its command. Every report holds its recipe.\n");
  auto state = std::make_shared<Command>();
  command->add_option("MODEL", state->model, "the model to read (.onnx)")->required();
  command->add_option("--recipe", state->recipe, "the steps, data, seed and gates")
      ->required()
      ->type_name("FILE");
  add_output_flags(*command, state->flags);
  add_data_flags(*command, state->flags, true);
  add_training_flags(*command, state->flags);
  add_report_flags(*command, state->flags);
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  return [state, command] {
    Job job{"run", state->model, {}};
    job.recipe =
        in_context([&] { return state->recipe; },
                   [&] { return Recipe::parse(read_file(state->recipe, kMaxRecipeBytes)); });
    if (job.recipe.steps.empty()) fail(ErrorCode::usage, "{} has no steps", state->recipe);
    CommonFlags& flags = state->flags;
    take_data(job.recipe, state->recipe, flags);
    if (command->count("--seed") > 0) job.recipe.seed = flags.seed;
    flags.seed = job.recipe.seed;
    flags.gates.insert(flags.gates.begin(), job.recipe.gates.begin(), job.recipe.gates.end());
    job.recipe.gates = flags.gates;
    return run_job(std::move(job), flags);
  };
}

}  // namespace compress
