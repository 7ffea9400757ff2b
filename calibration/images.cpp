// Folders of images.
#include <algorithm>
#include <charconv>
#include <filesystem>

#include "calibration/sources.h"
#include "compress/core/sha256.h"
#include "compress/error.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

struct Entry {
  std::string name;  // relative to the folder
  int64_t label = -1;
};

class ImageSource : public SampleSource {
 public:
  ImageSource(Fitter fitter, const DataFiles& files) : fitter_(std::move(fitter)), files_(files) {}

  std::string folder;
  std::vector<Entry> entries;
  ImageGeometry geometry;
  bool gray = false;
  bool has_labels = false;
  std::string text;

  int64_t size() const override { return static_cast<int64_t>(entries.size()); }
  bool labelled() const override { return has_labels; }
  std::string description() const override { return text; }
  Sample get(int64_t index) override {
    const Entry& entry = entries[static_cast<size_t>(index)];
    const std::string path = (fs::path(folder) / entry.name).string();
    Tensor pixels = files_.read_image(path, geometry);
    if (gray) pixels = to_gray(pixels);
    const Shape& shape = pixels.shape();
    pixels = pixels.reshaped({1, shape[0], shape[1], shape[2]});
    Sample sample;
    in_context([&] { return fmt::format("for {}", path); },
               [&] {
                 fitter_.check(pixels.dtype(), pixels.shape());
                 sample.inputs.push_back({fitter_.input().name, fitter_.fit(pixels)});
               });
    if (has_labels) sample.label = Tensor::from<int64_t>({1}, {entry.label});
    return sample;
  }

 private:
  // ITU-R 601-2 luma in 16-bit fixed point, as Pillow's convert("L").
  static Tensor to_gray(const Tensor& pixels) {
    const TensorData data = pixels.read();
    const auto rgb = data.as<uint8_t>();
    Tensor out = Tensor::allocate(DType::uint8, {pixels.shape()[0], pixels.shape()[1], 1});
    const std::span<uint8_t> to = out.mutable_as<uint8_t>();
    for (size_t i = 0; i < to.size(); ++i) {
      const int sum = rgb[3 * i] * 19595 + rgb[3 * i + 1] * 38470 + rgb[3 * i + 2] * 7471 + 0x8000;
      to[i] = static_cast<uint8_t>(sum >> 16);
    }
    return out;
  }

  Fitter fitter_;
  const DataFiles files_;
};

// All images below the folder, sorted by their path's bytes.
std::vector<Entry> list_images(const std::string& folder) {
  std::vector<Entry> entries;
  std::error_code error;
  fs::recursive_directory_iterator at(folder, error), end;
  if (error) fail(ErrorCode::io, "cannot list {}: {}", folder, error.message());
  for (; at != end; at.increment(error)) {
    if (error) fail(ErrorCode::io, "cannot list {}: {}", folder, error.message());
    if (at->is_regular_file(error) && is_image_name(at->path().string())) {
      entries.push_back({at->path().lexically_relative(folder).generic_string()});
    }
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return entries;
}

// The rows of a CSV file with the columns file and label.
std::vector<Entry> listed_images(const std::string& csv, bool& has_labels, const DataFiles& files) {
  const auto rows = files.read_csv(csv);
  const int file = find_column(rows.front(), "file");
  const int label = find_column(rows.front(), "label");
  if (file < 0) fail(ErrorCode::invalid_model, "{} has no column 'file'", csv);
  has_labels = label >= 0;
  std::vector<Entry> entries;
  for (size_t i = 1; i < rows.size(); ++i) {
    Entry entry{rows[i][static_cast<size_t>(file)]};
    const fs::path path(entry.name);
    const bool leaves = std::find(path.begin(), path.end(), "..") != path.end();
    if (entry.name.empty() || path.is_absolute() || leaves) {
      fail(ErrorCode::invalid_model, "{}: row {}: '{}' is no file inside the folder", csv, i + 1,
           entry.name);
    }
    if (has_labels) {
      const std::string& text = rows[i][static_cast<size_t>(label)];
      const auto [end, error] =
          std::from_chars(text.data(), text.data() + text.size(), entry.label);
      if (error != std::errc() || end != text.data() + text.size()) {
        fail(ErrorCode::invalid_model, "{}: row {}: the label '{}' is no integer", csv, i + 1,
             text);
      }
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

void find_entries(const DatasetSpec& spec, const DataFiles& files, ImageSource& source) {
  std::error_code error;
  source.folder = spec.path;
  const bool folder = fs::is_directory(spec.path, error);
  std::string labels = spec.labels;
  if (spec.kind == DataKind::csv) {
    labels = spec.path;
    source.folder = fs::path(spec.path).parent_path().string();
  } else if (folder && labels.empty()) {
    const fs::path usual = fs::path(spec.path) / "labels.csv";
    if (fs::is_regular_file(usual, error)) labels = usual.string();
  }
  if (!labels.empty()) {
    source.entries = listed_images(labels, source.has_labels, files);
  } else if (folder) {
    source.entries = list_images(spec.path);
  } else {
    source.folder = fs::path(spec.path).parent_path().string();
    source.entries = {{fs::path(spec.path).filename().string()}};
  }
  if (source.entries.empty()) {
    fail(ErrorCode::invalid_model, "{} holds no images (.jpg, .jpeg, .png, .bmp)", spec.path);
  }
}

}  // namespace

std::unique_ptr<SampleSource> open_images(const DatasetSpec& spec,
                                          const std::vector<ModelInput>& inputs,
                                          const DataFiles& files) {
  const ModelInput& input = pick_input(inputs, spec.input);
  if (inputs.size() > 1) {
    fail(ErrorCode::invalid_model, "images feed one input, but the model takes {}",
         describe(inputs));
  }
  const Shape& shape = input.type.shape;
  if (!input.type.has_shape || shape.rank() != 4 || input.fixed_batch() > 1) {
    fail(ErrorCode::invalid_model,
         "images are fed as [1, channels, height, width], but the model takes {}", describe(input));
  }
  Preprocessing p = spec.preprocessing;
  const bool nhwc = takes_nhwc(input, p);
  const int64_t channels = shape[nhwc ? 3 : 1];
  const int64_t height = shape[nhwc ? 1 : 2], width = shape[nhwc ? 2 : 3];
  p.layout = nhwc ? "nhwc" : "nchw";
  p.source_layout = "nhwc";
  if (p.dtype == DType::undefined) p.dtype = input.type.dtype;
  auto source = std::make_unique<ImageSource>(Fitter(input, &p, "an image"), files);
  source->gray = p.color == "gray" || (p.color.empty() && channels == 1);
  source->geometry = p.geometry;
  const bool fits = p.fit_to_model && height > 0 && width > 0;
  if (fits) {
    source->geometry.cover = true;
    source->geometry.crop_height = static_cast<int>(height);
    source->geometry.crop_width = static_cast<int>(width);
  }
  find_entries(spec, files, *source);
  Sha256 hash;
  hash.update(spec.text);
  for (const Entry& entry : source->entries) {
    hash.update(fmt::format("{}\n{}\n", entry.name, entry.label));
  }
  source->text =
      fmt::format("{}: {} images{}{} (sha256 {})", base_name(source->folder), source->size(),
                  source->has_labels ? ", labelled" : "",
                  spec.text.empty() ? fmt::format(", no preprocessing given: raw 0..255{}",
                                                  fits ? " at the model's size" : "")
                                    : "",
                  hash.finish().substr(0, 16));
  source->get(0);  // what does not fit is said before any work
  return source;
}

}  // namespace compress
