#include "cli/data.h"

#include <algorithm>

#include "calibration/dataset.h"
#include "cli/data_files.h"
#include "compress/error.h"

namespace compress {
namespace {

constexpr int64_t kCalibrationSamples = 128;
constexpr int64_t kEvaluationSamples = 1000;

std::map<std::string, OpenSource>& attached() {
  static std::map<std::string, OpenSource> sources;
  return sources;
}

}  // namespace

void attach_data(std::map<std::string, OpenSource> sources) { attached() = std::move(sources); }

std::unique_ptr<SampleSource> open_source(const std::string& path, const std::string& labels,
                                          const Model& model) {
  const auto own = attached().find(path);
  auto source = own != attached().end() ? own->second(model)
                                        : open_dataset({path, labels}, model, data_files());
  if (source->size() == 0) {
    fail(ErrorCode::invalid_model, "{} holds no samples; name a data set that does", path);
  }
  return source;
}

JobData open_data(const CommonFlags& flags, const Model& model, bool calibrates, bool trains) {
  JobData data;
  const std::string evaluation = flags.eval_data.empty() ? flags.data : flags.eval_data;
  const std::string calibration = !calibrates                      ? ""
                                  : flags.calibration_data.empty() ? flags.data
                                                                   : flags.calibration_data;
  if (!flags.labels.empty() && evaluation.empty()) {
    fail(ErrorCode::usage, "--labels {} without data to label; give --data or --eval-data",
         flags.labels);
  }
  if (!evaluation.empty()) {
    data.first = open_source(evaluation, flags.labels, model);
    data.evaluation = data.first.get();
  }
  if (!calibration.empty() && calibration == evaluation) {
    data.calibration = data.first.get();
    data.shared = true;
  } else if (!calibration.empty()) {
    data.second = open_source(calibration, "", model);
    data.calibration = data.second.get();
  } else if (calibrates && flags.allow_random) {
    const int64_t samples = flags.samples > 0 ? flags.samples : kCalibrationSamples;
    data.second = random_dataset(model, samples, flags.seed, input_shapes(flags));
    data.calibration = data.second.get();
  }
  const std::string training = !trains                    ? ""
                               : flags.train_data.empty() ? flags.data
                                                          : flags.train_data;
  if (!training.empty() && training == evaluation) {
    data.training = data.first.get();
    data.training_shared = true;
  } else if (!training.empty()) {
    data.third = open_source(training, training == flags.data ? flags.labels : "", model);
    data.training = data.third.get();
  }
  return data;
}

std::vector<int64_t> evaluation_samples(int64_t size, const std::vector<int64_t>& left_out,
                                        int64_t most, bool pairs) {
  const int64_t unit = pairs ? 2 : 1;  // what stays or goes together
  std::vector<int64_t> units;
  size_t next = 0;
  for (int64_t u = 0; u * unit + unit <= size; ++u) {
    bool free = true;
    while (next < left_out.size() && left_out[next] < (u + 1) * unit) {
      free = free && left_out[next] < u * unit;
      ++next;
    }
    if (free) units.push_back(u);
  }
  const int64_t count = static_cast<int64_t>(units.size());
  std::vector<int64_t> out;
  for (const int64_t at :
       evenly_spaced(count, std::min(count, std::max<int64_t>(most / unit, 1)))) {
    for (int64_t i = 0; i < unit; ++i) {
      out.push_back(units[static_cast<size_t>(at)] * unit + i);
    }
  }
  return out;
}

void choose_calibration(JobData& data, const CommonFlags& flags) {
  if (data.calibration == nullptr) return;
  const int64_t size = data.calibration->size();
  int64_t count = flags.samples > 0 ? flags.samples : kCalibrationSamples;
  if (flags.samples == 0 && data.shared) count = std::min(count, std::max<int64_t>(size / 2, 1));
  data.calibration_indices = evenly_spaced(size, std::min(count, size));
}

void choose_training(JobData& data, const CommonFlags& flags) {
  if (data.training == nullptr) return;
  const int64_t size = data.training->size();
  std::vector<int64_t> measured;
  if (data.training_shared) {
    const int64_t most = flags.eval_samples > 0 ? flags.eval_samples : kEvaluationSamples;
    measured = evenly_spaced(size, std::min(most, std::max<int64_t>(size / 5, 1)));
    data.evaluation_indices = measured;
    data.notes.push_back(fmt::format("verification measures on {} samples that training never sees",
                                     measured.size()));
  }
  size_t next = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (next < measured.size() && measured[next] == i) {
      ++next;
    } else {
      data.training_indices.push_back(i);
    }
  }
}

void calibrate_on_training(JobData& data) {
  if (data.training == nullptr || data.calibration != nullptr) return;
  data.calibration = data.training;
  const auto size = static_cast<int64_t>(data.training_indices.size());
  for (const int64_t at : evenly_spaced(size, std::min(kCalibrationSamples, size))) {
    data.calibration_indices.push_back(data.training_indices[static_cast<size_t>(at)]);
  }
}

void choose_evaluation(JobData& data, const CommonFlags& flags, bool calibrated) {
  if (data.evaluation == nullptr) return;
  if (data.training_shared) {  // chosen with what training learns from
    if (data.shared && calibrated) {
      std::erase_if(data.evaluation_indices, [&](int64_t index) {
        const auto& taken = data.calibration_indices;
        return std::binary_search(taken.begin(), taken.end(), index);
      });
    }
    return;
  }
  const bool pairs = !data.evaluation->pair_scores().empty();
  const int64_t size = data.evaluation->size();
  const int64_t most = flags.eval_samples > 0 ? flags.eval_samples : kEvaluationSamples;
  std::vector<int64_t> left_out;
  if (data.shared && calibrated) left_out = data.calibration_indices;
  data.evaluation_indices = evaluation_samples(size, left_out, most, pairs);
  if (data.evaluation_indices.empty()) {
    data.evaluation_indices = evaluation_samples(size, {}, most, pairs);
    data.notes.push_back(fmt::format(
        "all {} samples calibrated, so verification measures on the same ones; lower --samples or "
        "give --eval-data",
        size));
  } else if (!left_out.empty()) {
    data.notes.push_back(
        fmt::format("the {} calibration samples are left out of verification", left_out.size()));
  }
}

}  // namespace compress
