// Augmentation of batches of images, a function of the seed and of what is given: the sample and
// the epoch.
#pragma once

#include <cstdint>
#include <span>

#include "compress/core/tensor.h"

namespace compress::train {

struct AugmentOptions {
  bool flip = false;  // left and right, every other image
  int64_t crop = 0;   // moved by up to so many pixels each way; zeros come in

  bool any() const { return flip || crop > 0; }
};

// SplitMix64 (Steele, Lea, Flood 2014): well mixed bits of a counter.
uint64_t mixed_bits(uint64_t value);

// float32 images [N, C, H, W], or [N, H, W, C] where the last axis is the smallest. `keys` has one
// number an image; other tensors come back as they are.
Tensor augment(const Tensor& images, const AugmentOptions& options, std::span<const uint64_t> keys);

}  // namespace compress::train
