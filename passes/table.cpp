// Every pass and step of the program. Order matters: it is the order in which they run.
#include <algorithm>
#include <array>
#include <deque>
#include <utility>

#include "compress/core/nearest.h"
#include "compress/error.h"
#include "passes/distill/distill.h"
#include "passes/optimize/optimize.h"
#include "passes/pass.h"
#include "passes/plugin/plugin.h"
#include "passes/prune/prune.h"
#include "passes/quantize/quantize.h"
#include "passes/recover/channels.h"
#include "passes/recover/input_scales.h"

namespace compress {
namespace {

constexpr PassDef serving(PassDef row) {
  row.serves = true;
  return row;
}

constexpr PassDef kPasses[] = {
    {"lift_opset", "optimize", "lifts the opset where --opset asks for it", lift_opset},
    {"fold_constants", "optimize", "computes what depends on constants and known shapes alone",
     fold_constants, true},
    {"eliminate_identity", "optimize", "removes nodes that return one of their inputs",
     eliminate_identity, true},
    {"capture_invariants", "optimize", "makes what a Loop only hands on a capture of its body",
     capture_invariants, true},
    {"fuse_pad", "optimize", "moves zero padding into the Conv that reads it", fuse_pad, true},
    {"fuse_batch_norm", "optimize", "moves BatchNormalization and biases into Conv and Gemm",
     fuse_batch_norm, true},
    {"eliminate_dead", "optimize", "removes nodes and constants that nothing reads",
     eliminate_dead},
    {"deduplicate_constants", "optimize", "makes equal constants one", deduplicate_constants, true},
    {"prune_magnitude", "prune", "sets the smallest weights to zero", prune_magnitude},
    {"prune_calibrated", "prune",
     "with --method wanda or sparsegpt: zeros by what layers read on calibration data",
     prune_calibrated},
    {"prune_taylor", "prune", "with --method taylor: zeros by weight times gradient", prune_taylor},
    {"remove_channels", "prune",
     "with --granularity channel or head: takes those out, with all that depends on them",
     remove_channels},
    {"distill_model", "distill", "trains the weights on a teacher's outputs, or on labels",
     distill_model},
    {"train_model", "train", "trains the weights from scratch", train_model},
    serving({"widen_half", "quantize",
             "computes in float32 what is in half precision and gets quantized", widen_half}),
    serving({"raise_opset", "quantize", "lifts the opset where quantized operators need it",
             raise_opset}),
    serving({"fold_constants", "quantize", "computes what lifting the opset left constant",
             fold_constants, true}),
    serving({"eliminate_identity", "quantize", "removes nodes that return one of their inputs",
             eliminate_identity, true}),
    serving({"prepare_channels", "quantize",
             "with --recover or gptq: folds channels that never change, equalizes the others",
             prepare_channels}),
    serving({"smooth_inputs", "quantize", "with --recover smooth: evens out what products read",
             smooth_inputs}),
    {"quantize_model", "quantize", "replaces float arithmetic and weights by integers",
     quantize_model, false, true},
    {"fuse_qoperators", "quantize",
     "with --format qoperator: QLinearConv and its kin for Q/DQ around float operators",
     fuse_qoperators},
    {"convert_half", "quantize", "computes in float16 or bfloat16 what stays in floating point",
     convert_half},
    serving({"eliminate_dead", "quantize", "removes float constants that nothing reads any more",
             eliminate_dead}),
};

const std::array kOptimizeOptions = {
    OptionDef{"opset", OptionType::integer, "0", "lift the model to this opset; 0 keeps its own",
              "0..99"},
    OptionDef{"max-fold-bytes", OptionType::integer, "67108864",
              "most bytes that one folded result may take", "0..1099511627776"},
};

constexpr OptionDef kInclude = {"include", OptionType::list, "",
                                "only nodes whose name matches one of these regular expressions"};
constexpr OptionDef kExclude = {"exclude", OptionType::list, "",
                                "no node whose name matches one of these regular expressions"};

const std::array kPruneOptions = {
    OptionDef{"method", OptionType::choice, "magnitude",
              "how weights are ranked; magnitude: by size; on calibration data wanda: by size and "
              "what they multiply; sparsegpt: by what the others cannot make up for, which they "
              "then do; taylor: by what their loss would do to the model's loss (labels are used "
              "where there are some)",
              "magnitude|wanda|sparsegpt|taylor"},
    OptionDef{
        "granularity", OptionType::text, "element",
        "what goes as one; element: single weights; N:M, as 2:4: N of each M neighbours along "
        "a layer's inputs stay, for sparse kernels; block:RxC: R outputs by C inputs; channel: "
        "channels and neurons leave the model, which becomes smaller and faster; head: heads of "
        "attention leave it"},
    OptionDef{"sparsity", OptionType::number, "",
              "share of what --granularity names that goes (default: 0.5; N:M implies it)", "0..1"},
    OptionDef{"scope", OptionType::choice, "layer",
              "layer: the sparsity holds in each tensor; global: over all weights together, which "
              "may empty whole layers",
              "layer|global"},
    OptionDef{"channel-multiple", OptionType::integer, "1",
              "channels that a layer keeps are a multiple of this where it has as many (8 suits "
              "vector units)",
              "1..1024"},
    kInclude,
    kExclude,
    OptionDef{"op-types", OptionType::list, "",
              "only weights of these operators; Gather adds embedding tables (default: Conv, "
              "ConvTranspose, Gemm, MatMul, LSTM, GRU)"},
    OptionDef{
        "override", OptionType::list, "",
        "PATTERN=SPARSITY: another sparsity for the layers that a regular expression matches, "
        "the first that does, as 'fc.*=0.8'; 0 leaves them whole"},
};

const std::array kQuantizeOptions = {
    OptionDef{"mode", OptionType::choice, "",
              "static: calibrated uint8 activations, fastest for convolutions; dynamic: ranges at "
              "run time, for transformers and LSTM; weight-only: smallest; float16: arithmetic in "
              "half precision, for accelerators (default: by model and data)",
              "static|dynamic|weight-only|float16|bfloat16"},
    OptionDef{"target", OptionType::choice, "",
              "the runtime that the file is for, which decides types and places of Q/DQ; tensorrt: "
              "symmetric int8, float biases; openvino: Q/DQ on what layers read; ort-cuda: has no "
              "integer kernels for Q/DQ, so int4 weights or float16 (default: ort-cpu)",
              "ort-cpu|ort-cuda|tensorrt|openvino"},
    OptionDef{"weights", OptionType::choice, "",
              "type of the weights (default: int8; int4 for weight-only); 3 bits are stored in 4; "
              "weight-only float16 and bfloat16 halve the file and leave the arithmetic as it is",
              "int8|uint8|int4|uint4|int3|uint3|int2|uint2|float16|bfloat16"},
    OptionDef{"activations", OptionType::choice, "uint8",
              "type of static activations; int8 where a target wants it (TensorRT, ARM); 16 bits "
              "are nearly exact, and no faster than float on CPUs",
              "uint8|int8|uint16|int16"},
    OptionDef{"granularity", OptionType::text, "",
              "tensor, channel or block:N: what shares one scale (default: channel; block:32 for "
              "weight-only)"},
    OptionDef{"calibrator", OptionType::text, "balanced",
              "how a range follows from statistics: balanced, minmax, mse, percentile, entropy, "
              "moving-average"},
    OptionDef{"percentile", OptionType::number, "99.999",
              "share of the absolute values that --calibrator percentile keeps", "50..100"},
    OptionDef{"algorithm", OptionType::choice, "rtn",
              "how weights are rounded; rtn: to nearest; gptq: so that errors make up for each "
              "other on the calibration data; weight-only also awq: scales by what the inputs do; "
              "hqq: scales by the weights alone, without data",
              "rtn|gptq|awq|hqq"},
    OptionDef{
        "recover", OptionType::list, "",
        "what is done about lost accuracy of static quantization, without labels; bias: each "
        "channel's mean becomes that of the float model; equalize: layers that follow each "
        "other even out their channels (for one scale a tensor); smooth: large input channels of "
        "products move into the weights (SmoothQuant); adaround: whether a weight goes up or down "
        "is learned (AdaRound), also for weight-only"},
    OptionDef{"min-cosine", OptionType::number, "",
              "static: layers stay in float32, those that do the most harm for their work first, "
              "until every output's cosine with the float model reaches this on calibration "
              "samples (0.99)",
              "0.5..0.999999"},
    OptionDef{"format", OptionType::choice, "",
              "qdq: DequantizeLinear around float operators; qoperator: QLinearConv and its kin, "
              "for runtimes that do not fuse Q/DQ; nbits: MatMulNBits for weight-only (default: "
              "qdq; nbits for weight-only)",
              "qdq|qoperator|nbits"},
    kInclude,
    kExclude,
    OptionDef{"op-types", OptionType::list, "",
              "only these operators (Conv for dynamic and weight-only has to be asked for)"},
    OptionDef{"override", OptionType::list, "",
              "PATTERN=PRECISION: another precision for the nodes that a regular expression "
              "matches, the first that does: float32, float16, bfloat16, or "
              "MODE[/WEIGHTS[/GRANULARITY[/ACTIVATIONS]]], as 'fc.*=weight-only/int4/block:64'"},
    OptionDef{"rest", OptionType::choice, "float32",
              "type of what is not quantized (float16 needs an accelerator to be faster)",
              "float32|float16|bfloat16"},
    OptionDef{"half-io", OptionType::flag, "",
              "with float16 or bfloat16: inputs and outputs of the model change their type, too"},
    OptionDef{"reduce-range", OptionType::flag, "",
              "leave one bit of the weights unused: for AVX2 without VNNI, where sums saturate"},
    OptionDef{"symmetric-activations", OptionType::flag, "",
              "zero point in the middle; Relu then stays a node of its own"},
};

const std::array kSteps = {
    StepDef{"optimize", "fold, fuse, and drop what does nothing; results stay the same",
            kOptimizeOptions, nullptr, 8},
    StepDef{"prune", "set the smallest weights to zero, to an exact sparsity", kPruneOptions},
    StepDef{"quantize", "replace float32 by integers, where an integer kernel results",
            kQuantizeOptions, quantize_wants, 1, true},
    StepDef{"distill", "train a model on a teacher's outputs, or on labels, and keep the best",
            distill_options()},
    StepDef{"train", "train a model from scratch", train_options()},
};

// Passes of plug-ins are rows like the others, whose function knows its place by its number.
constexpr size_t kMaxPluginPasses = 32;
PassResult run_slot(size_t slot, Model& model, PassContext& context);
template <size_t... Slots>
constexpr auto slot_functions(std::index_sequence<Slots...>) {
  using Function = PassResult (*)(Model&, PassContext&);
  return std::array<Function, sizeof...(Slots)>{
      [](Model& model, PassContext& context) { return run_slot(Slots, model, context); }...};
}
constexpr auto kSlots = slot_functions(std::make_index_sequence<kMaxPluginPasses>());

struct Tables {
  std::vector<PassDef> passes{std::begin(kPasses), std::end(kPasses)};
  std::vector<StepDef> steps{kSteps.begin(), kSteps.end()};
  std::deque<std::vector<OptionDef>> options;  // of steps that plug-ins added to
  std::vector<std::unique_ptr<Plugin>> plugins;
  std::vector<std::pair<const Plugin*, const PluginPass*>> slots;

