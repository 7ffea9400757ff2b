#include "passes/distill/distill.h"

#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "compress/error.h"
#include "compress/ops/op.h"
#include "passes/distill/blockwise.h"
#include "passes/distill/initialize.h"
#include "passes/distill/options.h"
#include "passes/distill/unfold.h"
#include "passes/weights.h"

namespace compress {
namespace {

using train::EpochRecord;
using train::TrainOptions;
using train::TrainResult;

// A rate that is left to us: several are tried on a part of the samples, and the one that lowers
// the loss on others most is taken. A model that takes 0..255 and has no norms wants a hundredth of
// what others do.
constexpr std::array kRates = {1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5};
constexpr int64_t kTrialBatches = 24;
constexpr double kTrialHeldBack = 0.25;

Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json epochs_json(const std::vector<EpochRecord>& epochs) {
  Json out = Json::array();
  for (const EpochRecord& e : epochs) {
    out.push_back({{"epoch", e.epoch},
                   {"loss", number_or_null(e.loss)},
                   {"validation_loss", number_or_null(e.validation_loss)},
                   {"accuracy", number_or_null(e.accuracy)},
                   {"lr", number_or_null(e.rate)}});
  }
  return out;
}

class Training {
 public:
  Training(Model& model, PassContext& context)
      : model_(model), context_(context), access_(access_of(context)) {}

  PassResult run(const std::string& init) {
    adopt_constant_nodes(model_.graph);
    TrainOptions options = read_train_options(context_.options, context_.seed);
    const bool qat = access_.unquantized != nullptr;
    const FakeQuantization how{access_.unquantized, qat};
    const std::vector<Unfolded> unfolded = unfold_quantized(model_, how);
    // What another tool quantized keeps its scales: a bias may be in units of them.
    options.learn_scales = qat || unfolded.empty();
    options.keep_best = init == "keep";
    initialize_weights(model_, init, context_.seed);
    const Model* teacher = find_teacher();
    const CalibrationSamples samples = pick_samples();
    if (context_.options.has("blockwise") && context_.options.flag("blockwise")) {
      PassResult out = run_blockwise(teacher, samples, options);
      fold_quantized(model_, unfolded, how);
      return out;
    }
    train::require_batches(access_.ranks, options.accumulate);
    const std::string file = text("checkpoint");
    const std::vector<NamedTensor> saved =
        file.empty() || !access_.load ? std::vector<NamedTensor>() : access_.load(file);
    const std::string cache = text("teacher-cache");
    if (!cache.empty() && teacher == nullptr) {
      fail(ErrorCode::usage, "--teacher-cache without a --teacher");
    }
    if (!cache.empty() && access_.load) teacher_outputs_ = access_.load(cache);
    if (options.schedule.rate == 0) options.schedule.rate = find_rate(teacher, samples, options);
    const TrainResult result = train::train(model_, teacher, *samples.source, samples.indices,
                                            options, hooks(file, cache), saved);
    PassResult out = finish(result, options, samples);
    fold_quantized(model_, unfolded, how);
    return out;
  }

 private:
  static const TrainingAccess& access_of(const PassContext& context) {
    if (context.training == nullptr || !context.training->samples) {
      fail(ErrorCode::usage, "training needs samples; give --data or --train-data");
    }
    return *context.training;
  }

  std::string text(const char* name) const {
    return context_.options.has(name) ? context_.options.text(name) : "";
  }

  const Model* find_teacher() {
    const std::string path = text("teacher");
    if (path.empty()) return nullptr;
    teacher_ = path == "input" ? *access_.input
                               : in_context([&] { return "reading the teacher"; },
                                            [&] { return access_.read_model(path); });
    adopt_constant_nodes(teacher_->graph);
    infer_types(*teacher_);
    return &*teacher_;
  }

  CalibrationSamples pick_samples() const {
    CalibrationSamples samples = access_.samples();
    const int64_t most = context_.options.integer("samples");
    const auto size = static_cast<int64_t>(samples.indices.size());
    if (most > 0 && most < size) {
      std::vector<int64_t> picked;
      for (const int64_t at : evenly_spaced(size, most)) {
        picked.push_back(samples.indices[static_cast<size_t>(at)]);
      }
      samples.indices = std::move(picked);
    }
    return samples;
  }

  PassResult run_blockwise(const Model* teacher, const CalibrationSamples& samples,
                           const TrainOptions& options) {
    if (teacher == nullptr) fail(ErrorCode::usage, "--blockwise learns from a teacher; name one");
    for (const char* other :
         {"loss", "checkpoint", "sparsity-schedule", "teacher-cache", "flip", "crop"}) {
      if (context_.options.given(other)) {
        fail(ErrorCode::usage,
             "--blockwise has no --{}: each layer is compared by squared error, on the samples as "
             "they are",
             other);
      }
    }
    return distill_blockwise(model_, *teacher, *samples.source, samples.indices,
                             {options, options.schedule.rate, access_.ranks}, access_.log);
  }

