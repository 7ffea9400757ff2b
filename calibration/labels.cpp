#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "calibration/sources.h"
#include "compress/error.h"

namespace compress {
namespace {

Tensor labels_of_csv(const std::string& path, const DataFiles& files) {
  const std::vector<std::vector<std::string>> rows = files.read_csv(path);
  const int column = find_column(rows.front(), "label");
  if (column < 0) fail(ErrorCode::invalid_model, "{} has no column 'label'", path);
  std::vector<double> values;
  for (size_t i = 1; i < rows.size(); ++i) {
    const std::string& text = rows[i][static_cast<size_t>(column)];
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) {
      fail(ErrorCode::invalid_model, "{}: row {}: '{}' is no number", path, i + 1, text);
    }
    values.push_back(value);
  }
  return Tensor::from<double>({static_cast<int64_t>(values.size())}, values);
}

bool all_whole(const std::vector<double>& values) {
  return std::all_of(values.begin(), values.end(),
                     [](double x) { return std::abs(x) < 0x1p53 && x == std::floor(x); });
}

}  // namespace

int find_column(const std::vector<std::string>& header, std::string_view name) {
  const auto at = std::find(header.begin(), header.end(), name);
  return at == header.end() ? -1 : static_cast<int>(at - header.begin());
}

Tensor slice_rows(const std::shared_ptr<const TensorData>& array, int64_t first, int64_t rows) {
  const TensorView& view = array->view();
  Shape shape = view.shape;
  const uint64_t row_bytes =
      byte_size(view.dtype, static_cast<uint64_t>(shape.count(1, shape.rank())));
  shape[0] = rows;
  return Tensor::borrow(
      view.dtype, shape,
      static_cast<const std::byte*>(view.data) + static_cast<uint64_t>(first) * row_bytes, array);
}

std::string base_name(const std::string& path) {
  const std::filesystem::path p = std::filesystem::path(path).lexically_normal();
  return (p.has_filename() ? p.filename() : p.parent_path().filename()).string();
}

Tensor read_labels(const std::string& path, const DataFiles& files) {
  if (path.ends_with(".csv")) return labels_of_csv(path, files);
  if (path.ends_with(".npy")) return files.read_npy(path);
  if (path.ends_with(".npz")) {
    const ArrayArchive archive = files.open_npz(path);
    for (const char* name : {"label", "labels"}) {
      const auto& names = archive.names;
      if (std::find(names.begin(), names.end(), name) != names.end()) return archive.read(name);
    }
    fail(ErrorCode::invalid_model, "{} has no array 'label'", path);
  }
  return files.read_idx(path);
}

Labels interpret_labels(const Tensor& array, int64_t samples, const std::string& what) {
  const Shape& shape = array.shape();
  const int64_t count = shape.rank() > 0 ? shape[0] : -1;
  Labels out;
  if (is_float(array.dtype())) {
    const std::vector<double> values = array.to_doubles();
    if (shape.rank() == 1 && count != samples && count * 2 == samples) {
      out.scores = values;
      return out;
    }
    if (!all_whole(values)) {
      fail(ErrorCode::invalid_model,
           "{} holds real numbers of shape {}: neither a class a sample nor a score a pair of the "
           "{} "
           "samples",
           what, shape.to_string(), samples);
    }
  } else if (!is_integer(array.dtype()) && array.dtype() != DType::boolean) {
    fail(ErrorCode::invalid_model, "{} holds {}, not numbers", what, info(array.dtype()).name);
  }
  if (count != samples) {
    fail(ErrorCode::invalid_model, "{} has shape {} for {} samples", what, shape.to_string(),
         samples);
  }
  out.labels = convert(array, DType::int64);
  return out;
}

}  // namespace compress
