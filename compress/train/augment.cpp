#include "compress/train/augment.h"

#include <cstring>

#include "compress/core/parallel.h"

namespace compress::train {

uint64_t mixed_bits(uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

Tensor augment(const Tensor& images, const AugmentOptions& options,
               std::span<const uint64_t> keys) {
  const Shape& shape = images.shape();
  if (!options.any() || images.dtype() != DType::float32 || shape.rank() != 4) return images;
  const bool last = shape[3] < shape[1];
  const int64_t planes = last ? 1 : shape[1], depth = last ? shape[3] : 1;
  const int64_t height = shape[last ? 1 : 2], width = shape[last ? 2 : 3];
  Tensor out = Tensor::zeros(DType::float32, shape);
  const TensorData data = images.read();
  const float* from = data.as<float>().data();
  float* to = out.mutable_as<float>().data();
  parallel_for(0, shape[0], 4, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const uint64_t bits = mixed_bits(keys[static_cast<size_t>(n)]);
      const bool flip = options.flip && (bits & 1) != 0;
      const auto range = static_cast<uint64_t>(2 * options.crop + 1);
      const int64_t dy = static_cast<int64_t>((bits >> 8) % range) - options.crop;
      const int64_t dx = static_cast<int64_t>((bits >> 32) % range) - options.crop;
      for (int64_t row = 0; row < planes * height; ++row) {
        const int64_t y = row % height + dy;
        if (y < 0 || y >= height) continue;
        const float* in = from + ((n * planes + row / height) * height + y) * width * depth;
        float* line = to + (n * planes * height + row) * width * depth;
        for (int64_t x = 0; x < width; ++x) {
          const int64_t source = (flip ? width - 1 - x : x) + dx;
          if (source < 0 || source >= width) continue;
          std::memcpy(line + x * depth, in + source * depth,
                      static_cast<size_t>(depth) * sizeof(float));
        }
      }
    }
  });
  return out;
}

}  // namespace compress::train
