// Products of bytes as ONNX Runtime's kernels have them on AVX2 without VNNI: two neighbours along
// K, u8 times s8, are added in 16 bits that saturate (vpmaddubsw). A reference, not fast. Products
// of u8 by u8 are exact there as well; so are its depthwise convolutions.
#pragma once

namespace compress::kernels {

// Whether weights that this thread packs are for such sums.
bool simulates_saturation() noexcept;

class SaturationScope {
 public:
  SaturationScope() noexcept;
  ~SaturationScope();
  SaturationScope(const SaturationScope&) = delete;
  SaturationScope& operator=(const SaturationScope&) = delete;

 private:
  bool before_;
};

}  // namespace compress::kernels
