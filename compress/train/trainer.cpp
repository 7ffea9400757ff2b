#include "compress/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/runtime/session.h"
#include "compress/train/checkpoint.h"
#include "compress/train/samples.h"
#include "compress/train/slot.h"
#include "compress/train/teacher.h"
#include "compress/train/training_graph.h"

namespace compress::train {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
// A loss that grows to so many times what it was at the start has diverged.
constexpr double kDiverged = 1e4;

class Trainer {
 public:
  Trainer(const Model& student, const Model* teacher, SampleSource& data,
          std::vector<int64_t> indices, const TrainOptions& options, const TrainHooks& hooks)
      : data_(data),
        options_(options),
        hooks_(hooks),
        indices_(std::move(indices)),
        graph_(make_training_graph(student, teacher, data.labelled(), options)),
        evaluation_(make_evaluation_graph(student, teacher, data.labelled(), options, graph_)),
        session_(graph_.model) {
    held_back_ = hold_back(indices_, options.validation, options.seed);
    if (indices_.empty()) fail(ErrorCode::usage, "there are no samples to train on");
    for (const Parameter& p : graph_.parameters) {
      slots_.emplace_back(p.name, graph_.model.graph.value(p.value).name, p.initial);
      Slot& slot = slots_.back();
      slot.decays = p.decays || options.decay_all;
      slot.is_scale = p.is_scale;
      slot.prunes = p.decays;
      if (options.integer_rate > 0 && p.step > 0) slot.rate = options.integer_rate * p.step / 1e-3;
      if (options.relative_rates && p.decays) slot.rate *= relative_rate(*slot.values);
      slot.moments = make_moments(options.optimizer, slot.values->size());
      slot.gradient.assign(slot.values->size(), 0.0f);
      if (options.keep_sparsity && p.decays) mask_zeros(slot);
    }
    for (const State& s : graph_.states) {
      states_.emplace_back(s.name, graph_.model.graph.value(s.input).name, s.initial);
    }
    if (teacher != nullptr && !graph_.inputs.teacher.empty()) {
      const size_t samples = indices_.size() + held_back_.size();
      teacher_ = std::make_unique<Teacher>(*teacher, graph_.inputs, !options.augment.any(), samples,
                                           options.batch);
      use_teacher_file();
    }
    if (!held_back_.empty()) evaluator_ = std::make_unique<Session>(evaluation_.model);
    batches_ = (static_cast<int64_t>(indices_.size()) + options.batch - 1) / options.batch;
    updates_ = (batches_ + options.accumulate - 1) / options.accumulate;
    schedule_ = options.schedule;
    schedule_.total = updates_ * options.epochs;
    schedule_.warmup = updates_ * options.warmup_epochs;
    schedule_.every = updates_ * std::max<int64_t>(options.step_epochs, 1);
  }

  TrainResult run(const std::vector<NamedTensor>& resume) {
    if (resume.empty()) {
      if (options_.keep_best && evaluator_ != nullptr) record_start();
    } else {
      restore(resume);
    }
    last_save_ = std::chrono::steady_clock::now();
    while (progress_.epoch < options_.epochs && result_.stopped.empty()) run_epoch();
    return finish();
  }

 private:
  // Outputs of an earlier run, or those for a later one.
  void use_teacher_file() {
    if (hooks_.teacher_outputs.empty() && !hooks_.save_teacher) return;
    if (options_.augment.any()) {
      fail(ErrorCode::usage,
           "a teacher's outputs cannot be kept in a file: --flip and --crop change what it sees");
    }
    std::vector<int64_t> all = indices_;
    all.insert(all.end(), held_back_.begin(), held_back_.end());
    std::sort(all.begin(), all.end());
    if (!hooks_.teacher_outputs.empty()) return teacher_->take(hooks_.teacher_outputs, data_, all);
    const std::vector<NamedTensor> outputs = teacher_->outputs(data_, all, options_.batch);
    hooks_.save_teacher(outputs);
    teacher_->take(outputs, data_, all);
  }

  // --- One batch ---------------------------------------------------------------------------------

