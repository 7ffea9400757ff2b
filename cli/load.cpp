#include "cli/load.h"

#include <algorithm>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/verify/load.h"

namespace compress {
namespace {

constexpr double kMostSeconds = 8;  // for both models at one batch

bool wanted(const VerifyExtras& extras) {
  return extras.concurrency > 0 || extras.batches.size() > 1;
}

std::vector<int64_t> batches_of(const CommonFlags& flags, const VerifyExtras& extras) {
  return extras.batches.empty() ? std::vector<int64_t>{flags.batch} : extras.batches;
}

// Threads of each client: the machine's are shared out unless --threads says otherwise.
LoadOptions options_of(const CommonFlags& flags, const VerifyExtras& extras) {
  LoadOptions options;
  options.concurrency = std::max(extras.concurrency, 1);
  options.threads =
      flags.threads > 0 ? flags.threads : std::max(1, thread_count() / options.concurrency);
  const double share = flags.time_budget / static_cast<double>(batches_of(flags, extras).size());
  options.seconds = std::min(share, kMostSeconds);
  return options;
}

std::string type_text(const TypeInfo& type) {
  return std::string(info(type.dtype).name) + type.shape.to_string();
}

[[noreturn]] void fixed(const Model& model, const Value& input, int64_t batch) {
  fail(ErrorCode::usage,
       "--batch {}: input '{}' of {} is {}, fixed to {} sample{} a run; export the model with a "
       "free first dimension, or leave --batch out",
       batch, input.name, model.path, type_text(input.type), input.type.shape[0],
       input.type.shape[0] == 1 ? "" : "s");
}

}  // namespace

std::vector<NamedTensor> timing_feed(const Model& model, JobData& data, const CommonFlags& flags,
                                     int64_t batch) {
  if (data.evaluation == nullptr) {
    return random_feed(model, input_shapes(flags), flags.seed, batch);
  }
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < batch; ++i) {
    const size_t at = static_cast<size_t>(i) % data.evaluation_indices.size();
    indices.push_back(data.evaluation_indices[at]);
  }
  return join(*data.evaluation, indices).inputs;
}

void check_batches(const Model& model, const std::vector<int64_t>& batches, JobData& data,
                   const CommonFlags& flags) {
  // Inputs that are the same for every batch do not grow with it.
  std::vector<std::string> constants;
  std::map<std::string, int64_t> rows;  // of one sample
  if (data.evaluation != nullptr && !data.evaluation_indices.empty()) {
    constants = data.evaluation->constants();
    for (const NamedTensor& input : data.evaluation->get(data.evaluation_indices[0]).inputs) {
      const Shape& shape = input.tensor.shape();
      rows[input.name] = shape.rank() > 0 ? shape[0] : 0;
    }
  }
  const auto shapes = input_shapes(flags);
  const Value* blocked = nullptr;
  for (const ValueId id : model.graph.inputs()) {
    const Value& input = model.graph.value(id);
    const TypeInfo& type = input.type;
    if (input.is_constant() || !type.has_shape || type.shape.rank() == 0) continue;
    const bool grows = std::find(constants.begin(), constants.end(), input.name) == constants.end();
    // Without data one free input is enough: others may hold a state that has no batch.
    if (rows.empty() && (type.shape[0] < 0 || shapes.count(input.name) > 0)) return;
    if (!grows || type.shape[0] < 0) continue;
    for (const int64_t batch : batches) {
      const auto row = rows.find(input.name);
      if (type.shape[0] == batch * (row == rows.end() ? 1 : row->second)) continue;
      if (!rows.empty()) fixed(model, input, batch);
      blocked = &input;
    }
  }
  if (blocked == nullptr) return;
  for (const int64_t batch : batches) {
    if (blocked->type.shape[0] != batch) fixed(model, *blocked, batch);
  }
}

void load_here(const Model& reference, const Model& candidate, const SessionOptions& options,
               JobData& data, const CommonFlags& flags, const VerifyExtras& extras,
               Report& report) {
  if (!wanted(extras) || flags.time_budget <= 0) return;
  LoadOptions load = options_of(flags, extras);
  LoadClients a(reference, options, load.concurrency, load.threads);
  LoadClients b(candidate, options, load.concurrency, load.threads);
  for (const int64_t batch : batches_of(flags, extras)) {
    const std::vector<NamedTensor> feed = timing_feed(reference, data, flags, batch);
    a.prepare(feed);
    b.prepare(feed);
    load.batch = batch;
    report.load.push_back(measure_load([&](double seconds) { return a.run(seconds); },
                                       [&](double seconds) { return b.run(seconds); }, load));
  }
}

void load_elsewhere(OnnxRuntime& a, OnnxRuntime& b, const Model& reference, const Model& candidate,
                    JobData& data, const CommonFlags& flags, const VerifyExtras& extras,
                    Report& report) {
  if (!wanted(extras) || flags.time_budget <= 0) return;
  LoadOptions load = options_of(flags, extras);
  if (load.threads != thread_count()) {
    a.open(reference.path, load.threads);
    b.open(candidate.path, load.threads);
  }
  for (const int64_t batch : batches_of(flags, extras)) {
    const std::vector<NamedTensor> feed = timing_feed(reference, data, flags, batch);
    a.feed(feed);
    b.feed(feed);
    load.batch = batch;
    report.load.push_back(
        measure_load([&](double seconds) { return a.load(load.concurrency, seconds); },
                     [&](double seconds) { return b.load(load.concurrency, seconds); }, load));
  }
}

}  // namespace compress
