#include "passes/distill/blockwise.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "compress/ops/op.h"
#include "compress/runtime/session.h"
#include "compress/train/samples.h"
#include "passes/distill/blocks.h"

namespace compress {
namespace {

constexpr const char* kTarget = "block/target";
// Where no rate is given; 0.02 steps of an integer are what Adam moves a weight by at 1e-3.
constexpr std::array kRates = {3e-3, 1e-3, 3e-4};
constexpr double kIntegerRate = 0.02;
// What is kept of all samples at once, in and out of a block.
constexpr uint64_t kMostBytes = uint64_t{2} << 30;

using Tensors = std::vector<Tensor>;

// What goes into a block and what should come out, sample by sample.
class BlockSamples : public SampleSource {
 public:
  BlockSamples(SampleSource& data, const std::vector<int64_t>& indices, std::string input,
               const Tensors& inputs, const Tensors& targets)
      : data_(data),
        indices_(indices),
        input_(std::move(input)),
        inputs_(inputs),
        targets_(targets) {}

  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  Sample get(int64_t index) override {
    const auto at = static_cast<size_t>(index);
    Sample sample;
    if (input_.empty()) {
      sample.inputs = data_.get(indices_[at]).inputs;
    } else {
      sample.inputs = {{input_, inputs_[at]}};
    }
    sample.inputs.push_back({kTarget, targets_[at]});
    return sample;
  }
  bool labelled() const override { return false; }
  std::vector<std::string> constants() const override {
    return input_.empty() ? data_.constants() : std::vector<std::string>();
  }
  std::string description() const override { return "blocks of " + data_.description(); }

 private:
  SampleSource& data_;
  const std::vector<int64_t>& indices_;
  std::string input_;
  const Tensors& inputs_;
  const Tensors& targets_;
};

// Gives what it is given: the targets are computed beforehand.
Model echo() {
  GraphBuilder b;
  const ValueId x = b.graph().add_input(kTarget, {DType::float32, false, {}});
  b.output(b.op("Identity", {x}), "y");
  Model model = std::move(b).model(17);
  infer_types(model);
  return model;
}

// Divergence of the softmax of b's rows from that of a's; of other values, the mean square of their
// difference.
double distance(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_doubles(), y = b.to_doubles();
  const auto size = static_cast<size_t>(a.shape()[a.shape().rank() - 1]);
  double sum = 0;
  if (a.shape().rank() != 2 || size < 2) {
    for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
    return sum / static_cast<double>(x.size());
  }
  const auto normalizer = [&](const std::vector<double>& v, size_t row) {
    const double most = *std::max_element(v.begin() + static_cast<std::ptrdiff_t>(row),
                                          v.begin() + static_cast<std::ptrdiff_t>(row + size));
    double total = 0;
    for (size_t i = row; i < row + size; ++i) total += std::exp(v[i] - most);
    return most + std::log(total);
  };
  for (size_t row = 0; row < x.size(); row += size) {
    const double zx = normalizer(x, row), zy = normalizer(y, row);
    for (size_t i = row; i < row + size; ++i) {
      sum += std::exp(x[i] - zx) * ((x[i] - zx) - (y[i] - zy));
    }
  }
  return sum / static_cast<double>(x.size() / size);
}

class Blockwise {
 public:
  Blockwise(Model& student, const Model& teacher, SampleSource& data,
            const std::vector<int64_t>& indices, const BlockwiseOptions& options,
            const std::function<void(std::string_view)>& log)
      : student_(student),
        teacher_(teacher),
        data_(data),
        indices_(indices),
        options_(options),
        log_(log) {}

  PassResult run() {
    infer_types(student_);
    blocks_ = find_blocks(student_, teacher_);
    if (blocks_.empty()) {
      fail(ErrorCode::usage,
           "--blockwise wants a teacher with values of the same names and shapes: the model that "
           "this one was made from");
    }
    std::vector<int64_t> rest = all_samples();
    held_ = train::hold_back(rest, options_.train.validation, options_.train.seed);
    if (held_.empty()) {
      fail(ErrorCode::usage, "--blockwise keeps what is best on samples held back; there are none");
    }
    final_ = outputs_of(cut_at(teacher_, blocks_.back().target), held_);
    start_ = best_ = judge(student_);
    learn_in_a_row();
    refine();
    return finish();
  }

