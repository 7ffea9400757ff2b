// What calibration adds to running the same samples through the float model: both alternately, each
// from an open file to its end, per calibrator; then the search of each calibrator for a tensor's
// range. Usage:
//   bench_calibration [--threads N] [--samples N] [--rounds N] [--calibrator NAME] MODEL...
// Prints medians in ms of processor time, the median ratio within a round, and the slowest search.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include "bench/shapes.h"
#include "calibration/calibrator.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/quant/range.h"
#include "compress/runtime/session.h"
#include "formats/onnx.h"
#include "passes/pass.h"

namespace {

namespace fs = std::filesystem;

struct Settings {
  int threads = 1;
  int64_t samples = 64;
  int rounds = 7;
  std::string calibrator;  // empty: all
};

// Processor time of the process, which other programs leave alone.
struct Timer {
  std::clock_t start = std::clock();
  double milliseconds() const {
    return 1e3 * static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Noise that is made once, so that reading data costs neither side anything.
class Noise : public compress::SampleSource {
 public:
  Noise(const compress::Model& model, const std::string& name, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const auto seed = static_cast<uint64_t>(i + 1);
      samples_.push_back({compress::random_feed(model, bench::shapes_for(name), seed), {}});
    }
  }
  int64_t size() const override { return static_cast<int64_t>(samples_.size()); }
  compress::Sample get(int64_t index) override { return samples_[static_cast<size_t>(index)]; }
  bool labelled() const override { return false; }
  std::string description() const override { return "noise"; }

 private:
  std::vector<compress::Sample> samples_;
};

// The model as the quantize step sees it, and what it wants to know there.
struct Wanted {
  compress::Model model;
  compress::StatisticsRequests requests;
};

Wanted wanted_by(const compress::Model& model, std::string_view calibrator) {
  Wanted wanted;
  compress::Recipe recipe;
  recipe.steps = {{"quantize", {{"mode", "static"}, {"calibrator", calibrator}}}};
  compress::PipelineOptions options;
  options.lift_opset = compress::convert_opset;
  options.statistics = [&](const compress::Model& at, const compress::StatisticsRequests& requests,
                           const compress::Options&) {
    wanted = {at, requests};
    return compress::StatisticsSet();
  };
  compress::Model copy = model;
  try {
    compress::run_pipeline(copy, recipe, options);
  } catch (const compress::Error&) {  // statistics of nothing: what is wanted is known by then
  }
  return wanted;
}

void plain(const compress::Model& model, compress::SampleSource& data) {
  compress::Session session(model);
  for (int64_t i = 0; i < data.size(); ++i) session.run(data.get(i).inputs);
}

void compare(const std::string& name, const compress::Model& model,
             const compress::CalibratorDef& calibrator, const Settings& settings) {
  const Wanted wanted = wanted_by(model, calibrator.name);
  if (wanted.requests.empty()) return fmt::print("{:24} quantizes nothing\n", name);
  Noise data(wanted.model, name, settings.samples);
  const std::vector<int64_t> indices = compress::evenly_spaced(data.size(), data.size());
  std::vector<double> float_ms, calibrated_ms, ratios;
  compress::StatisticsSet set;
  for (int round = 0; round < settings.rounds; ++round) {
    const Timer of_float;
    plain(wanted.model, data);
    float_ms.push_back(of_float.milliseconds());
    const Timer of_both;
    set = compress::collect_statistics(wanted.model, data, indices, wanted.requests);
    calibrated_ms.push_back(of_both.milliseconds());
    ratios.push_back(calibrated_ms.back() / float_ms.back());
  }
  double slowest = 0;
  for (const auto& [value, statistics] : set.values) {
    const Timer search;
    calibrator.range(statistics, {});
    slowest = std::max(slowest, search.milliseconds());
  }
  fmt::print("{:24} {:16} {:9.2f} {:9.2f} {:7.3f} {:7} {:9.3f}\n", name, calibrator.name,
             median(float_ms), median(calibrated_ms), median(ratios), set.values.size(), slowest);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  compress::wait_passively(argv);
  Settings settings;
  std::vector<fs::path> models;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--threads" && i + 1 < argc) {
      settings.threads = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--samples" && i + 1 < argc) {
      settings.samples = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--rounds" && i + 1 < argc) {
      settings.rounds = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--calibrator" && i + 1 < argc) {
      settings.calibrator = compress::find_calibrator(argv[++i]).name;
    } else {
      models.emplace_back(word);
    }
  }
  compress::set_thread_count(settings.threads);
  fmt::print("{:24} {:16} {:>9} {:>9} {:>7} {:>7} {:>9}   ({} threads, {} samples)\n", "model",
             "calibrator", "float ms", "both ms", "ratio", "values", "search ms", settings.threads,
             settings.samples);
  for (const fs::path& path : models) {
    const std::string name = path.stem().string();
    try {
      const compress::Model model = compress::read_onnx(path.string());
      for (const compress::CalibratorDef& row : compress::all_calibrators()) {
        if (!settings.calibrator.empty() && settings.calibrator != row.name) continue;
        compare(name, model, row, settings);
      }
    } catch (const compress::Error& error) {
      fmt::print("{:24} {}\n", name, error.what());
    }
  }
  return 0;
}
