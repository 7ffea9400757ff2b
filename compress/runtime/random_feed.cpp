#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <string_view>

#include "compress/error.h"
#include "compress/runtime/session.h"

namespace compress {
namespace {

// Ids below this are words or bytes in every vocabulary that has at least a hundred entries.
constexpr uint64_t kMaxId = 100;
// A side of a picture that the model leaves open: a multiple of 32, as detectors want it.
constexpr int64_t kPictureSide = 224;

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  // splitmix64 (Steele, Lea, Flood 2014).
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  // Box and Muller.
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * 3.14159265358979323846 * uniform());
  }

 private:
  uint64_t state_;
};

bool contains(std::string_view name, std::string_view part) {
  const auto same = [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; };
  return std::search(name.begin(), name.end(), part.begin(), part.end(), same) != name.end();
}

// Integers: ones for masks, 0, 1, 2... along the last axis for positions, zeros for segment ids,
// small ids otherwise. A scalar is taken for a rate or a length and gets a common sampling rate.
std::vector<int64_t> integers(const std::string& name, const Shape& shape, Random& random) {
  std::vector<int64_t> values(static_cast<size_t>(shape.count()));
  const int64_t last = shape.rank() > 0 ? std::max<int64_t>(shape[shape.rank() - 1], 1) : 1;
  for (size_t i = 0; i < values.size(); ++i) {
    if (contains(name, "mask")) {
      values[i] = 1;
    } else if (contains(name, "position")) {
      values[i] = static_cast<int64_t>(i) % last;
    } else if (contains(name, "type") || contains(name, "segment")) {
      values[i] = 0;
    } else if (shape.rank() == 0) {
      values[i] = 16000;
    } else {
      values[i] = static_cast<int64_t>(random.next() % kMaxId);
    }
  }
  return values;
}

Tensor make_feed(const std::string& name, DType dtype, const Shape& shape, Random& random) {
  const auto count = static_cast<size_t>(shape.count());
  if (is_float(dtype)) {
    std::vector<float> values(count);
    const bool mask = contains(name, "mask");
    for (float& value : values) value = mask ? 1.0f : static_cast<float>(random.normal());
    return convert(Tensor::from<float>(shape, std::span<const float>(values)), dtype);
  }
  if (dtype == DType::boolean || is_integer(dtype)) {
    std::vector<int64_t> values = integers(name, shape, random);
    if (dtype == DType::boolean) std::fill(values.begin(), values.end(), 1);
    return convert(Tensor::from<int64_t>(shape, std::span<const int64_t>(values)), dtype);
  }
  fail(ErrorCode::unsupported, "no random values for input '{}' of type {}", name,
       info(dtype).name);
}

int64_t open_dimension(const Shape& shape, int axis, int64_t batch) {
  if (axis == 0) return batch;
  if (shape.rank() != 4) return 1;
  const bool channels_last = shape[3] == 1 || shape[3] == 3;
  const bool is_side = channels_last ? axis < 3 : axis > 1;
  return is_side ? kPictureSide : 1;
}

// Noise that the model alone asks for, in bytes; what a user asks for may be as large as it
// likes. A picture or a volume that large comes with a network of some size.
uint64_t most_noise(const Model& model, int64_t batch) {
  constexpr uint64_t kFreeBytes = uint64_t{64} << 20;
  constexpr uint64_t kPerFileByte = 64;
  constexpr uint64_t kAny = std::numeric_limits<uint64_t>::max();
  if (model.file_bytes == 0 || model.file_bytes > kAny / kPerFileByte / 2) return kAny;
  uint64_t most = 0;
  const uint64_t sample = kFreeBytes + kPerFileByte * model.file_bytes;
  return __builtin_mul_overflow(sample, std::max<int64_t>(batch, 1), &most) ? kAny : most;
}

void take_noise(const Value& input, const Shape& shape, uint64_t& left) {
  const uint64_t bytes = byte_size(input.type.dtype, static_cast<uint64_t>(shape.count()));
  if (bytes > left) {
    fail(ErrorCode::unsupported,
         "input '{}' {}{} wants {} bytes of noise, which is more than such a small model is given; "
         "insist on the shape with --input-shape, or give data",
         input.name, info(input.type.dtype).name, shape.to_string(), bytes);
  }
  left -= bytes;
}

}  // namespace

std::vector<NamedTensor> random_feed(const Model& model, const std::map<std::string, Shape>& shapes,
                                     uint64_t seed, int64_t batch) {
  std::vector<NamedTensor> feeds;
  Random random(seed);
  uint64_t left = most_noise(model, batch);
  for (const ValueId id : model.graph.inputs()) {
    const Value& value = model.graph.value(id);
    if (value.is_constant()) continue;
    Shape shape = value.type.shape;
    if (const auto row = shapes.find(value.name); row != shapes.end()) {
      shape = row->second;
    } else {
      if (!value.type.has_shape) {
        fail(ErrorCode::unsupported,
             "the model does not say what shape its input '{}' has, so no noise can be made for "
             "it; name the shape with --input-shape, or give data",
             value.name);
      }
      for (int i = 0; i < shape.rank(); ++i) {
        if (shape[i] < 0) shape[i] = open_dimension(value.type.shape, i, batch);
      }
      take_noise(value, shape, left);
    }
    feeds.push_back({value.name, make_feed(value.name, value.type.dtype, shape, random)});
  }
  return feeds;
}

}  // namespace compress
