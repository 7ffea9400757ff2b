#include "calibration/spec.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "compress/core/nearest.h"
#include "compress/error.h"
#include "compress/recipe.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxSpecBytes = 1 << 20;
constexpr std::string_view kAccepted =
    "a folder of images, .npz, .npy, IDX, CSV, a folder of test_data_set_*, or a spec (.json)";

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

struct KindRow {
  std::string_view key;
  DataKind kind;
};
constexpr KindRow kKinds[] = {
    {"images", DataKind::images}, {"npz", DataKind::npz}, {"npy", DataKind::npy},
    {"idx", DataKind::idx},       {"csv", DataKind::csv}, {"test_data", DataKind::tensor_folders},
};

bool holds_test_data(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("test_data_set_") || name == "input_0.pb") return true;
  }
  return false;
}

DataKind kind_of_file(const std::string& path) {
  std::array<char, 8> head{};
  std::ifstream(path, std::ios::binary).read(head.data(), head.size());
  const std::string_view start(head.data(), head.size());
  if (start.starts_with("PK")) return DataKind::npz;
  if (start.starts_with("\x93NUMPY")) return DataKind::npy;
  const auto type = static_cast<unsigned char>(head[2]);
  const bool idx = start.starts_with(std::string_view("\0\0", 2)) && type >= 8 && type <= 14;
  if (idx || start.starts_with("\x1F\x8B")) return DataKind::idx;
  if (start.starts_with("\xFF\xD8\xFF") || start.starts_with("\x89PNG") || is_image_name(path)) {
    return DataKind::images;
  }
  const std::string extension = lower(fs::path(path).extension().string());
  if (extension == ".npz") return DataKind::npz;  // whose reader says what is wrong
  if (extension == ".csv") return DataKind::csv;
  if (extension == ".txt" || extension == ".json" || extension == ".jsonl") {
    fail(ErrorCode::usage,
         "{} is text, and text is not tokenized here; give its tokens as an .npz with an array for "
         "each input of the model (input_ids: int64[samples, length]) and 'label' for next tokens",
         path);
  }
  fail(ErrorCode::invalid_model, "{} is no data set that is known; give {}", path, kAccepted);
}

DataKind kind_of(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) {
    fail(ErrorCode::io, "no data at {}; give {}", path, kAccepted);
  }
  if (fs::is_directory(status)) {
    return holds_test_data(path) ? DataKind::tensor_folders : DataKind::images;
  }
  if (!fs::is_regular_file(status)) {
    fail(ErrorCode::usage, "{} is neither a file nor a folder; give {}", path, kAccepted);
  }
  return kind_of_file(path);
}

// Reads one JSON spec; every key that it does not ask for is an error.
class SpecReader {
 public:
  SpecReader(const Json& json, fs::path folder) : json_(json), folder_(std::move(folder)) {
    if (!json.is_object()) fail(ErrorCode::usage, "a data spec is a JSON object");
  }

  DatasetSpec read() {
    DatasetSpec spec;
    read_kind(spec);
    spec.labels = text("labels");
    spec.input = text("input");
    if (const Json* inputs = find("inputs")) {
      if (!inputs->is_object()) wrong("inputs", "an object of model input: array");
      for (const auto& [name, array] : inputs->items()) {
        if (!array.is_string()) wrong("inputs", "an object of model input: array");
        spec.inputs[name] = array.get<std::string>();
      }
    }
    spec.constants = names("constants");
    read_preprocessing(spec.preprocessing);
    resolve_labels(spec);
    for (const auto& [key, value] : json_.items()) {
      const bool known = std::find(asked_.begin(), asked_.end(), key) != asked_.end();
      if (!known) {
        fail(ErrorCode::usage, "unknown key '{}' in a data spec{}", key, suggestion(key, asked_));
      }
    }
    return spec;
  }

 private:
  const Json* find(std::string_view key) {
    asked_.push_back(key);
    const auto row = json_.find(key);
    return row == json_.end() ? nullptr : &*row;
  }
  [[noreturn]] static void wrong(std::string_view key, std::string_view wanted) {
    fail(ErrorCode::usage, "'{}' in a data spec: {} is wanted", key, wanted);
  }
  std::string text(std::string_view key) {
    const Json* value = find(key);
    if (value == nullptr) return "";
    if (!value->is_string()) wrong(key, "text");
    return value->get<std::string>();
  }
  std::string choice(std::string_view key, std::span<const std::string_view> choices) {
    const std::string value = text(key);
    if (!value.empty() && std::find(choices.begin(), choices.end(), value) == choices.end()) {
      fail(ErrorCode::usage, "'{}' in a data spec: unknown '{}'{}", key, value,
           suggestion(value, choices));
    }
    return value;
  }
  std::vector<std::string> names(std::string_view key) {
    std::vector<std::string> out;
    const Json* value = find(key);
    if (value == nullptr) return out;
    if (!value->is_array()) wrong(key, "a list of names");
    for (const Json& name : *value) {
      if (!name.is_string()) wrong(key, "a list of names");
      out.push_back(name.get<std::string>());
    }
    return out;
  }
  std::vector<double> numbers(std::string_view key) {
    std::vector<double> out;
    const Json* value = find(key);
    if (value == nullptr) return out;
    const auto add = [&](const Json& number) {
      if (!number.is_number() || !std::isfinite(number.get<double>())) {
        wrong(key, "a number, or a list of one a channel");
      }
      out.push_back(number.get<double>());
    };
    if (value->is_array()) {
      for (const Json& number : *value) add(number);
    } else {
      add(*value);
    }
    return out;
  }
  // One side for both, or [height, width].
  std::vector<int> sides(std::string_view key) {
    std::vector<int> out;
    for (const double side : numbers(key)) {
      if (side < 1 || side > 1e5 || side != std::floor(side)) wrong(key, "a size in pixels");
      out.push_back(static_cast<int>(side));
    }
    if (out.size() > 2) wrong(key, "a size in pixels, or [height, width]");
    return out;
  }

