// Folders test_data_set_N with input_K.pb, as ONNX's own tests lay them out: whole feeds.
#include <algorithm>
#include <charconv>
#include <filesystem>

#include "calibration/sources.h"
#include "compress/core/sha256.h"
#include "compress/error.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

class TensorFolderSource : public SampleSource {
 public:
  TensorFolderSource(std::vector<ModelInput> inputs, const DataFiles& files)
      : inputs_(std::move(inputs)), files_(files) {}

  std::vector<std::string> folders;
  std::string text;

  int64_t size() const override { return static_cast<int64_t>(folders.size()); }
  bool labelled() const override { return false; }
  std::string description() const override { return text; }

  // Tensors go to the inputs that bear their names, or to the inputs in order.
  Sample get(int64_t index) override {
    const std::string& folder = folders[static_cast<size_t>(index)];
    std::vector<NamedTensor> tensors;
    std::error_code error;
    for (size_t k = 0; k < inputs_.size(); ++k) {
      const std::string path = (fs::path(folder) / fmt::format("input_{}.pb", k)).string();
      if (!fs::is_regular_file(path, error)) {
        fail(ErrorCode::invalid_model, "{} is missing; the model takes {}", path,
             describe(inputs_));
      }
      tensors.push_back(files_.read_tensor_file(path));
    }
    Sample sample;
    for (size_t k = 0; k < inputs_.size(); ++k) {
      const auto named = std::find_if(tensors.begin(), tensors.end(), [&](const NamedTensor& t) {
        return t.name == inputs_[k].name;
      });
      const Tensor& tensor = named == tensors.end() ? tensors[k].tensor : named->tensor;
      const Fitter fitter(inputs_[k], nullptr, fmt::format("input_{}.pb of {}", k, folder));
      fitter.check(tensor.dtype(), tensor.shape());
      sample.inputs.push_back({inputs_[k].name, fitter.fit(tensor)});
    }
    return sample;
  }

 private:
  std::vector<ModelInput> inputs_;
  const DataFiles files_;
};

// The number at the end of test_data_set_N; names without one come last.
int64_t set_number(const std::string& path) {
  const size_t at = path.find_last_not_of("0123456789");
  int64_t number = INT64_MAX;
  std::from_chars(path.data() + at + 1, path.data() + path.size(), number);
  return number;
}

}  // namespace

std::unique_ptr<SampleSource> open_tensor_folders(const DatasetSpec& spec,
                                                  const std::vector<ModelInput>& inputs,
                                                  const DataFiles& files) {
  if (!spec.labels.empty()) {
    fail(ErrorCode::usage, "{} has no labels to give: folders of tensors are feeds alone",
         spec.path);
  }
  auto source = std::make_unique<TensorFolderSource>(inputs, files);
  for (const auto& entry : fs::directory_iterator(spec.path)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("test_data_set_")) source->folders.push_back(entry.path().string());
  }
  if (source->folders.empty()) source->folders.push_back(spec.path);
  std::sort(source->folders.begin(), source->folders.end(),
            [](const std::string& a, const std::string& b) {
              return std::pair(set_number(a), a) < std::pair(set_number(b), b);
            });
  Sha256 hash;
  for (const std::string& folder : source->folders) hash.update(base_name(folder));
  source->text = fmt::format("{}: {} sets of tensors (sha256 {})", base_name(spec.path),
                             source->size(), hash.finish().substr(0, 16));
  source->get(0);
  return source;
}

}  // namespace compress