  std::vector<NamedTensor> feeds_for(const std::vector<int64_t>& samples, const LossInputs& inputs,
                                     bool training) {
    Sample sample = join(data_, samples);
    if (training && options_.augment.any()) {
      std::vector<uint64_t> keys;
      for (const int64_t index : samples) {
        keys.push_back(mixed_bits(options_.seed + static_cast<uint64_t>(progress_.epoch)) ^
                       static_cast<uint64_t>(index));
      }
      for (NamedTensor& input : sample.inputs) {
        input.tensor = augment(input.tensor, options_.augment, keys);
      }
    }
    std::vector<NamedTensor> feeds = sample.inputs;
    if (!inputs.label.empty()) {
      if (!sample.label) fail(ErrorCode::usage, "a sample has no label, and the loss needs one");
      Tensor label = *sample.label;
      if (label.shape().rank() == 2 && label.shape()[1] == 1) {
        label = label.reshaped({label.shape()[0]});
      }
      const Graph& graph = evaluation_.model.graph;
      check_labels(label, graph.value(graph.outputs()[1]).type, samples);
      feeds.push_back({inputs.label, std::move(label)});
    }
    if (teacher_ != nullptr) teacher_->feed(samples, sample.inputs, feeds);
    for (const Slot& slot : slots_) feeds.push_back({slot.input, slot.tensor});
    // States that training mode alone replaces are read by both graphs.
    for (const Slot& slot : states_) feeds.push_back({slot.input, slot.tensor});
    if (training && !graph_.step.empty()) {
      feeds.push_back({graph_.step, Tensor::scalar<int64_t>(progress_.step)});
    }
    return feeds;
  }

  double run_batch(const std::vector<int64_t>& samples) {
    const std::vector<NamedTensor> feeds = feeds_for(samples, graph_.inputs, true);
    session_.run_discarding(feeds);
    const double loss = static_cast<double>(*session_.output(0).as<const float>());
    if (!std::isfinite(loss)) return loss;
    for (size_t i = 0; i < slots_.size(); ++i) {
      const auto* g = session_.output(1 + i).as<const float>();
      std::vector<float>& sum = slots_[i].gradient;
      for (size_t k = 0; k < sum.size(); ++k) sum[k] += g[k];
    }
    for (size_t i = 0; i < states_.size(); ++i) {
      const auto* next = session_.output(1 + slots_.size() + i).as<const float>();
      std::copy_n(next, states_[i].values->size(), states_[i].values->data());
    }
    return loss;
  }

  // --- One update --------------------------------------------------------------------------------

  double gradient_norm() const {
    double sum = 0;
    for (const Slot& slot : slots_) {
      for (const float g : slot.gradient) sum += static_cast<double>(g) * static_cast<double>(g);
    }
    return std::sqrt(sum);
  }

  void cut_weights() {
    const double sparsity = sparsity_at(options_.sparsity, progress_.step, schedule_.total);
    if (sparsity < 0) return;
    for (Slot& slot : slots_) {
      if (slot.prunes) cut_smallest(*slot.values, sparsity, slot.mask);
    }
  }

  // False where the gradient is not finite.
  bool update_parameters(int64_t batches) {
    float factor = 1.0f / static_cast<float>(batches);
    const double norm = gradient_norm() * static_cast<double>(factor);
    if (!std::isfinite(norm)) return false;
    if (options_.clip_norm > 0 && norm > options_.clip_norm) {
      factor *= static_cast<float>(options_.clip_norm / norm);
    }
    const double rate = rate_at(schedule_, progress_.step);
    cut_weights();
    for (Slot& slot : slots_) {
      if (factor != 1) {
        for (float& g : slot.gradient) g *= factor;
      }
      if (slot.is_scale) {
        update_scale(options_.optimizer, rate, progress_.step + 1, slot);
      } else {
        update(options_.optimizer, rate * slot.rate, progress_.step + 1, slot.decays, slot.gradient,
               slot.mask, *slot.values, slot.moments);
      }
      std::fill(slot.gradient.begin(), slot.gradient.end(), 0.0f);
    }
    ++progress_.step;
    return true;
  }

  // --- Epochs ------------------------------------------------------------------------------------

