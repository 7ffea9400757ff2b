// Fills the tables of S8Finish. Not part of the public interface.
#pragma once

#include <cstdint>

#include "compress/kernels/aligned.h"
#include "compress/kernels/s8_epilogue.h"

namespace compress::kernels {

inline constexpr int64_t kS8FinishPadding = 16;  // channels

inline int64_t s8_finish_bytes(int64_t channels) {
  return round_up(round_up(channels, kS8FinishPadding) * 12, kAlignment);
}

// offset[i] = bias[i] - zero_point * weight_sum[i]. Tables lie in `memory` and are padded with 0.
S8Finish make_s8_finish(const S8Epilogue& epilogue, int64_t channels, const int32_t* weight_sum,
                        int32_t zero_point, void* memory) noexcept;

}  // namespace compress::kernels
