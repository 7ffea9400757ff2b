// What conv_s8.cpp and the depthwise kernels of each instruction set agree on. Plain data only, as
// in gemm_s8_kernel.h.
#pragma once

#include <cstdint>

#include "compress/kernels/isa.h"
#include "compress/kernels/s8_epilogue.h"

namespace compress::kernels {

inline constexpr int64_t kDepthwiseBlock = 16;  // channels

// A run of output pixels, all channels. Every pixel has `taps` pointers to input pixels, a multiple
// of the kernel's tap_group; a tap of the padding points to zero points.
// Channels are done in blocks of 16; where they are no multiple of 16 the last block overlaps the
// one before. REQUIRES channels >= 16.
struct DepthwiseS8Run {
  const uint8_t* const* taps_of_pixels;
  int64_t taps;
  int64_t pixels;
  int64_t channels;
  const void* weights;  // [block][taps / tap_group][16][tap_group], as pack_depthwise() has it
  uint8_t flip;         // xor of the input: 0x80 turns s8 into u8
  S8Finish finish;      // tables in the order of the channels
  void* out;            // pixels `channels` elements apart
};

inline constexpr int64_t kDepthwiseLineTaps = 5;  // of a kernel of `line`, in each direction

// One output line of a square kernel without dilation along x, from padded copies of its input
// lines. REQUIRES channels >= 16.
struct DepthwiseS8Line {
  const uint8_t* rows[kDepthwiseLineTaps];  // u8, at the leftmost tap of the first pixel
  // Where tap_group is 2, else 0. Bit i: rows 2i and 2i + 1 of the kernel (the last one: its lowest
  // row) are to be left out. They lie outside the image, and what they would add is in the offsets.
  uint32_t skip;
  int64_t pixels;
  int64_t channels;
  const void* weights;  // as for DepthwiseS8Run, taps in the order of line_tap()
  S8Finish finish;
  void* out;
};

using DepthwiseS8LineFunction = void (*)(const DepthwiseS8Line& line) noexcept;

struct DepthwiseS8Kernel {
  const char* name;
  Isa isa;
  int64_t tap_group;
  int64_t weight_bytes;  // 1, or 2: s16
  // The middle two quarters of a block of weights are exchanged, which undoes what the unpack
  // instructions of AVX2 do.
  bool swap_middle;
  void (*run)(const DepthwiseS8Run& run) noexcept;
  // Null, or null for what it lacks: a function for kernels of `size` x `size` taps; odd sizes only
  // where tap_group is 2.
  DepthwiseS8LineFunction (*line)(int64_t size, int64_t stride) noexcept;
};

extern const DepthwiseS8Kernel kDepthwiseS8Ref;
extern const DepthwiseS8Kernel kDepthwiseS8Avx2;
extern const DepthwiseS8Kernel kDepthwiseS8Avx512Vnni;

}  // namespace compress::kernels