  void join(const std::string& path) {
    plugins.push_back(load_plugin(path));
    in_context([&] { return fmt::format("in the plug-in {}", path); },
               [&] {
                 for (const PluginPass& pass : plugins.back()->passes) add(*plugins.back(), pass);
               });
  }

  StepDef& find(std::string_view name) {
    std::vector<std::string_view> names;
    for (StepDef& step : steps) {
      if (step.name == name) return step;
      names.push_back(step.name);
    }
    fail(ErrorCode::usage, "unknown step '{}'{}", name, suggestion(name, names));
  }

 private:
  void add(const Plugin& plugin, const PluginPass& pass) {
    for (const PassDef& row : passes) {
      if (row.name == pass.row.name) fail(ErrorCode::usage, "the name '{}' is taken", row.name);
    }
    if (slots.size() == kMaxPluginPasses) {
      fail(ErrorCode::usage, "plug-ins hold more than {} passes", kMaxPluginPasses);
    }
    StepDef& step = find(pass.row.step);
    std::vector<OptionDef>& all = options.emplace_back(step.options.begin(), step.options.end());
    for (const OptionDef& option : pass.options) {
      const auto same = [&](const OptionDef& row) { return row.name == option.name; };
      if (std::any_of(all.begin(), all.end(), same)) {
        fail(ErrorCode::usage, "the option '{}' of '{}' is taken", option.name, step.name);
      }
      all.push_back(option);
    }
    step.options = all;
    passes.push_back(pass.row);
    passes.back().run = kSlots[slots.size()];
    slots.emplace_back(&plugin, &pass);
  }
};

Tables& tables() {
  static Tables tables;
  return tables;
}

PassResult run_slot(size_t slot, Model& model, PassContext& context) {
  const auto& [plugin, pass] = tables().slots[slot];
  return run_plugin_pass(*plugin, *pass, model, context);
}

}  // namespace

std::span<const PassDef> all_passes() { return tables().passes; }

std::span<const StepDef> all_steps() { return tables().steps; }

void use_plugins(const std::vector<std::string>& paths) {
  Tables next;
  for (const std::string& path : paths) next.join(path);
  tables() = std::move(next);
}

std::vector<PluginIdentity> plugins_in_use() {
  std::vector<PluginIdentity> out;
  for (const auto& plugin : tables().plugins) out.push_back(plugin->identity);
  return out;
}

const StepDef& find_step(std::string_view name) { return tables().find(name); }

}  // namespace compress