  std::vector<int64_t> epoch_order() const {
    std::vector<int64_t> order = indices_;
    shuffle(order, mixed_bits(options_.seed) + static_cast<uint64_t>(progress_.epoch));
    return order;
  }

  void run_epoch() {
    const std::vector<int64_t> order = epoch_order();
    const auto size = static_cast<int64_t>(order.size());
    while (progress_.batch < batches_) {
      const int64_t first = progress_.batch * options_.batch;
      const std::vector<int64_t> samples(order.begin() + first,
                                         order.begin() + std::min(first + options_.batch, size));
      const double loss = run_batch(samples);
      if (progress_.batch == 0 && progress_.epoch == 0) progress_.first_loss = loss;
      const bool large = loss > kDiverged * std::max(std::abs(progress_.first_loss), 1e-3);
      progress_.loss_sum += loss * static_cast<double>(samples.size());
      ++progress_.batch;
      ++progress_.pending;
      bool finite = std::isfinite(loss) && !large;
      if (finite && (progress_.pending == options_.accumulate || progress_.batch == batches_)) {
        finite = update_parameters(progress_.pending);
        progress_.pending = 0;
      }
      if (!finite) return diverge(loss);
      tell(loss);
      if (progress_.pending == 0 && progress_.batch < batches_) save_sometimes();
    }
    end_epoch(size);
  }

  void tell(double loss) {
    if (!hooks_.progress) return;
    hooks_.progress({progress_.epoch + 1, options_.epochs,
                     progress_.epoch * batches_ + progress_.batch, batches_ * options_.epochs, loss,
                     rate_at(schedule_, progress_.step)});
  }

  void diverge(double loss) {
    result_.diverged = true;
    result_.stopped = fmt::format(
        "training diverged in epoch {}, batch {} (loss {:.4g} from {:.4g} at the start); a lower "
        "--lr or --clip-norm may do",
        progress_.epoch + 1, progress_.batch, loss, progress_.first_loss);
  }

  void end_epoch(int64_t samples) {
    EpochRecord record;
    record.epoch = ++progress_.epoch;
    record.loss = progress_.loss_sum / static_cast<double>(samples);
    record.rate = rate_at(schedule_, std::max<int64_t>(progress_.step - 1, 0));
    measure(record);
    progress_.batch = 0;
    progress_.loss_sum = 0;
    judge(record);
    result_.epochs.push_back(record);
    if (hooks_.epoch) hooks_.epoch(record);
    const int64_t since = progress_.epoch - progress_.best_epoch;
    if (options_.patience > 0 && since >= options_.patience && progress_.epoch < options_.epochs) {
      result_.stopped = fmt::format("no better epoch in the last {}", since);
    }
    if (hooks_.save) save();
  }

  void record_start() {
    EpochRecord record;
    record.loss = kNone;
    record.rate = 0;
    measure(record);
    judge(record);
    result_.epochs.push_back(record);
    if (hooks_.epoch) hooks_.epoch(record);
  }

  // Keeps the parameters where the epoch is the best so far, or where the last one is wanted. Until
  // a schedule has cut all that it will, a later epoch is the better one.
  void judge(const EpochRecord& record) {
    const bool cutting = options_.sparsity.active() &&
                         static_cast<double>(progress_.step) <
                             options_.sparsity.end * static_cast<double>(schedule_.total);
    const bool judged = options_.keep_best && !cutting && std::isfinite(record.validation_loss);
    if (judged && !(record.validation_loss < progress_.best_loss)) return;
    if (judged) progress_.best_loss = record.validation_loss;
    if (cutting) progress_.best_loss = std::numeric_limits<double>::infinity();
    progress_.best_epoch = record.epoch;
    for (auto* slots : {&slots_, &states_}) {
      for (Slot& slot : *slots) slot.best = *slot.values;
    }
  }

