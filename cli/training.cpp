#include "cli/training.h"

#include <filesystem>

#include "cli/console.h"
#include "compress/error.h"
#include "formats/arrays.h"
#include "formats/file.h"
#include "formats/onnx.h"

namespace compress {
namespace {

std::vector<NamedTensor> load_checkpoint(const std::string& path) {
  if (!std::filesystem::exists(path)) return {};
  const NpzReader archive(path);
  std::vector<NamedTensor> out;
  for (const std::string& name : archive.names()) out.push_back({name, archive.read(name)});
  return out;
}

}  // namespace

bool trains(std::string_view step) { return step == "distill" || step == "train"; }

TrainingAccess training_access(const JobData& data, const Model& input, const CommonFlags& flags,
                               Progress& progress, const train::Ranks& ranks) {
  TrainingAccess access;
  if (data.training != nullptr) {
    access.samples = [&data] { return CalibrationSamples{data.training, data.training_indices}; };
  }
  access.read_model = [](const std::string& path) { return read_onnx(path); };
  access.input = &input;
  access.ranks = ranks;
  // Files of state are rank 0's: the others need not see them.
  access.load = [ranks](const std::string& path) {
    std::vector<NamedTensor> state;
    if (ranks.first()) state = load_checkpoint(path);
    train::share_tensors(ranks, 0, state);
    return state;
  };
  access.save = [](const std::string& path, const std::vector<NamedTensor>& state) {
    write_npz(path, state, true);
  };
  if (!ranks.first()) return access;
  if (flags.verbose || progress.callback()) {
    access.log = [&progress](std::string_view line) {
      progress.clear();
      say(printable(line));
    };
  }
  if (progress.callback()) {
    progress.stage("training");
    access.progress = [&progress](int64_t done, int64_t total, const std::string& note) {
      progress.rename("training, " + note);
      progress.update(done, total);
    };
  }
  return access;
}

std::vector<Json> portable_steps(std::vector<Json> steps) {
  for (Json& step : steps) {
    for (auto& [name, options] : step.items()) {
      if (!trains(name)) continue;
      for (const char* key : {"checkpoint", "checkpoint-seconds", "teacher-cache"})
        options.erase(key);
      const std::string teacher = options.value("teacher", "");
      if (!teacher.empty() && teacher != "input") options["teacher"] = sha256_file(teacher);
    }
  }
  return steps;
}

}  // namespace compress