 private:
  std::vector<NamedTensor> feeds_of(const Session& session, int64_t sample) const {
    std::vector<NamedTensor> feeds = data_.get(indices_[static_cast<size_t>(sample)]).inputs;
    std::erase_if(feeds, [&](const NamedTensor& feed) {
      const auto wanted = session.inputs();
      return std::none_of(wanted.begin(), wanted.end(),
                          [&](const auto& input) { return input.first == feed.name; });
    });
    return feeds;
  }

  Tensors outputs_of(const Model& model, const std::vector<int64_t>& samples) const {
    Session session(model);
    Tensors out;
    for (const int64_t sample : samples) out.push_back(session.run(feeds_of(session, sample))[0]);
    return out;
  }

  // How far the last block's outputs are from the teacher's on what is held back.
  double judge(const Model& student) const {
    const Tensors now = outputs_of(cut_at(student, blocks_.back().output), held_);
    double sum = 0;
    for (size_t i = 0; i < now.size(); ++i) sum += distance(final_[i], now[i]);
    return sum / static_cast<double>(now.size());
  }

  void check_size(const Tensors& tensors) const {
    uint64_t bytes = 0;
    for (const Tensor& tensor : tensors) bytes += static_cast<uint64_t>(tensor.bytes());
    if (bytes > kMostBytes) {
      fail(ErrorCode::usage,
           "the values between two blocks take {} MB for all samples; give fewer: --samples",
           bytes >> 20);
    }
  }

  // First all blocks, each by its own error: later ones make up for earlier ones, so that the model
  // may be worse on the way. The first k stay, for the k with the best outputs.
  void learn_in_a_row() {
    Model kept = student_;
    for (size_t k = 0; k < blocks_.size(); ++k) {
      std::vector<Candidate> found = learn(k);
      const auto least =
          std::min_element(found.begin(), found.end(),
                           [](const Candidate& a, const Candidate& b) { return a.loss < b.loss; });
      if (least != found.end()) train::apply_result(student_, least->result);
      const double now = judge(student_);
      record(1, k, least != found.end() ? least->rate : 0, now);
      advance(k);
      if (!(now < best_)) continue;
      best_ = now;
      kept_ = k + 1;
      kept = student_;
    }
    student_ = std::move(kept);
  }

  // Then once more from what was kept, block by block: what stays is what makes the outputs better
  // at once.
  void refine() {
    for (size_t k = 0; k < blocks_.size(); ++k) {
      double rate = 0;
      Model better;
      for (const Candidate& candidate : learn(k)) {
        Model trial = student_;
        train::apply_result(trial, candidate.result);
        const double now = judge(trial);
        if (!(now < best_)) continue;
        best_ = now;
        rate = candidate.rate;
        better = std::move(trial);
      }
      if (rate > 0) {
        student_ = std::move(better);
        ++refined_;
      }
      record(2, k, rate, best_);
      advance(k);
    }
  }

  void record(int pass, size_t k, double rate, double outputs) {
    rows_.push_back(
        {{"pass", pass}, {"block", blocks_[k].target}, {"lr", rate}, {"outputs", outputs}});
    if (!log_) return;
    log_(fmt::format("pass {}, block {}/{} ({}), lr {:.2g}, held back {:.5g} from {:.5g}", pass,
                     k + 1, blocks_.size(), blocks_[k].target, rate, outputs, start_));
  }

  struct Candidate {
    double rate = 0, loss = 0;
    train::TrainResult result;
  };

