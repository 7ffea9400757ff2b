#include "passes/prune/magnitude.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "compress/core/int4.h"
#include "compress/error.h"

namespace compress {
namespace {

// Non-negative doubles order like their bits; float16, bfloat16 and float32 widen exactly. NaN
// comes above infinity, so that it is kept.
uint64_t key_of(double magnitude) { return std::bit_cast<uint64_t>(std::fabs(magnitude)); }

template <class T>
uint64_t float_key(const TensorView& view, int64_t i) {
  const T x = static_cast<const T*>(view.data)[i];
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) {
    return key_of(static_cast<double>(to_float(x)));
  } else {
    return key_of(static_cast<double>(x));
  }
}

template <class T, class Visit>
void visit_floats(const TensorView& view, Visit&& visit) {
  for (int64_t i = 0; i < view.count(); ++i) visit(i, float_key<T>(view, i));
}

int32_t integer_at(const TensorView& view, int64_t i) {
  const DTypeInfo& row = info(view.dtype);
  if (row.bits < 8) {
    return get_packed(static_cast<const uint8_t*>(view.data), i, row.bits, row.is_signed);
  }
  switch (view.dtype) {
    case DType::int8:
      return view.as<const int8_t>()[i];
    case DType::uint8:
      return view.as<const uint8_t>()[i];
    case DType::int16:
      return view.as<const int16_t>()[i];
    default:
      return view.as<const uint16_t>()[i];
  }
}

uint64_t integer_key(const PruneTarget& target, const TensorView& view, int64_t i) {
  const size_t p = target.param_of(i);
  return key_of((integer_at(view, i) - target.zero_points[p]) * target.scales[p]);
}

template <class Visit>
void visit_keys(const PruneTarget& target, const TensorView& view, Visit&& visit) {
  if (!target.scales.empty()) {
    for (int64_t i = 0; i < view.count(); ++i) visit(i, integer_key(target, view, i));
    return;
  }
  switch (view.dtype) {
    case DType::float32:
      return visit_floats<float>(view, visit);
    case DType::float64:
      return visit_floats<double>(view, visit);
    case DType::float16:
      return visit_floats<Half>(view, visit);
    default:
      return visit_floats<BFloat16>(view, visit);
  }
}

void write_zero(const PruneTarget& target, uint8_t* data, int64_t i) {
  const DTypeInfo& row = info(target.tensor.dtype());
  const int32_t zero = target.scales.empty() ? 0 : target.zero_points[target.param_of(i)];
  if (row.bits < 8) return set_packed(data, i, row.bits, zero);
  const size_t bytes = static_cast<size_t>(row.bits / 8);
  std::memset(data + static_cast<size_t>(i) * bytes, 0, bytes);
  if (zero != 0) std::memcpy(data + static_cast<size_t>(i) * bytes, &zero, bytes);  // little endian
}

}  // namespace

size_t PruneTarget::param_of(int64_t i) const {
  if (scales.size() == 1) return 0;
  const int64_t along = i / inner % axis_size;
  if (block_size == 0) return static_cast<size_t>(along);
  const int64_t blocks = (axis_size + block_size - 1) / block_size;
  const int64_t outer = i / (inner * axis_size);
  return static_cast<size_t>((outer * blocks + along / block_size) * inner + i % inner);
}

bool can_prune(DType dtype, bool is_quantized) {
  if (is_quantized) return is_integer(dtype) && info(dtype).bits <= 16;
  return dtype == DType::float32 || dtype == DType::float64 || is_half(dtype);
}

namespace {

// As visit_keys, by what counts.
template <class Visit>
void visit_ranks(const PruneTarget& target, const TensorView& view, Visit&& visit) {
  if (target.input_norms.empty() && target.ranks.empty()) return visit_keys(target, view, visit);
  for (int64_t i = 0; i < view.count(); ++i) visit(i, target.key_at(view, i));
}

}  // namespace