  // Loss and accuracy on what is held back.
  void measure(EpochRecord& record) {
    record.validation_loss = record.accuracy = kNone;
    if (evaluator_ == nullptr) return;
    double loss = 0;
    int64_t right = 0, labels = 0;
    const auto size = static_cast<int64_t>(held_back_.size());
    for (int64_t first = 0; first < size; first += options_.batch) {
      const std::vector<int64_t> samples(
          held_back_.begin() + first, held_back_.begin() + std::min(first + options_.batch, size));
      const std::vector<NamedTensor> feeds = feeds_for(samples, evaluation_.inputs, false);
      evaluator_->run_discarding(feeds);
      loss += static_cast<double>(*evaluator_->output(0).as<const float>()) *
              static_cast<double>(samples.size());
      for (const NamedTensor& feed : feeds) {
        if (evaluation_.inputs.label.empty() || feed.name != evaluation_.inputs.label) continue;
        labels += feed.tensor.count();
        right += count_right(evaluator_->output(1), feed.tensor);
      }
    }
    record.validation_loss = loss / static_cast<double>(size);
    if (labels > 0) record.accuracy = static_cast<double>(right) / static_cast<double>(labels);
  }

  // --- Checkpoints -------------------------------------------------------------------------------

  void save_sometimes() {
    if (!hooks_.save) return;
    const std::chrono::duration<double> since = std::chrono::steady_clock::now() - last_save_;
    if (since.count() >= hooks_.save_seconds) save();
  }

  // Rate and epochs may change on the way.
  std::vector<std::pair<std::string, int64_t>> run_key() const {
    return {{"--batch", options_.batch},
            {"--accumulate", options_.accumulate},
            {"--seed", static_cast<int64_t>(options_.seed)},
            {"--loss", static_cast<int64_t>(loss_key(options_.loss))},
            {"number of samples", static_cast<int64_t>(indices_.size())},
            {"number of samples held back", static_cast<int64_t>(held_back_.size())}};
  }

  Checkpoint checkpoint() {
    Checkpoint state{progress_, result_.epochs, run_key(), {}};
    for (auto* slots : {&slots_, &states_}) {
      for (Slot& slot : *slots) {
        state.slots.push_back({slot.name, slot.shape, slot.values.get(), &slot.best,
                               &slot.moments.first, &slot.moments.second, &slot.mask});
      }
    }
    return state;
  }

  void save() {
    hooks_.save(pack_checkpoint(checkpoint()));
    last_save_ = std::chrono::steady_clock::now();
  }

  void restore(const std::vector<NamedTensor>& saved) {
    Checkpoint state = checkpoint();
    unpack_checkpoint(saved, state);
    progress_ = state.progress;
    result_.epochs = state.epochs;
  }

  TrainResult finish() {
    result_.best_epoch = progress_.best_epoch;
    result_.steps = progress_.step;
    result_.held_back = static_cast<int64_t>(held_back_.size());
    for (auto* slots : {&slots_, &states_}) {
      for (Slot& slot : *slots) {
        result_.values.push_back(
            {slot.name, Tensor::from<float>(slot.shape, std::span<const float>(slot.best))});
      }
    }
    for (const Slot& slot : slots_) result_.parameters += static_cast<int64_t>(slot.best.size());
    return std::move(result_);
  }

  SampleSource& data_;
  const TrainOptions& options_;
  const TrainHooks& hooks_;
  std::vector<int64_t> indices_, held_back_;
  TrainingGraph graph_;
  EvaluationGraph evaluation_;
  Session session_;
  std::unique_ptr<Session> evaluator_;
  std::unique_ptr<Teacher> teacher_;
  std::vector<Slot> slots_, states_;
  ScheduleOptions schedule_;
  int64_t batches_ = 0;  // of an epoch
  int64_t updates_ = 0;
  Progress progress_;
  TrainResult result_;
  std::chrono::steady_clock::time_point last_save_;
};

}  // namespace

TrainResult train(const Model& student, const Model* teacher, SampleSource& data,
                  std::vector<int64_t> indices, const TrainOptions& options,
                  const TrainHooks& hooks, const std::vector<NamedTensor>& resume) {
  return Trainer(student, teacher, data, std::move(indices), options, hooks).run(resume);
}

void apply_result(Model& model, const TrainResult& result) {
  for (const NamedTensor& value : result.values) {
    model.graph.set_constant(model.graph.find_value(value.name), value.tensor);
  }
}

}  // namespace compress::train
