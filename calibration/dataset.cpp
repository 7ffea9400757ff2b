#include "calibration/dataset.h"

#include <filesystem>

#include "calibration/sources.h"
#include "compress/error.h"
#include "compress/runtime/session.h"

namespace compress {
namespace {

// A CSV file that lists images, rather than numbers.
bool lists_images(const DatasetSpec& spec, const DataFiles& files) {
  return spec.kind == DataKind::csv && find_column(files.read_csv(spec.path).front(), "file") >= 0;
}

class RandomSource : public SampleSource {
 public:
  RandomSource(const Model& model, int64_t samples, uint64_t seed,
               std::map<std::string, Shape> shapes)
      : model_(model), samples_(samples), seed_(seed), shapes_(std::move(shapes)) {}
  int64_t size() const override { return samples_; }
  bool labelled() const override { return false; }
  std::string description() const override {
    return fmt::format("random noise, {} samples, seed {}", samples_, seed_);
  }
  Sample get(int64_t index) override {
    // Seeds of neighbouring samples are far apart.
    const uint64_t seed = seed_ + static_cast<uint64_t>(index) * 0x9E3779B97F4A7C15;
    return {random_feed(model_, shapes_, seed), {}};
  }

 private:
  const Model model_;  // a copy shares the constants
  int64_t samples_;
  uint64_t seed_;
  std::map<std::string, Shape> shapes_;
};

class Subset : public SampleSource {
 public:
  Subset(SampleSource& source, std::vector<int64_t> indices)
      : source_(source), indices_(std::move(indices)) {}
  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  bool labelled() const override { return source_.labelled(); }
  Sample get(int64_t index) override { return source_.get(indices_[static_cast<size_t>(index)]); }
  std::vector<std::string> constants() const override { return source_.constants(); }
  std::string description() const override {
    return fmt::format("{} of {}", indices_.size(), source_.description());
  }
  // Scores belong to pairs of consecutive samples: kept where the subset keeps the pairs together.
  std::vector<double> pair_scores() const override {
    const std::vector<double> all = source_.pair_scores();
    std::vector<double> kept;
    if (all.empty() || indices_.size() % 2 != 0) return kept;
    for (size_t i = 0; i < indices_.size(); i += 2) {
      const int64_t first = indices_[i];
      if (first % 2 != 0 || indices_[i + 1] != first + 1) return {};
      kept.push_back(all[static_cast<size_t>(first / 2)]);
    }
    return kept;
  }

 private:
  SampleSource& source_;
  std::vector<int64_t> indices_;
};

}  // namespace

std::unique_ptr<SampleSource> open_dataset(const DatasetOptions& options, const Model& model,
                                           const DataFiles& files) {
  return in_context([&] { return fmt::format("data {}", options.path); },
                    [&]() -> std::unique_ptr<SampleSource> {
                      const DatasetSpec spec = read_spec(options.path, options.labels, files);
                      const std::vector<ModelInput> inputs = model_inputs(model);
                      if (inputs.empty())
                        fail(ErrorCode::usage, "the model takes no inputs, so data cannot be fed");
                      if (spec.kind == DataKind::images || lists_images(spec, files)) {
                        return open_images(spec, inputs, files);
                      }
                      if (spec.kind == DataKind::tensor_folders)
                        return open_tensor_folders(spec, inputs, files);
                      return open_arrays(spec, inputs, files);
                    });
}

std::unique_ptr<SampleSource> random_dataset(const Model& model, int64_t samples, uint64_t seed,
                                             const std::map<std::string, Shape>& shapes) {
  return std::make_unique<RandomSource>(model, samples, seed, shapes);
}

std::unique_ptr<SampleSource> subset(SampleSource& source, std::vector<int64_t> indices) {
  return std::make_unique<Subset>(source, std::move(indices));
}

}  // namespace compress
