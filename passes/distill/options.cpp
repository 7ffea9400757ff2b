// The flags of distill and train, and what the trainer makes of them.
#include "passes/distill/options.h"

#include <array>

#include "compress/error.h"
#include "passes/distill/distill.h"

namespace compress {
namespace {

constexpr OptionDef kTeacher = {
    "teacher", OptionType::text, "",
    "the model to learn from; 'input': the model as it was before the first step (default: none, "
    "it learns from labels)"};
constexpr OptionDef kInit = {"init", OptionType::choice, "glorot",
                             "how weights start: uniform after Glorot, normal after He, or as they "
                             "are in the file",
                             "glorot|he|keep"};

constexpr OptionDef kQat = {
    "qat", OptionType::choice, "none",
    "quantization-aware training: the model is quantized as 'quantize --mode static' does, with "
    "weights of this type, and trained through its integers; ranges are learnt",
    "none|int8|int4"};

constexpr OptionDef kBlockwise = {
    "blockwise", OptionType::flag, "",
    "for a compressed copy of the teacher: each layer learns to give what the teacher's gives, one "
    "after another. Needs no labels and few samples"};

// Those that both have; epochs and rate differ in their defaults.
constexpr std::array kCommon = {
    OptionDef{"loss", OptionType::text, "",
              "cross-entropy, kl:T=4,alpha=0.5, mse, cosine, hint:STUDENT=TEACHER, "
              "attention:STUDENT=TEACHER; joined by + (default: kl with a teacher, else "
              "cross-entropy)"},
    OptionDef{"batch", OptionType::integer, "32", "samples in one step", "1..1000000"},
    OptionDef{"accumulate", OptionType::integer, "1",
              "steps whose gradients add up to one update: larger batches in the same memory",
              "1..1000000"},
    OptionDef{"optimizer", OptionType::choice, "adam", "how gradients become updates",
              "adam|adamw|sgd"},
    OptionDef{"layer-rates", OptionType::choice, "auto",
              "relative: layers of small weights, which read large values, learn slower in "
              "proportion; auto: relative where the rate is left open",
              "auto|equal|relative"},
    OptionDef{"momentum", OptionType::number, "0.9", "of sgd", "0..1"},
    OptionDef{"nesterov", OptionType::flag, "", "sgd looks ahead"},
    OptionDef{"epsilon", OptionType::number, "1e-8", "of adam: what is added to the root", "0..1"},
    OptionDef{"lr-schedule", OptionType::choice, "cosine",
              "how the rate goes on; step: a tenth every --step-epochs",
              "cosine|constant|linear|step"},
    OptionDef{"warmup-epochs", OptionType::integer, "0", "epochs over which the rate rises",
              "0..100000"},
    OptionDef{"step-epochs", OptionType::integer, "10", "of --lr-schedule step", "1..100000"},
    OptionDef{"weight-decay", OptionType::number, "0",
              "pulls weights to zero; adamw: apart from the gradient", "0..1"},
    OptionDef{"l1", OptionType::number, "0", "pulls weights to zero by as much each", "0..1"},
    OptionDef{"label-smoothing", OptionType::number, "0",
              "share of a label that is spread over all classes", "0..1"},
    OptionDef{"clip-norm", OptionType::number, "0",
              "largest norm of the gradients together; 0: any. 1 is usual where training diverges",
              "0..1e30"},
    OptionDef{"validation", OptionType::number, "0.1",
              "part of the samples held back, on which the best epoch is chosen; 0 takes the last",
              "0..0.9"},
    OptionDef{"patience", OptionType::integer, "0",
              "ends after so many epochs without a better one; 0: never", "0..100000"},
    OptionDef{"sparsity-schedule", OptionType::text, "",
              "cuts the smallest weights of each tensor on the way: "
              "polynomial:final=0.8,begin=0,end=0.75,power=3,every=100 (begin and end are parts of "
              "the training), or constant:final=0.5,begin=0"},
    OptionDef{"keep-sparsity", OptionType::flag, "", "weights that are zero stay zero"},
    OptionDef{"freeze-batch-norm", OptionType::flag, "",
              "BatchNormalization keeps its statistics: for few samples or small batches"},
    OptionDef{"dropout", OptionType::flag, "", "Dropout nodes of the model are active"},
    OptionDef{"recompute", OptionType::flag, "",
              "activations are computed again instead of kept: less memory, about a third slower; "
              "the result is the same"},
    OptionDef{"flip", OptionType::flag, "", "images are mirrored at random"},
    OptionDef{"crop", OptionType::integer, "0", "images move at random by up to so many pixels",
              "0..1000"},
    OptionDef{"samples", OptionType::integer, "0",
              "training samples, evenly spaced; 0: all there are", "0..1000000000000"},
    OptionDef{"student-output", OptionType::text, "",
              "the output that is trained (default: first)"},
    OptionDef{"teacher-output", OptionType::text, "",
              "the teacher's output (default: of the same name as --student-output, else first)"},
    OptionDef{"teacher-cache", OptionType::text, "",
              "file of the teacher's outputs: made where it does not exist, else they are taken "
              "from it and the teacher does not run"},
    OptionDef{"checkpoint", OptionType::text, "",
              "file that holds the state of training; where it exists, training goes on from it"},
    OptionDef{"checkpoint-seconds", OptionType::number, "60",
              "time between two checkpoints within an epoch", "0..1e9"},
};

// Two that stand in front, then the common ones.
template <size_t N>
constexpr auto with_common(const std::array<OptionDef, N>& first) {
  std::array<OptionDef, N + kCommon.size()> all{};
  for (size_t i = 0; i < N; ++i) all[i] = first[i];
  for (size_t i = 0; i < kCommon.size(); ++i) all[N + i] = kCommon[i];
  return all;
}

constexpr OptionDef kEpochs = {"epochs", OptionType::integer, "3", "passes over the samples",
                               "1..100000"};
constexpr OptionDef kTrainEpochs = {"epochs", OptionType::integer, "10", "passes over the samples",
                                    "1..100000"};
constexpr OptionDef kRate = {"lr", OptionType::number, "0",
                             "learning rate; 0: a short test of several picks it", "0..1000"};
constexpr OptionDef kTrainRate = {"lr", OptionType::number, "0.001",
                                  "learning rate; 0: a short test of several picks it", "0..1000"};

constexpr auto kDistill = with_common(std::array{kTeacher, kBlockwise, kQat, kEpochs, kRate});
constexpr auto kTrain = with_common(std::array{kTeacher, kInit, kTrainEpochs, kTrainRate});

train::OptimizerOptions optimizer_of(const Options& options) {
  train::OptimizerOptions out;
  const std::string kind = options.text("optimizer");
  out.kind = kind == "sgd"     ? train::OptimizerKind::sgd
             : kind == "adamw" ? train::OptimizerKind::adamw
                               : train::OptimizerKind::adam;
  out.momentum = options.number("momentum");
  out.nesterov = options.flag("nesterov");
  out.epsilon = options.number("epsilon");
  out.weight_decay = options.number("weight-decay");
  out.l1 = options.number("l1");
  return out;
}

train::ScheduleKind schedule_of(const std::string& name) {
  if (name == "constant") return train::ScheduleKind::constant;
  if (name == "linear") return train::ScheduleKind::linear;
  if (name == "step") return train::ScheduleKind::step;
  return train::ScheduleKind::cosine;
}

}  // namespace

std::span<const OptionDef> distill_options() { return kDistill; }
std::span<const OptionDef> train_options() { return kTrain; }

train::TrainOptions read_train_options(const Options& options, uint64_t seed) {
  train::TrainOptions out;
  out.epochs = options.integer("epochs");
  out.batch = options.integer("batch");
  out.accumulate = options.integer("accumulate");
  out.optimizer = optimizer_of(options);
  out.schedule.kind = schedule_of(options.text("lr-schedule"));
  out.schedule.rate = options.number("lr");
  const std::string rates = options.text("layer-rates");
  out.relative_rates = rates == "relative" || (rates == "auto" && out.schedule.rate == 0);
  out.warmup_epochs = options.integer("warmup-epochs");
  out.step_epochs = options.integer("step-epochs");
  std::string loss = options.has("loss") ? options.text("loss") : "";
  const bool teacher = options.has("teacher") && !options.text("teacher").empty();
  if (loss.empty()) loss = teacher ? "kl" : "cross-entropy";
  out.loss.terms = train::parse_loss(loss);
  out.loss.label_smoothing = options.number("label-smoothing");
  if (options.has("student-output")) out.loss.student_output = options.text("student-output");
  if (options.has("teacher-output")) out.loss.teacher_output = options.text("teacher-output");
  if (options.has("sparsity-schedule")) {
    out.sparsity = train::parse_sparsity(options.text("sparsity-schedule"));
  }
  out.clip_norm = options.number("clip-norm");
  out.validation = options.number("validation");
  out.patience = options.integer("patience");
  out.batch_statistics = !options.flag("freeze-batch-norm");
  out.dropout = options.flag("dropout");
  out.keep_sparsity = options.flag("keep-sparsity");
  out.recompute = options.flag("recompute");
  out.augment.flip = options.flag("flip");
  out.augment.crop = options.integer("crop");
  out.seed = seed;
  return out;
}

}  // namespace compress
