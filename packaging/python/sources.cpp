#include "packaging/python/sources.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "calibration/sources.h"
#include "compress/error.h"

namespace compress {
namespace {

namespace py = pybind11;

// The array's memory, borrowed; given back under the lock whoever lets go of it last.
NamedTensor tensor_of(py::handle array) {
  const auto row = py::cast<py::tuple>(array);
  const auto name = py::cast<std::string>(row[0]), type = py::cast<std::string>(row[1]);
  const DTypeInfo* dtype = find_dtype(type);
  if (dtype == nullptr || dtype->bits == 0) {
    fail(ErrorCode::usage, "array '{}' is of numpy type {}, which no model takes", name, type);
  }
  Shape shape;
  for (const py::handle dim : row[2]) {
    if (shape.rank() == kMaxRank) fail(ErrorCode::usage, "array '{}' has too many axes", name);
    shape.push_back(py::cast<int64_t>(dim));
  }
  const std::shared_ptr<py::buffer_info> buffer(
      new py::buffer_info(py::cast<py::buffer>(row[3]).request()), [](py::buffer_info* info) {
        const py::gil_scoped_acquire lock;
        delete info;
      });
  const uint64_t bytes = byte_size(dtype->dtype, static_cast<uint64_t>(shape.count()));
  if (bytes != static_cast<uint64_t>(buffer->size * buffer->itemsize)) {
    fail(ErrorCode::usage, "array '{}' holds {} bytes, not the {} of {}{}", name,
         buffer->size * buffer->itemsize, bytes, type, shape.to_string());
  }
  return {name, Tensor::borrow(dtype->dtype, shape, buffer->ptr, buffer)};
}

std::vector<NamedTensor> tensors_of(py::handle arrays) {
  std::vector<NamedTensor> out;
  for (const py::handle array : arrays) out.push_back(tensor_of(array));
  return out;
}

bool is_label(const std::string& name) { return name == "label" || name == "labels"; }

// One sample at a time, asked of Python by its index.
class FetchedSource : public SampleSource {
 public:
  FetchedSource(std::string name, int64_t size, py::handle fetch, const Model& model)
      : name_(std::move(name)), size_(size), fetch_(fetch) {
    for (ModelInput& input : model_inputs(model)) {
      fitters_.emplace_back(std::move(input), nullptr, "a sample of " + name_);
    }
    if (size_ > 0) labelled_ = get(0).label.has_value();
  }
  int64_t size() const override { return size_; }
  bool labelled() const override { return labelled_; }
  std::string description() const override {
    return fmt::format("{}: {} samples{}", name_, size_, labelled_ ? ", labelled" : "");
  }
  Sample get(int64_t index) override {
    std::vector<NamedTensor> given;
    {
      const py::gil_scoped_acquire lock;
      given = tensors_of(fetch_(index));
    }
    Sample sample;
    for (const Fitter& fitter : fitters_) {
      sample.inputs.push_back({fitter.input().name, fitted(fitter, find(given, fitter))});
    }
    for (const NamedTensor& row : given) {
      if (is_label(row.name)) sample.label = label(row.tensor);
    }
    return sample;
  }

 private:
  const Tensor& find(const std::vector<NamedTensor>& given, const Fitter& fitter) const {
    const std::string& name = fitter.input().name;
    const NamedTensor* only = nullptr;
    int others = 0;
    for (const NamedTensor& row : given) {
      if (row.name == name) return row.tensor;
      if (is_label(row.name)) continue;
      only = &row;
      ++others;
    }
    if (fitters_.size() == 1 && others == 1) return only->tensor;
    std::vector<ModelInput> inputs;
    for (const Fitter& each : fitters_) inputs.push_back(each.input());
    fail(ErrorCode::usage, "a sample of {} has no array '{}'; the model takes {}", name_, name,
         describe(inputs));
  }

  // A sample without the axis of the batch gains it.
  static Tensor fitted(const Fitter& fitter, const Tensor& tensor) {
    Tensor whole = tensor;
    const TypeInfo& type = fitter.input().type;
    if (type.has_shape && tensor.shape().rank() + 1 == type.shape.rank()) {
      Shape shape = {1};
      for (const int64_t dim : tensor.shape()) shape.push_back(dim);
      whole = tensor.reshaped(shape);
    }
    fitter.check(whole.dtype(), whole.shape());
    return fitter.fit(whole);
  }

  Tensor label(const Tensor& tensor) const {
    const int64_t rows = fitters_.empty() ? 1 : fitters_.front().input().fixed_batch();
    const Shape& shape = tensor.shape();
    Shape whole = {1};
    if (shape.rank() > 0 && shape[0] == rows) whole = {};
    for (const int64_t dim : shape) whole.push_back(dim);
    return interpret_labels(tensor.reshaped(whole), rows, "the label of a sample of " + name_)
        .labels;
  }

  std::string name_;
  int64_t size_;
  py::handle fetch_;
  std::vector<Fitter> fitters_;
  bool labelled_ = false;
};

// Whole arrays, as an archive of them in memory: names, labels and axes are matched as those of
// .npz files.
std::unique_ptr<SampleSource> open_in_memory(const std::string& name,
                                             const std::vector<NamedTensor>& arrays,
                                             const Model& model) {
  ArrayArchive archive;
  for (const NamedTensor& array : arrays) archive.names.push_back(array.name);
  archive.read = [&arrays](const std::string& wanted) {
    return std::find_if(arrays.begin(), arrays.end(),
                        [&](const NamedTensor& array) { return array.name == wanted; })
        ->tensor;
  };
  DataFiles files;
  files.open_npz = [&archive](const std::string&) { return archive; };
  DatasetSpec spec;
  spec.path = name;
  return open_arrays(spec, model_inputs(model), files);
}

}  // namespace

OpenSource source_of(const std::string& name, py::handle described) {
  const auto row = py::cast<py::tuple>(described);
  if (py::cast<std::string>(row[0]) == "arrays") {
    return [name, arrays = tensors_of(row[1])](const Model& model) {
      return open_in_memory(name, arrays, model);
    };
  }
  return [name, size = py::cast<int64_t>(row[1]),
          fetch = py::handle(row[2].ptr())](const Model& model) {
    return std::make_unique<FetchedSource>(name, size, fetch, model);
  };
}

}  // namespace compress