  void read_kind(DatasetSpec& spec) {
    int found = 0;
    for (const KindRow& row : kKinds) {
      const std::string path = text(row.key);
      if (path.empty()) continue;
      spec.kind = row.kind;
      spec.path = (folder_ / path).lexically_normal().string();
      ++found;
    }
    if (found != 1) {
      fail(ErrorCode::usage,
           "a data spec names its data under one of: images, npz, npy, idx, csv, test_data");
    }
  }

  void read_preprocessing(Preprocessing& p) {
    constexpr std::string_view kLayouts[] = {"nchw", "nhwc"};
    constexpr std::string_view kColors[] = {"rgb", "bgr", "gray"};
    constexpr std::string_view kFilters[] = {"nearest", "bilinear", "bicubic"};
    const std::vector<int> resize = sides("resize");
    if (resize.size() == 1) p.geometry.resize = resize[0];
    if (resize.size() == 2)
      p.geometry.resize_height = resize[0], p.geometry.resize_width = resize[1];
    const std::vector<int> crop = sides("crop");
    if (!crop.empty()) p.geometry.crop_height = crop.front(), p.geometry.crop_width = crop.back();
    p.fit_to_model = resize.empty() && crop.empty();
    if (std::string filter = choice("interpolation", kFilters); !filter.empty()) {
      p.geometry.interpolation = std::move(filter);
    }
    p.color = choice("color", kColors);
    p.layout = choice("layout", kLayouts);
    p.source_layout = choice("source_layout", kLayouts);
    p.mean = numbers("mean");
    p.std = numbers("std");
    const std::vector<double> scale = numbers("scale");
    if (scale.size() > 1) wrong("scale", "one number");
    if (!scale.empty()) p.scale = scale[0];
    if (p.scale == 0 || std::find(p.std.begin(), p.std.end(), 0.0) != p.std.end()) {
      wrong(p.scale == 0 ? "scale" : "std", "a number other than 0");
    }
    if (const std::string dtype = text("dtype"); !dtype.empty()) {
      const DTypeInfo* row = find_dtype(dtype);
      if (row == nullptr || row->dtype == DType::string || row->bits == 0) {
        fail(ErrorCode::usage, "'dtype' in a data spec: unknown '{}'", dtype);
      }
      p.dtype = row->dtype;
    }
  }

  // Of an archive, `labels` is an array where there is no such file beside the spec.
  void resolve_labels(DatasetSpec& spec) const {
    if (spec.labels.empty()) return;
    const fs::path file = folder_ / spec.labels;
    std::error_code error;
    spec.labels_are_file = spec.kind != DataKind::npz || fs::is_regular_file(file, error);
    if (spec.labels_are_file) spec.labels = file.lexically_normal().string();
  }

  const Json& json_;
  fs::path folder_;
  std::vector<std::string_view> asked_;
};

}  // namespace

bool is_image_name(const std::string& path) {
  const std::string extension = lower(fs::path(path).extension().string());
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png" || extension == ".bmp";
}

DatasetSpec read_spec(const std::string& path, const std::string& labels, const DataFiles& files) {
  DatasetSpec spec;
  const bool is_inline = path.starts_with("{");
  std::error_code error;
  const bool is_file =
      lower(fs::path(path).extension().string()) == ".json" && fs::is_regular_file(path, error);
  if (is_inline || is_file) {
    const std::string text = is_inline ? path : files.read_text(path, kMaxSpecBytes);
    spec =
        in_context([&] { return is_inline ? std::string("data spec") : "in " + path; },
                   [&] {
                     const Json json = parse_json(text, "data spec");
                     return SpecReader(json, is_inline ? "" : fs::path(path).parent_path()).read();
                   });
    spec.text = text;
  } else {
    spec.kind = kind_of(path);
    spec.path = path;
  }
  if (!labels.empty()) {
    spec.labels = labels;
    spec.labels_are_file = spec.kind != DataKind::npz || fs::is_regular_file(labels, error);
  }
  return spec;
}

}  // namespace compress
