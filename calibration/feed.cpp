#include "calibration/feed.h"

#include <algorithm>
#include <array>
#include <utility>

#include "compress/core/parallel.h"
#include "compress/error.h"

namespace compress {
namespace {

// Integers that come back changed did not fit.
Tensor converted(const Tensor& tensor, DType to, const std::string& what) {
  if (tensor.dtype() == to) return tensor;
  Tensor out = convert(tensor, to);
  if (is_integer(to) && convert(out, tensor.dtype()).to_doubles() != tensor.to_doubles()) {
    fail(ErrorCode::invalid_model, "{}: some {} values are no {}", what, info(tensor.dtype()).name,
         info(to).name);
  }
  return out;
}

double of_channel(const std::vector<double>& values, int64_t channel, double fallback) {
  if (values.empty()) return fallback;
  return values.size() == 1 ? values[0] : values[static_cast<size_t>(channel)];
}

// Distances between neighbours of [n, c, h, w] in memory of either layout.
std::array<int64_t, 4> image_strides(int64_t c, int64_t h, int64_t w, bool nhwc) {
  return nhwc ? std::array{h * w * c, int64_t{1}, w * c, c}
              : std::array{c * h * w, h * w, w, int64_t{1}};
}

}  // namespace

bool is_plain(std::string_view name) {
  return !name.empty() && name.find_first_of("/\\") == std::string_view::npos && name != "..";
}

bool converts_by_itself(DType from, DType to) {
  if (from == to) return true;
  if (is_float(to)) return is_float(from) || from == DType::uint8 || from == DType::boolean;
  if (to == DType::boolean) return from == DType::uint8;
  return is_integer(from) && is_integer(to);
}

std::vector<ModelInput> model_inputs(const Model& model) {
  std::vector<ModelInput> inputs;
  for (const ValueId id : model.graph.inputs()) {
    const Value& value = model.graph.value(id);
    if (!value.is_constant()) inputs.push_back({value.name, value.type});
  }
  return inputs;
}

std::string describe(const ModelInput& input) {
  return fmt::format("'{}' {}{}", input.name, info(input.type.dtype).name,
                     input.type.has_shape ? input.type.shape.to_string() : "");
}

std::string describe(const std::vector<ModelInput>& inputs) {
  std::string text;
  for (const ModelInput& input : inputs) text += (text.empty() ? "" : ", ") + describe(input);
  return text;
}

const ModelInput& pick_input(const std::vector<ModelInput>& inputs, const std::string& name) {
  for (const ModelInput& input : inputs) {
    if (input.name == name) return input;
  }
  if (!name.empty()) {
    fail(ErrorCode::usage, "the model has no input '{}'; it takes {}", name, describe(inputs));
  }
  if (inputs.size() != 1) {
    fail(ErrorCode::usage, "the model takes {}; a data spec says with \"input\" which one is meant",
         describe(inputs));
  }
  return inputs.front();
}

bool takes_nhwc(const ModelInput& input, const Preprocessing& preprocessing) {
  if (!preprocessing.layout.empty()) return preprocessing.layout == "nhwc";
  if (!input.type.has_shape || input.type.shape.rank() != 4) return false;
  const auto channels = [&](int axis) {
    return input.type.shape[axis] == 1 || input.type.shape[axis] == 3;
  };
  return channels(3) && !channels(1);
}

Fitter::Fitter(ModelInput input, const Preprocessing* preprocessing, std::string what)
    : input_(std::move(input)), what_(std::move(what)) {
  if (preprocessing == nullptr) return;
  const Preprocessing& p = *preprocessing;
  computes_ = p.computes();
  explicit_dtype_ = computes_ || p.dtype != DType::undefined;
  mean_ = p.mean;
  std_ = p.std;
  scale_ = p.scale;
  bgr_ = p.color == "bgr";
  const std::string source = p.source_layout.empty() ? p.layout : p.source_layout;
  if (!source.empty()) {
    const bool nhwc = takes_nhwc(input_, p);
    source_channel_ = source == "nhwc" ? 3 : 1;
    to_nchw_ = source == "nhwc" && !nhwc;
    to_nhwc_ = source == "nchw" && nhwc;
    images_ = true;
  } else if (bgr_) {
    fail(ErrorCode::usage, "\"color\" of an array needs \"layout\" in the data spec");
  }
  if (p.dtype != DType::undefined && p.dtype != input_.type.dtype) {
    fail(ErrorCode::usage, "the data spec says {}, but the model takes {}", info(p.dtype).name,
         describe(input_));
  }
  if (computes_ && !is_float(input_.type.dtype)) {
    fail(ErrorCode::usage, "mean, std and scale make real numbers, but the model takes {}",
         describe(input_));
  }
}

Shape Fitter::fitted_shape(const Shape& shape) const {
  Shape out = shape;
  if (images_ && shape.rank() == 4) {
    if (to_nchw_) out = {shape[0], shape[3], shape[1], shape[2]};
    if (to_nhwc_) out = {shape[0], shape[2], shape[3], shape[1]};
  }
  const TypeInfo& type = input_.type;
  if (!type.has_shape) return out;
  const auto fits = [&](const Shape& s) {
    if (s.rank() != type.shape.rank()) return false;
    for (int axis = 0; axis < s.rank(); ++axis) {
      if (type.shape[axis] >= 0 && type.shape[axis] != s[axis]) return false;
    }
    return true;
  };
  if (fits(out)) return out;
  // The same elements under the model's shape, where that is known but for the batch: IDX images
  // have no axis for their one channel.
  Shape wanted = type.shape;
  if (wanted.rank() > 0 && out.rank() > 0) {
    wanted[0] = out[0];
    if (wanted.is_concrete() && fits(wanted) && wanted.count() == out.count()) return wanted;
  }
  fail(ErrorCode::invalid_model, "{} has samples of shape {}, but the model takes {}", what_,
       out.to_string(), describe(input_));
}

void Fitter::check(DType dtype, const Shape& shape) const {
  fitted_shape(shape);
  const DType to = input_.type.dtype;
  if (dtype == to) return;
  const bool numeric = (is_float(dtype) || is_integer(dtype) || dtype == DType::boolean) &&
                       (is_float(to) || is_integer(to) || to == DType::boolean);
  if (!numeric || !(explicit_dtype_ || converts_by_itself(dtype, to))) {
    fail(ErrorCode::invalid_model, "{} is {}, but the model takes {}{}", what_, info(dtype).name,
         describe(input_), numeric ? "; a data spec with \"dtype\" converts" : "");
  }
}

// (x / scale - mean) / std in the model's layout, as float32: in double, rounded once.
Tensor Fitter::normalized(const Tensor& sample) const {
  const Shape& shape = sample.shape();
  int64_t n = shape.rank() > 0 ? shape[0] : 1, c = 1, h = 1, w = 1;
  bool nhwc = false;
  if (images_ && shape.rank() == 4) {
    nhwc = source_channel_ == 3;
    c = shape[source_channel_];
    h = shape[nhwc ? 1 : 2];
    w = shape[nhwc ? 2 : 3];
  } else if (mean_.size() > 1 || std_.size() > 1) {
    c = shape.rank() > 1 ? shape[1] : 1;  // channels stand on axis 1 where nothing else is said
    w = c > 0 && n > 0 ? sample.count() / c / n : 0;
  } else {
    w = n > 0 ? sample.count() / n : 0;
  }
  for (const auto* list : {&mean_, &std_}) {
    if (list->size() > 1 && static_cast<int64_t>(list->size()) != c) {
      fail(ErrorCode::usage, "{} numbers in mean or std of the data spec for {} channels of {}",
           list->size(), c, what_);
    }
  }
  const bool out_nhwc = (nhwc && !to_nchw_) || to_nhwc_;
  const auto from_at = image_strides(c, h, w, nhwc);
  const auto to_at = image_strides(c, h, w, out_nhwc);
  Tensor out = Tensor::allocate(DType::float32, fitted_shape(shape));
  float* to = out.mutable_as<float>().data();

  const bool bytes = sample.dtype() == DType::uint8;
  const Tensor source = bytes ? sample : convert(sample, DType::float32);
  const TensorData data = source.read();
  parallel_for(0, n * c, 1, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t i = plane / c, channel = plane % c;
      const int64_t from_channel = bgr_ ? c - 1 - channel : channel;
      const double mean = of_channel(mean_, channel, 0), deviation = of_channel(std_, channel, 1);
      const auto value = [&](double x) {
        return static_cast<float>((x / scale_ - mean) / deviation);
      };
      const auto each = [&](const auto* from, const auto& convert_one) {
        for (int64_t y = 0; y < h; ++y) {
          const auto* f = from + i * from_at[0] + from_channel * from_at[1] + y * from_at[2];
          float* t = to + i * to_at[0] + channel * to_at[1] + y * to_at[2];
          for (int64_t x = 0; x < w; ++x) t[x * to_at[3]] = convert_one(f[x * from_at[3]]);
        }
      };
      if (bytes) {
        std::array<float, 256> table;
        for (size_t level = 0; level < table.size(); ++level) {
          table[level] = value(static_cast<double>(level));
        }
        each(data.view().as<const uint8_t>(), [&](uint8_t x) { return table[x]; });
      } else {
        each(data.view().as<const float>(), value);
      }
    }
  });
  return out;
}

Tensor Fitter::fit(const Tensor& sample) const {
  const DType to = input_.type.dtype;
  const bool moves = images_ && sample.shape().rank() == 4 && (to_nchw_ || to_nhwc_ || bgr_);
  if (computes_ || moves) return converted(normalized(sample), to, what_);
  return converted(sample, to, what_).reshaped(fitted_shape(sample.shape()));
}

}  // namespace compress
