#include "cli/job.h"
#include "cli/search.h"
#include "cli/training.h"
#include "passes/pass.h"

namespace compress {
namespace {

struct Command {
  CommonFlags flags;
  StepFlags step;
  SearchFlags search;
  std::string model;
};

struct Examples {
  std::string_view step;
  std::string_view text;
};

constexpr Examples kExamples[] = {
    {"optimize",
     "Examples:\n"
     "  compress optimize model.onnx -o small.onnx\n"
     "  compress optimize old.onnx -o new.onnx --opset 17\n"},
    {"prune",
     "Examples:\n"
     "  compress prune model.onnx -o sparse.onnx --sparsity 0.5\n"
     "  compress prune model.onnx -o sparse.onnx --sparsity 0.3 --data test.npz \\\n"
     "      --gate 'top1_drop<=1%'\n"
     "  compress prune model.onnx -o sparse.onnx --granularity 2:4\n"
     "  compress prune model.onnx -o sparse.onnx --granularity block:4x4 --sparsity 0.7\n"
     "  compress prune model.onnx -o sparse.onnx --method sparsegpt --data images.json\n"
     "  compress prune model.onnx -o small.onnx --granularity channel --sparsity 0.3 \\\n"
     "      --method sparsegpt --data images.json\n"
     "  compress prune bert.onnx -o small.onnx --granularity head --sparsity 0.25\n"
     "  compress prune model.onnx -o sparse.onnx --data images.json --max-drop 1%\n"
     "Weights become zero and the file keeps its size, except with --granularity channel or head:\n"
     "those leave the model. Accuracy comes back with compress distill (--keep-sparsity holds "
     "zeros).\n"},
    {"quantize",
     "Examples:\n"
     "  compress quantize cnn.onnx -o int8.onnx --mode static --data images.json\n"
     "  compress quantize bert.onnx -o int4.onnx --mode weight-only --weights int4\n"
     "  compress quantize bert.onnx -o int8.onnx --mode dynamic\n"
     "  compress quantize cnn.onnx -o int8.onnx --data test.npz --gate 'top1_drop<=1%' \\\n"
     "      --gate 'size_ratio<=0.3' --report report.json --report report.md\n"
     "  compress quantize cnn.onnx -o small.onnx --data images.json --max-drop 0.5% --minimize "
     "size\n"
     "  compress quantize cnn.onnx -o half.onnx --mode weight-only --weights float16\n"
     "Without --mode the choice follows the model and the data, and is explained.\n"},
    {"distill",
     "Examples:\n"
     "  compress distill small.onnx --teacher large.onnx -o better.onnx --data images.json\n"
     "  compress distill sparse.onnx --teacher dense.onnx -o out.onnx --keep-sparsity \\\n"
     "      --data train.npz --eval-data test.npz --gate 'top1_drop<=1%'\n"
     "  compress distill model.onnx -o tuned.onnx --data train.npz --lr 1e-4     (on labels)\n"
     "  compress distill model.onnx -o int8.onnx --qat int8 --teacher input --data images.json\n"
     "The best epoch is kept, by samples held back; the start counts as one.\n"},
    {"train",
     "Examples:\n"
     "  compress train net.onnx -o trained.onnx --train-data train.json --eval-data test.json \\\n"
     "      --epochs 3 --batch 128\n"},
};

Run add_step(CLI::App& program, const StepDef& step) {
  const std::string name(step.name);
  CLI::App* command = program.add_subcommand(name, std::string(step.summary));
  for (const Examples& examples : kExamples) {
    if (examples.step == step.name) command->footer(std::string(examples.text));
  }
  auto state = std::make_shared<Command>();
  command->add_option("MODEL", state->model, "the model to read (.onnx)")->required();
  add_output_flags(*command, state->flags);
  add_data_flags(*command, state->flags, step.wants != nullptr || name == "prune");
  // Pruning asks more of layers' inputs than a statistics file holds.
  if (name == "prune") command->remove_option(command->get_option("--statistics"));
  if (trains(step.name)) add_training_flags(*command, state->flags);
  state->step.add(*command, step.options);
  if (name == "quantize" || name == "prune") add_search_flags(*command, name, state->search);
  add_report_flags(*command, state->flags);
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  return [state, name] {
    Job job{name, state->model, {}};
    job.recipe.seed = state->flags.seed;
    job.recipe.gates = state->flags.gates;
    job.recipe.steps = {{name, state->step.given()}};
    if (!state->search.max_drop.empty()) {
      return run_search(std::move(job), state->flags, state->search);
    }
    return run_job(std::move(job), state->flags);
  };
}

}  // namespace

std::vector<Run> add_steps(CLI::App& program) {
  std::vector<Run> runs;
  for (const StepDef& step : all_steps()) runs.push_back(add_step(program, step));
  return runs;
}

}  // namespace compress
