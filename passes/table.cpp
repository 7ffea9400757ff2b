// Every pass and step of the program. Order matters: it is the order in which they run.
#include <array>

#include "compress/core/nearest.h"
#include "compress/error.h"
#include "passes/optimize/optimize.h"
#include "passes/pass.h"

namespace compress {
namespace {

constexpr PassDef kPasses[] = {
    {"lift_opset", "optimize", "lifts the opset where --opset asks for it", lift_opset},
    {"fold_constants", "optimize", "computes what depends on constants and known shapes alone",
     fold_constants, true},
    {"eliminate_identity", "optimize", "removes nodes that return one of their inputs",
     eliminate_identity, true},
    {"fuse_pad", "optimize", "moves zero padding into the Conv that reads it", fuse_pad, true},
    {"fuse_batch_norm", "optimize", "moves BatchNormalization and biases into Conv and Gemm",
     fuse_batch_norm, true},
    {"eliminate_dead", "optimize", "removes nodes and constants that nothing reads", eliminate_dead,
     true},
    {"deduplicate_constants", "optimize", "makes equal constants one", deduplicate_constants, true},
};

const std::array kOptimizeOptions = {
    OptionDef{"opset", OptionType::integer, "0", "lift the model to this opset; 0 keeps its own",
              "0..99"},
    OptionDef{"max-fold-bytes", OptionType::integer, "67108864",
              "most bytes that one folded result may take", "0..1099511627776"},
};

const std::array kSteps = {
    StepDef{"optimize", "fold, fuse, and drop what does nothing; results stay the same",
            kOptimizeOptions, nullptr, 8},
};

}  // namespace

std::span<const PassDef> all_passes() { return kPasses; }

std::span<const StepDef> all_steps() { return kSteps; }

const StepDef& find_step(std::string_view name) {
  std::vector<std::string_view> names;
  for (const StepDef& step : kSteps) {
    if (step.name == name) return step;
    names.push_back(step.name);
  }
  fail(ErrorCode::usage, "unknown step '{}'{}", name, suggestion(name, names));
}

}  // namespace compress
