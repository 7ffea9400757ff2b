// Data sets that are arrays: axis 0 counts samples.
#include <algorithm>
#include <charconv>
#include <filesystem>

#include "calibration/sources.h"
#include "compress/core/sha256.h"
#include "compress/error.h"

namespace compress {
namespace {

class ArraySource : public SampleSource {
 public:
  struct Feed {
    Fitter fitter;
    std::shared_ptr<const TensorData> array;
    bool constant = false;
    Tensor whole;      // of a constant
    int64_t rows = 1;  // of axis 0 that a sample takes: 2 of a state [2, 1, 128]
  };
  std::vector<Feed> feeds;
  std::shared_ptr<const TensorData> labels;
  std::vector<double> scores;
  int64_t samples = 0;
  int64_t rows = 1;   // of the first array, and of the labels
  int64_t total = 0;  // rows of the first array; a rest that fills no sample is left out
  std::string text;

  int64_t size() const override { return samples; }
  bool labelled() const override { return labels != nullptr; }
  std::vector<double> pair_scores() const override { return scores; }
  std::string description() const override { return text; }
  std::vector<std::string> constants() const override {
    std::vector<std::string> names;
    for (const Feed& feed : feeds) {
      if (feed.constant) names.push_back(feed.fitter.input().name);
    }
    return names;
  }
  Sample get(int64_t index) override {
    Sample sample;
    for (const Feed& feed : feeds) {
      sample.inputs.push_back(
          {feed.fitter.input().name,
           feed.constant ? feed.whole
                         : feed.fitter.fit(slice_rows(feed.array, index * feed.rows, feed.rows))});
    }
    if (labels) sample.label = slice_rows(labels, index * rows, rows);
    return sample;
  }
};

// Arrays by name, whichever file they lie in.
struct Arrays {
  std::vector<std::string> names;
  std::function<Tensor(const std::string&)> read;
  bool has(std::string_view name) const {
    return std::find(names.begin(), names.end(), name) != names.end();
  }
};

double number_in(const std::string& text, const std::string& path, size_t row) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    fail(ErrorCode::invalid_model, "{}: row {}: '{}' is no number", path, row + 1, text);
  }
  return value;
}

// The column "label" apart, columns that are called like an input for themselves, all others as the
// features of one array.
Arrays csv_arrays(const std::string& path, const std::vector<ModelInput>& inputs,
                  const DataFiles& files) {
  const auto rows = files.read_csv(path);
  const std::vector<std::string>& header = rows.front();
  std::map<std::string, std::vector<size_t>> columns;
  std::vector<std::string> names;
  for (size_t i = 0; i < header.size(); ++i) {
    const bool own = header[i] == "label" ||
                     std::any_of(inputs.begin(), inputs.end(),
                                 [&](const ModelInput& input) { return input.name == header[i]; });
    const std::string name = own ? header[i] : "columns";
    if (columns[name].empty()) names.push_back(name);
    columns[name].push_back(i);
  }
  std::map<std::string, Tensor> arrays;
  for (const auto& [name, list] : columns) {
    std::vector<double> values;
    for (size_t row = 1; row < rows.size(); ++row) {
      for (const size_t column : list) values.push_back(number_in(rows[row][column], path, row));
    }
    const auto count = static_cast<int64_t>(rows.size() - 1);
    const auto width = static_cast<int64_t>(list.size());
    arrays[name] =
        Tensor::from<double>(name == "label" ? Shape{count} : Shape{count, width}, values);
  }
  return {names, [arrays](const std::string& name) { return arrays.at(name); }};
}

Arrays open_all(const DatasetSpec& spec, const std::vector<ModelInput>& inputs,
                const DataFiles& files) {
  switch (spec.kind) {
    case DataKind::npz: {
      ArrayArchive archive = files.open_npz(spec.path);
      return {archive.names, archive.read};
    }
    case DataKind::csv:
      return csv_arrays(spec.path, inputs, files);
    default: {
      const Tensor only =
          spec.kind == DataKind::npy ? files.read_npy(spec.path) : files.read_idx(spec.path);
      return {{base_name(spec.path)}, [only](const std::string&) { return only; }};
    }
  }
}

// The array for each input: as the spec says, by name, or the only one for the only input.
std::map<std::string, std::string> match(const DatasetSpec& spec,
                                         const std::vector<ModelInput>& inputs,
                                         const Arrays& arrays, const std::string& label) {
  std::map<std::string, std::string> matched = spec.inputs;
  for (const auto& [input, array] : matched) {
    pick_input(inputs, input);
    if (!arrays.has(array)) {
      fail(ErrorCode::usage, "{} has no array '{}' for the input '{}'; it has {}", spec.path, array,
           input, fmt::join(arrays.names, ", "));
    }
  }
  for (const ModelInput& input : inputs) {
    if (!matched.contains(input.name) && arrays.has(input.name)) matched[input.name] = input.name;
  }
  std::vector<std::string> others;
  for (const std::string& name : arrays.names) {
    if (name != label && is_plain(name)) others.push_back(name);
  }
  if (matched.empty() && others.size() == 1 && (inputs.size() == 1 || !spec.input.empty())) {
    matched[pick_input(inputs, spec.input).name] = others.front();
  }
  if (matched.size() < inputs.size()) {
    fail(ErrorCode::invalid_model,
         "{} has the array{} {}, but the model takes {}; a data spec matches them with \"inputs\"",
         spec.path, arrays.names.size() == 1 ? "" : "s", fmt::join(arrays.names, ", "),
         describe(inputs));
  }
  return matched;
}