Threshold select_smallest(const std::vector<const PruneTarget*>& targets, int64_t count) {
  Threshold threshold{0, count};
  std::vector<int64_t> histogram(size_t{1} << 16);
  for (int shift = 48; shift >= 0; shift -= 16) {
    std::fill(histogram.begin(), histogram.end(), 0);
    const uint64_t prefix = threshold.key >> 16 >> shift;
    for (const PruneTarget* target : targets) {
      const TensorData data = target->tensor.read();
      visit_ranks(*target, data.view(), [&](int64_t, uint64_t key) {
        if (key >> 16 >> shift == prefix) ++histogram[key >> shift & 0xFFFF];
      });
    }
    // The bin in which the running count reaches what is still wanted; with none wanted, bin 0.
    uint64_t bin = 0;
    while (bin + 1 < histogram.size() && histogram[bin] < threshold.ties) {
      threshold.ties -= histogram[bin++];
    }
    threshold.key |= bin << shift;
  }
  return threshold;
}

void PruneTarget::weigh_inputs(std::vector<double> norms, int reduction_axis, int output_axis,
                               int64_t groups) {
  const Shape& shape = tensor.shape();
  input_norms = std::move(norms);
  input = {shape.count(reduction_axis + 1, shape.rank()), shape[reduction_axis], 1};
  group = {shape.count(output_axis + 1, shape.rank()), shape[output_axis],
           std::max<int64_t>(1, shape[output_axis] / groups)};
}

namespace {

uint64_t magnitude_key(const PruneTarget& target, const TensorView& view, int64_t i) {
  if (!target.scales.empty()) return integer_key(target, view, i);
  switch (view.dtype) {
    case DType::float32:
      return float_key<float>(view, i);
    case DType::float64:
      return float_key<double>(view, i);
    case DType::float16:
      return float_key<Half>(view, i);
    default:
      return float_key<BFloat16>(view, i);
  }
}

}  // namespace

uint64_t PruneTarget::key_at(const TensorView& view, int64_t i) const {
  if (!ranks.empty()) return key_of(double{ranks[static_cast<size_t>(i)]});
  const uint64_t key = magnitude_key(*this, view, i);
  if (input_norms.empty()) return key;
  const int64_t at = group.of(i) * input.size + input.of(i);
  return key_of(std::bit_cast<double>(key) * input_norms[static_cast<size_t>(at)]);
}

namespace {

// A copy in which the elements for which goes(i, key) are zero; asked in their order.
template <class Goes>
Zeroed zero_if(const PruneTarget& target, Goes&& goes) {
  const TensorData data = target.tensor.read();
  Zeroed out;
  out.tensor = Tensor::allocate(target.tensor.dtype(), target.tensor.shape());
  auto* bytes = reinterpret_cast<uint8_t*>(out.tensor.mutable_data());
  if (data.bytes().empty()) return out;
  std::memcpy(bytes, data.bytes().data(), data.bytes().size());
  visit_keys(target, data.view(), [&](int64_t i, uint64_t key) {
    if (goes(i, key)) {
      write_zero(target, bytes, i);
      ++out.zeros;
      out.changed += key != 0;
    } else {
      out.zeros += key == 0;
    }
  });
  return out;
}

}  // namespace

Zeroed zero_smallest(const PruneTarget& target, Threshold& threshold) {
  const TensorData data = target.tensor.read();
  return zero_if(target, [&](int64_t i, uint64_t magnitude) {
    const bool is_plain = target.input_norms.empty() && target.ranks.empty();
    const uint64_t key = is_plain ? magnitude : target.key_at(data.view(), i);
    const bool is_tie = key == threshold.key && threshold.ties > 0;
    if (is_tie) --threshold.ties;
    return key < threshold.key || is_tie;
  });
}

Zeroed zero_masked(const PruneTarget& target, const std::vector<uint8_t>& mask) {
  return zero_if(target, [&](int64_t i, uint64_t) { return mask[static_cast<size_t>(i)] != 0; });
}

Zeroed count_zeros(const PruneTarget& target, Tensor tensor) {
  Zeroed out;
  out.changed = same_content(target.tensor, tensor) ? 0 : 1;
  const TensorData data = tensor.read();
  visit_keys(target, data.view(), [&](int64_t, uint64_t key) { out.zeros += key == 0; });
  out.tensor = std::move(tensor);
  return out;
}

}  // namespace compress