  // Each rate from the same start; those that made the block better on what is held back.
  std::vector<Candidate> learn(size_t k) {
    const Block& block = blocks_[k];
    if (k == 0) inputs_.clear();
    const std::vector<int64_t> all = all_samples();
    const Tensors targets = outputs_of(cut_at(teacher_, block.target), all);
    check_size(targets);
    Model part = cut_block(student_, block);
    part.graph.add_input(kTarget, {DType::float32, false, {}});
    BlockSamples samples(data_, indices_, input_of(block), inputs_, targets);
    const Model teacher = echo();
    train::TrainOptions options = options_.train;
    options.loss.terms = train::parse_loss("mse");
    options.batch_statistics = false;
    options.integer_rate = kIntegerRate;
    options.relative_rates = false;  // steps of integers are relative
    options.keep_best = true;
    std::vector<double> rates(kRates.begin(), kRates.end());
    if (options_.rate > 0) rates = {options_.rate};
    // Values and, as the last, the loss; nothing where the start was best.
    std::vector<std::vector<NamedTensor>> found(rates.size());
    train::for_own_parts(options_.ranks, static_cast<int64_t>(rates.size()), [&](int64_t trial) {
      options.schedule.rate = rates[static_cast<size_t>(trial)];
      train::TrainResult result = train::train(part, &teacher, samples, all, options);
      if (result.best_epoch == 0) return;
      const double loss = result.epochs.at(static_cast<size_t>(result.best_epoch)).validation_loss;
      result.values.push_back({"", Tensor::scalar(loss)});
      found[static_cast<size_t>(trial)] = std::move(result.values);
    });
    train::share_parts(options_.ranks, found);
    std::vector<Candidate> out;
    for (size_t trial = 0; trial < found.size(); ++trial) {
      std::vector<NamedTensor>& values = found[trial];
      if (values.empty()) continue;
      const double loss = values.back().tensor.to_double();
      values.pop_back();
      train::TrainResult result;
      result.values = std::move(values);
      out.push_back({rates[trial], loss, std::move(result)});
    }
    return out;
  }

  static std::string input_of(const Block& block) {
    return block.input.empty() ? "" : block.input + "/block";
  }

  std::vector<int64_t> all_samples() const {
    std::vector<int64_t> all(indices_.size());
    std::iota(all.begin(), all.end(), 0);
    return all;
  }

  // What the next block reads.
  void advance(size_t k) {
    if (k + 1 == blocks_.size()) return;
    const std::string input = input_of(blocks_[k]);
    Session session(cut_block(student_, blocks_[k]));
    Tensors next;
    for (const int64_t sample : all_samples()) {
      std::vector<NamedTensor> feeds;
      if (input.empty()) {
        feeds = feeds_of(session, sample);
      } else {
        feeds = {{input, inputs_[static_cast<size_t>(sample)]}};
      }
      next.push_back(session.run(feeds)[0]);
    }
    inputs_ = std::move(next);
    check_size(inputs_);
  }

  PassResult finish() {
    PassResult out;
    out.changed = kept_ + refined_ > 0;
    out.details = {{"samples", static_cast<int64_t>(indices_.size() - held_.size())},
                   {"held_back", static_cast<int64_t>(held_.size())},
                   {"blocks", static_cast<int64_t>(blocks_.size())},
                   {"blocks_kept", static_cast<int64_t>(kept_)},
                   {"blocks_refined", static_cast<int64_t>(refined_)},
                   {"start", start_},
                   {"best", best_},
                   {"rows", std::move(rows_)}};
    if (!out.changed) {
      out.skipped.push_back({"", fmt::format("no block's training brought the outputs on the {} "
                                             "samples held back closer to the teacher's",
                                             held_.size())});
    }
    return out;
  }

  Model& student_;
  const Model& teacher_;
  SampleSource& data_;
  const std::vector<int64_t>& indices_;
  const BlockwiseOptions& options_;
  const std::function<void(std::string_view)>& log_;
  std::vector<Block> blocks_;
  std::vector<int64_t> held_;  // positions in indices_
  Tensors final_;              // the teacher's outputs on those
  Tensors inputs_;             // of the next block
  Json rows_ = Json::array();
  double start_ = 0, best_ = 0;
  size_t kept_ = 0;     // blocks, of the first pass
  size_t refined_ = 0;  // of the second
};

}  // namespace

PassResult distill_blockwise(Model& student, const Model& teacher, SampleSource& data,
                             const std::vector<int64_t>& indices, const BlockwiseOptions& options,
                             const std::function<void(std::string_view)>& log) {
  return Blockwise(student, teacher, data, indices, options, log).run();
}

}  // namespace compress
