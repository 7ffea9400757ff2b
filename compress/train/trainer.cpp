#include "compress/train/trainer.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/kernels/isa.h"
#include "compress/runtime/session.h"
#include "compress/train/checkpoint.h"
#include "compress/train/samples.h"
#include "compress/train/slot.h"
#include "compress/train/teacher.h"
#include "compress/train/training_graph.h"
#include "compress/train/tree_sum.h"

namespace compress::train {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
// A loss that grows to so many times what it was at the start has diverged.
constexpr double kDiverged = 1e4;

// Of the elements of all slots, 8 bytes at a time.
uint64_t bits_of(const std::vector<Slot>& slots) {
  uint64_t hash = slots.size();
  for (const Slot& slot : slots) {
    for (const float value : *slot.values) hash = mixed_bits(hash ^ std::bit_cast<uint32_t>(value));
  }
  return hash;
}

class Trainer {
 public:
  Trainer(const Model& student, const Model* teacher, SampleSource& data,
          std::vector<int64_t> indices, const TrainOptions& options, const TrainHooks& hooks)
      : data_(data),
        options_(options),
        hooks_(hooks),
        ranks_(hooks.ranks),
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
      if (options.keep_sparsity && p.decays) mask_zeros(slot);
    }
    for (const State& s : graph_.states) {
      states_.emplace_back(s.name, graph_.model.graph.value(s.input).name, s.initial);
    }
    make_sum();
    if (!held_back_.empty()) evaluator_ = std::make_unique<Session>(evaluation_.model);
    batches_ = (static_cast<int64_t>(indices_.size()) + options.batch - 1) / options.batch;
    updates_ = (batches_ + options.accumulate - 1) / options.accumulate;
    schedule_ = options.schedule;
    schedule_.total = updates_ * options.epochs;
    schedule_.warmup = updates_ * options.warmup_epochs;
    schedule_.every = updates_ * std::max<int64_t>(options.step_epochs, 1);
    check_ranks();
    if (teacher != nullptr && !graph_.inputs.teacher.empty()) {
      teacher_ = std::make_unique<Teacher>(*teacher, graph_.inputs, options.batch);
      use_teacher_file();
    }
  }

  TrainResult run(const std::vector<NamedTensor>& resume) {
    if (!resume.empty()) restore(resume);
    const bool ends = progress_.epoch >= options_.epochs;
    if (teacher_ != nullptr && !options_.augment.any() && !ends) {
      teacher_->prepare(data_, all_samples(), ranks_);
    }
    if (resume.empty() && options_.keep_best && evaluator_ != nullptr) record_start();
    last_save_ = std::chrono::steady_clock::now();
    while (progress_.epoch < options_.epochs && result_.stopped.empty()) run_epoch();
    return finish();
  }

 private:
  // Where the slots' gradients are, one after another.
  void make_sum() {
    size_t width = 0, each = 1;
    for (const Slot& slot : slots_) width += slot.values->size();
    for (const Slot& slot : states_) each += slot.values->size();
    sum_ = std::make_unique<TreeSum>(width);
    record_ = each;
    size_t first = 0;
    for (Slot& slot : slots_) {
      slot.gradient = sum_->total().subspan(first, slot.values->size());
      first += slot.values->size();
    }
  }

  // Ranks that do not train the same would wait for each other, or end anywhere.
  void check_ranks() const {
    if (!ranks_.several()) return;
    require_batches(ranks_, options_.accumulate);
    uint64_t hash = bits_of(slots_) ^ static_cast<uint64_t>(kernels::active_isa());
    const auto add = [&](double value) {
      hash = mixed_bits(hash ^ std::bit_cast<uint64_t>(value));
    };
    for (const auto& [name, value] : run_key()) add(static_cast<double>(value));
    add(static_cast<double>(options_.epochs));
    add(options_.schedule.rate);
    require_same(ranks_, hash,
                 "it trains another model, with other options, or with kernels of another "
                 "instruction set (COMPRESS_ISA) than rank 0");
  }

  void compare_weights() const {
    if (!ranks_.several()) return;
    require_same(
        ranks_, bits_of(slots_),
        "its weights are no longer those of rank 0; ranks need processors of one kind, and "
        "the same build of the program");
  }

  std::vector<int64_t> all_samples() const {
    std::vector<int64_t> all = indices_;
    all.insert(all.end(), held_back_.begin(), held_back_.end());
    std::sort(all.begin(), all.end());
    return all;
  }

  // Outputs of an earlier run, or those for a later one.
  void use_teacher_file() {
    if (hooks_.teacher_outputs.empty() && !hooks_.save_teacher) return;
    if (options_.augment.any()) {
      fail(ErrorCode::usage,
           "a teacher's outputs cannot be kept in a file: --flip and --crop change what it sees");
    }
    const std::vector<int64_t> all = all_samples();
    if (!hooks_.teacher_outputs.empty()) return teacher_->take(hooks_.teacher_outputs, data_, all);
    const std::vector<NamedTensor> outputs = teacher_->outputs(data_, all, ranks_);
    if (ranks_.first()) hooks_.save_teacher(outputs);
    teacher_->take(outputs, data_, all);
  }

  // --- One batch ---------------------------------------------------------------------------------

  // `number`: of the batch, since the start of training; negative: to measure.
  std::vector<NamedTensor> feeds_for(const std::vector<int64_t>& samples, const LossInputs& inputs,
                                     int64_t number) {
    const bool training = number >= 0;
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
      feeds.push_back({graph_.step, Tensor::scalar<int64_t>(number)});
    }
    return feeds;
  }

  // The gradients go to `sum`; the loss and what the batch says of the states to `record`.
  void run_batch(const std::vector<int64_t>& samples, int64_t number, std::span<float> sum,
                 std::span<double> record) {
    session_.run_discarding(feeds_for(samples, graph_.inputs, number));
    record[0] = static_cast<double>(*session_.output(0).as<const float>());
    for (size_t i = 0; i < slots_.size(); ++i) {
      const size_t count = slots_[i].values->size();
      std::copy_n(session_.output(1 + i).as<const float>(), count, sum.begin());
      sum = sum.subspan(count);
    }
    record = record.subspan(1);
    for (size_t i = 0; i < states_.size(); ++i) {
      const size_t count = states_[i].values->size();
      const auto* own = session_.output(1 + slots_.size() + i).as<const float>();
      std::copy_n(own, count, record.begin());
      record = record.subspan(count);
    }
  }

  // What one batch does to the running statistics.
  void move_states(std::span<const double> own) {
    for (size_t i = 0; i < states_.size(); ++i) {
      const double momentum = graph_.states[i].momentum;
      std::vector<float>& values = *states_[i].values;
      for (size_t k = 0; k < values.size(); ++k) {
        values[k] =
            static_cast<float>(static_cast<double>(values[k]) * momentum + own[k] * (1 - momentum));
      }
      own = own.subspan(values.size());
    }
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

  std::vector<int64_t> batch_of(const std::vector<int64_t>& order, int64_t batch) const {
    const auto size = static_cast<int64_t>(order.size());
    return {order.begin() + batch * options_.batch,
            order.begin() + std::min((batch + 1) * options_.batch, size)};
  }

  void run_epoch() {
    const std::vector<int64_t> order = epoch_order();
    while (progress_.batch < batches_) {
      run_update(order);
      if (!result_.stopped.empty()) return;
      if (progress_.batch < batches_) save_sometimes();
    }
    end_epoch(static_cast<int64_t>(order.size()));
  }

  // Its batches are shared out; what follows them is the same on all ranks.
  void run_update(const std::vector<int64_t>& order) {
    const int64_t first = progress_.batch;
    const int64_t count = std::min(options_.accumulate, batches_ - first);
    std::vector<double> records(static_cast<size_t>(count) * record_);
    const auto record_of = [&](int64_t batch) {
      return std::span(records).subspan(static_cast<size_t>(batch) * record_, record_);
    };
    int64_t own = 0;
    sum_->run(ranks_, count, [&](int64_t batch, std::span<float> sum) {
      const int64_t number = progress_.epoch * batches_ + first + batch;
      run_batch(batch_of(order, first + batch), number, sum, record_of(batch));
      tell(std::min(first + ++own * ranks_.size, first + count), record_of(batch)[0]);
    });
    share_parts(ranks_, count, records);
    for (int64_t batch = 0; batch < count; ++batch) {
      const double loss = record_of(batch)[0];
      const auto samples = static_cast<double>(batch_of(order, first + batch).size());
      if (progress_.batch == 0 && progress_.epoch == 0) progress_.first_loss = loss;
      progress_.loss_sum += loss * samples;
      ++progress_.batch;
      const bool large = loss > kDiverged * std::max(std::abs(progress_.first_loss), 1e-3);
      if (!std::isfinite(loss) || large) return diverge(loss);
      move_states(record_of(batch).subspan(1));
    }
    if (!update_parameters(count)) diverge(record_of(count - 1)[0]);
  }

  void tell(int64_t batches, double loss) {
    if (!hooks_.progress) return;
    hooks_.progress({progress_.epoch + 1, options_.epochs, progress_.epoch * batches_ + batches,
                     batches_ * options_.epochs, loss, rate_at(schedule_, progress_.step)});
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
    compare_weights();
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
    struct Measured {
      double loss = 0, right = 0, labels = 0;
    };
    const auto size = static_cast<int64_t>(held_back_.size());
    const int64_t batches = (size + options_.batch - 1) / options_.batch;
    std::vector<Measured> parts(static_cast<size_t>(batches));
    for_own_parts(ranks_, batches, [&](int64_t batch) {
      const std::vector<int64_t> samples = batch_of(held_back_, batch);
      const std::vector<NamedTensor> feeds = feeds_for(samples, evaluation_.inputs, -1);
      evaluator_->run_discarding(feeds);
      Measured& part = parts[static_cast<size_t>(batch)];
      part.loss = static_cast<double>(*evaluator_->output(0).as<const float>()) *
                  static_cast<double>(samples.size());
      for (const NamedTensor& feed : feeds) {
        if (evaluation_.inputs.label.empty() || feed.name != evaluation_.inputs.label) continue;
        part.labels += static_cast<double>(feed.tensor.count());
        part.right += static_cast<double>(count_right(evaluator_->output(1), feed.tensor));
      }
    });
    share_bytes(ranks_, batches, sizeof(Measured), std::as_writable_bytes(std::span(parts)));
    Measured sum;
    for (const Measured& part : parts) {
      sum.loss += part.loss;
      sum.right += part.right;
      sum.labels += part.labels;
    }
    record.validation_loss = sum.loss / static_cast<double>(size);
    if (sum.labels > 0) record.accuracy = sum.right / sum.labels;
  }

  // --- Checkpoints -------------------------------------------------------------------------------

  void save_sometimes() {
    if (!hooks_.save || !ranks_.first()) return;
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
    if (!ranks_.first()) return;
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
  const Ranks& ranks_;
  std::vector<int64_t> indices_, held_back_;
  TrainingGraph graph_;
  EvaluationGraph evaluation_;
  Session session_;
  std::unique_ptr<Session> evaluator_;
  std::unique_ptr<Teacher> teacher_;
  std::vector<Slot> slots_, states_;
  std::unique_ptr<TreeSum> sum_;  // of the slots' gradients
  size_t record_ = 1;             // numbers that a batch gives besides: loss and states
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

void require_batches(const Ranks& ranks, int64_t accumulate) {
  if (accumulate >= ranks.size) return;
  fail(ErrorCode::usage,
       "ranks share the --accumulate steps of an update, and {} of them cannot share {}: give "
       "--accumulate {} (or a multiple), and as much smaller a --batch",
       ranks.size, accumulate, ranks.size);
}

void apply_result(Model& model, const TrainResult& result) {
  for (const NamedTensor& value : result.values) {
    model.graph.set_constant(model.graph.find_value(value.name), value.tensor);
  }
}

}  // namespace compress::train
