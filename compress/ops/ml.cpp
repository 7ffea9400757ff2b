// Numeric operators of ai.onnx.ml on whole tensors: ArrayFeatureExtractor, Binarizer, LabelEncoder.
#include <algorithm>
#include <map>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

using ops::dispatch;
using ops::label;
using ops::Types;

// --- ArrayFeatureExtractor: columns of the last axis ---------------------------------------------

void infer_extractor(NodeContext& c) {
  ops::require_inputs(c, 2, 2);
  if (!ops::all_shapes_known(c)) return c.set_output(0, c.dtype(0));
  Shape out = c.shape(0);
  if (out.rank() < 1) c.invalid("the input is a scalar");
  const Shape& indices = c.shape(1);
  out[out.rank() - 1] = indices.is_concrete() ? indices.count() : kUnknownDim;
  if (out.rank() == 1) out = Shape{1, out[0]};
  c.set_output(0, c.dtype(0), out);
}

Kernel prepare_extractor(const NodeContext& c) {
  const Shape& x = c.shape(0);
  const int64_t width = x[x.rank() - 1], rows = x.count(0, x.rank() - 1);
  const int64_t taken = c.shape(1).count();
  if (c.dtype(1) != DType::int64) c.invalid("indices are not int64");
  return ops::dispatch_size(c, c.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [=, where = label(c)](const KernelArgs& args) {
              const T* from = static_cast<const T*>(args.inputs[0].data);
              const auto* indices = static_cast<const int64_t*>(args.inputs[1].data);
              T* to = static_cast<T*>(args.outputs[0].data);
              for (int64_t i = 0; i < taken; ++i) {
                if (indices[i] < 0 || indices[i] >= width) {
                  fail(ErrorCode::invalid_model, "{}: index {} is outside {} elements", where,
                       indices[i], width);
                }
              }
              for (int64_t r = 0; r < rows; ++r) {
                for (int64_t i = 0; i < taken; ++i)
                  to[r * taken + i] = from[r * width + indices[i]];
              }
            }};
  });
}

// --- Binarizer -----------------------------------------------------------------------------------

Kernel prepare_binarizer(const NodeContext& c) {
  const float threshold = c.node().float_or("threshold", 0);
  return dispatch(Types<float, double, int32_t, int64_t>(), c, c.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return ops::unary_kernel<T, T>(c, [threshold](T value) {
      return static_cast<double>(value) > static_cast<double>(threshold) ? T(1) : T(0);
    });
  });
}

// --- LabelEncoder --------------------------------------------------------------------------------

using LabelTypes = Types<int64_t, float, double, int32_t, int16_t>;

// The list `side`_int64s, `side`_floats or `side`_tensor; fails for strings.
Tensor list_of(const NodeContext& c, const std::string& side) {
  if (c.node().attribute(side + "_strings") != nullptr) c.unsupported("labels that are strings");
  if (const Tensor* tensor = c.node().tensor_or_null(side + "_tensor")) {
    if (tensor->dtype() == DType::string) c.unsupported("labels that are strings");
    return *tensor;
  }
  if (c.node().attribute(side + "_floats") != nullptr) {
    const std::vector<float> values = c.node().floats_or(side + "_floats", {});
    return Tensor::from<float>({static_cast<int64_t>(values.size())}, values);
  }
  const std::vector<int64_t> values = c.node().ints_or(side + "_int64s", {});
  return Tensor::from<int64_t>({static_cast<int64_t>(values.size())}, values);
}

void infer_label_encoder(NodeContext& c) {
  ops::require_inputs(c, 1, 1);
  const DType dtype = list_of(c, "values").dtype();
  if (!c.in(0).has_shape) return c.set_output(0, dtype);
  c.set_output(0, dtype, c.shape(0));
}

template <class V>
V default_label(const NodeContext& c) {
  if (const Tensor* tensor = c.node().tensor_or_null("default_tensor")) {
    const Tensor value = convert(*tensor, dtype_of<V>());
    if (value.count() != 1) c.invalid("default_tensor must hold one value");
    return value.read().as<V>()[0];
  }
  if constexpr (std::is_floating_point_v<V>) {
    return static_cast<V>(c.node().float_or("default_float", -0.0f));
  } else {
    return static_cast<V>(c.node().int_or("default_int64", -1));
  }
}

// NaN in front of all numbers and equal to itself.
struct LabelOrder {
  template <class K>
  bool operator()(K a, K b) const {
    return a < b || (a != a && b == b);
  }
};

Kernel prepare_label_encoder(const NodeContext& c) {
  const Tensor keys = list_of(c, "keys"), values = list_of(c, "values");
  if (keys.count() != values.count()) {
    c.invalid(fmt::format("{} keys and {} values", keys.count(), values.count()));
  }
  if (keys.dtype() != c.dtype(0)) c.invalid("keys of another type than the input");
  return dispatch(LabelTypes(), c, c.dtype(0), [&](auto key_tag) {
    using K = decltype(key_tag);
    return dispatch(LabelTypes(), c, values.dtype(), [&](auto value_tag) -> Kernel {
      using V = decltype(value_tag);
      const TensorData key_data = keys.read(), value_data = values.read();
      std::map<K, V, LabelOrder> map;
      for (size_t i = 0; i < key_data.as<K>().size(); ++i) {
        map[key_data.as<K>()[i]] = value_data.as<V>()[i];  // the last of equal keys counts
      }
      return ops::unary_kernel<V, K>(c, [map, fallback = default_label<V>(c)](K key) {
        const auto found = map.find(key);
        return found == map.end() ? fallback : found->second;
      });
    });
  });
}

constexpr OpDef ml_row(std::string_view name, int since, InferFn infer, PrepareFn prepare) {
  return {.domain = "ai.onnx.ml",
          .name = name,
          .since_version = since,
          .infer = infer,
          .prepare = prepare};
}

constexpr OpDef kRows[] = {
    ml_row("ArrayFeatureExtractor", 1, infer_extractor, prepare_extractor),
    ml_row("Binarizer", 1, ops::infer_same, prepare_binarizer),
    ml_row("LabelEncoder", 2, infer_label_encoder, prepare_label_encoder),
};

}  // namespace

constinit const std::span<const OpDef> kMlOps = kRows;

}  // namespace compress