std::string label_array(const DatasetSpec& spec, const Arrays& arrays) {
  if (!spec.labels.empty() && !spec.labels_are_file) {
    if (!arrays.has(spec.labels)) {
      fail(ErrorCode::usage, "{} has no array '{}' for the labels, and there is no such file",
           spec.path, spec.labels);
    }
    return spec.labels;
  }
  if (spec.kind != DataKind::npz && spec.kind != DataKind::csv) return "";
  for (const char* name : {"label", "labels"}) {
    if (arrays.has(name)) return name;
  }
  return "";
}

bool is_constant(const DatasetSpec& spec, const std::string& array, const ModelInput& input,
                 const Tensor& tensor) {
  const auto listed = [&](const std::string& name) {
    return std::find(spec.constants.begin(), spec.constants.end(), name) != spec.constants.end();
  };
  return listed(array) || listed(input.name) || tensor.shape().rank() == 0;
}

void add_feed(ArraySource& source, const DatasetSpec& spec, const ModelInput& input,
              const std::string& array, const Tensor& tensor, const Preprocessing* preprocessing) {
  const std::string what = fmt::format("array '{}' of {}", array, base_name(spec.path));
  ArraySource::Feed feed{Fitter(input, preprocessing, what), nullptr, false, {}, 1};
  if (is_constant(spec, array, input, tensor)) {
    feed.fitter.check(tensor.dtype(), tensor.shape());
    feed.constant = true;
    feed.whole = feed.fitter.fit(tensor);
    source.feeds.push_back(std::move(feed));
    return;
  }
  const int64_t rows = input.fixed_batch();
  feed.rows = rows;
  const int64_t samples = tensor.shape()[0] / rows;
  if (samples == 0) {
    fail(ErrorCode::invalid_model, "{} has {} rows; the model takes {}", what, tensor.shape()[0],
         describe(input));
  }
  if (source.samples != 0 && samples != source.samples) {
    fail(ErrorCode::invalid_model,
         "{} has {} samples, others have {}; arrays that are the same for every "
         "sample are listed in \"constants\" of a data spec",
         what, samples, source.samples);
  }
  if (source.samples == 0) {
    source.rows = rows;
    source.total = tensor.shape()[0];
  }
  source.samples = samples;
  Shape shape = tensor.shape();
  shape[0] = rows;
  feed.fitter.check(tensor.dtype(), shape);
  feed.array = std::make_shared<const TensorData>(tensor.read());
  source.feeds.push_back(std::move(feed));
}

// Type, shape and both ends: large arrays are not read only to name them.
void hash_ends(Sha256& hash, const Tensor& tensor) {
  constexpr size_t kEnd = 1 << 20;
  hash.update(info(tensor.dtype()).name);
  hash.update(tensor.shape().to_string());
  const TensorData data = tensor.read();
  const std::span<const std::byte> bytes = data.bytes();
  hash.update(bytes.first(std::min(bytes.size(), kEnd)));
  hash.update(bytes.last(std::min(bytes.size(), kEnd)));
}

}  // namespace

std::unique_ptr<SampleSource> open_arrays(const DatasetSpec& spec,
                                          const std::vector<ModelInput>& inputs,
                                          const DataFiles& files) {
  const Arrays arrays = open_all(spec, inputs, files);
  const std::string label = label_array(spec, arrays);
  const auto matched = match(spec, inputs, arrays, label);
  Preprocessing preprocessing = spec.preprocessing;
  // Numbers in text have no type of their own.
  if (spec.kind == DataKind::csv && preprocessing.dtype == DType::undefined) {
    preprocessing.dtype = inputs.front().type.dtype;
  }
  const Preprocessing& p = preprocessing;
  const bool preprocesses = p.computes() || p.dtype != DType::undefined || !p.layout.empty() ||
                            !p.source_layout.empty() || !p.color.empty();
  const std::string target =
      preprocesses && inputs.size() > 1 && spec.kind != DataKind::csv
          ? pick_input(inputs, !spec.input.empty()       ? spec.input
                               : spec.inputs.size() == 1 ? spec.inputs.begin()->first
                                                         : "")
                .name
          : "";
  auto source = std::make_unique<ArraySource>();
  Sha256 hash;
  hash.update(spec.text);
  for (const ModelInput& input : inputs) {
    const std::string& array = matched.at(input.name);
    const Tensor tensor = arrays.read(array);
    const bool meant = preprocesses && (target.empty() || target == input.name);
    Preprocessing own = preprocessing;
    if (spec.kind == DataKind::csv) own.dtype = input.type.dtype;
    add_feed(*source, spec, input, array, tensor, meant ? &own : nullptr);
    hash.update(array);
    hash_ends(hash, tensor);
  }
  if (source->samples == 0) {
    fail(ErrorCode::usage, "every array of {} is a constant: there are no samples", spec.path);
  }
  if (!label.empty() || spec.labels_are_file) {
    const bool file = spec.labels_are_file;
    const Tensor array = file ? read_labels(spec.labels, files) : arrays.read(label);
    const std::string what = file ? spec.labels : fmt::format("'{}' of {}", label, spec.path);
    Labels labels = interpret_labels(array, source->total, what);
    source->scores = std::move(labels.scores);
    if (labels.labels) {
      source->labels = std::make_shared<const TensorData>(labels.labels.read());
    }
  }
  source->text = fmt::format("{}: {} samples{} (sha256 {})", base_name(spec.path), source->samples,
                             source->labelled() ? ", labelled" : "", hash.finish().substr(0, 16));
  return source;
}

}  // namespace compress