  // Trials take the same steps from the same start, so their losses compare.
  double find_rate(const Model* teacher, const CalibrationSamples& samples, TrainOptions trial) {
    const auto size = static_cast<int64_t>(samples.indices.size());
    std::vector<int64_t> some;
    for (const int64_t at : evenly_spaced(size, std::min(size, kTrialBatches * trial.batch))) {
      some.push_back(samples.indices[static_cast<size_t>(at)]);
    }
    trial.validation = kTrialHeldBack;
    trial.epochs = 1;
    trial.keep_best = false;
    trial.accumulate = 1;
    train::TrainHooks known;
    known.teacher_outputs = teacher_outputs_;
    constexpr double kNone = std::numeric_limits<double>::infinity();
    std::vector<double> losses(kRates.size(), kNone);
    const auto trials = static_cast<int64_t>(kRates.size());
    train::for_own_parts(access_.ranks, trials, [&](int64_t k) {
      trial.schedule.rate = kRates[static_cast<size_t>(k)];
      const TrainResult result = train::train(model_, teacher, *samples.source, some, trial, known);
      if (result.diverged || result.epochs.empty()) return;
      losses[static_cast<size_t>(k)] = result.epochs.back().validation_loss;
    });
    train::share_parts(access_.ranks, trials, losses);
    double best = kRates.back(), least = kNone;
    for (size_t k = 0; k < losses.size(); ++k) {
      if (!(losses[k] < least)) continue;
      least = losses[k];
      best = kRates[k];
    }
    return best;
  }

  train::TrainHooks hooks(const std::string& file, const std::string& cache) const {
    train::TrainHooks hooks;
    hooks.ranks = access_.ranks;
    hooks.teacher_outputs = teacher_outputs_;
    if (!cache.empty() && teacher_outputs_.empty() && access_.save) {
      hooks.save_teacher = [this, cache](const std::vector<NamedTensor>& outputs) {
        access_.save(cache, outputs);
      };
    }
    if (access_.progress) {
      hooks.progress = [this](const train::TrainProgress& p) {
        access_.progress(
            p.step, p.steps,
            fmt::format("epoch {}/{}, loss {:.4g}, lr {:.2g}", p.epoch, p.epochs, p.loss, p.rate));
      };
    }
    if (access_.log) {
      hooks.epoch = [this](const EpochRecord& e) { access_.log(line_of(e)); };
    }
    if (!file.empty() && access_.save) {
      hooks.save = [this, file](const std::vector<NamedTensor>& state) {
        access_.save(file, state);
      };
      hooks.save_seconds = context_.options.number("checkpoint-seconds");
    }
    return hooks;
  }

  static std::string line_of(const EpochRecord& e) {
    std::string line = fmt::format("epoch {}", e.epoch);
    const auto add = [&](const char* name, double value) {
      if (std::isfinite(value)) line += fmt::format(", {} {:.4f}", name, value);
    };
    add("loss", e.loss);
    add("held back", e.validation_loss);
    add("accuracy", e.accuracy);
    return line;
  }

  PassResult finish(const TrainResult& result, const TrainOptions& options,
                    const CalibrationSamples& samples) {
    PassResult out;
    const bool learnt = result.best_epoch > 0;
    out.changed = learnt || access_.unquantized != nullptr;
    if (learnt) train::apply_result(model_, result);
    if (!result.stopped.empty()) out.skipped.push_back({"", result.stopped});
    if (!learnt && result.stopped.empty()) {
      out.skipped.push_back(
          {"", fmt::format("no epoch was better on the {} samples held back than the start; a "
                           "lower --lr or more samples may do",
                           result.held_back)});
    }
    out.details = {{"samples", static_cast<int64_t>(samples.indices.size()) - result.held_back},
                   {"held_back", result.held_back},
                   {"parameters", result.parameters},
                   {"updates", result.steps},
                   {"lr", options.schedule.rate},
                   {"best_epoch", result.best_epoch},
                   {"diverged", result.diverged},
                   {"epochs", epochs_json(result.epochs)}};
    return out;
  }

  Model& model_;
  PassContext& context_;
  const TrainingAccess& access_;
  std::optional<Model> teacher_;
  std::vector<NamedTensor> teacher_outputs_;
};

}  // namespace

PassResult distill_model(Model& model, PassContext& context) {
  return Training(model, context).run("keep");
}

PassResult train_model(Model& model, PassContext& context) {
  return Training(model, context).run(context.options.text("init"));
}

}  // namespace compress
