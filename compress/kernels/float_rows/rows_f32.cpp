#include "compress/kernels/float_rows/rows_f32.h"

#include <algorithm>

#include "compress/core/parallel.h"
#include "compress/kernels/aligned.h"

namespace compress::kernels {
namespace {

constexpr const RowsF32Kernel* kKernels[] = {&kRowsF32Avx2, &kRowsF32Ref};

constexpr int64_t kThreadWork = 1 << 14;  // elements that repay waking a thread

template <class Body>
void each_row(int64_t rows, int64_t count, const Body& body) noexcept {
  const int64_t grain = divide_up(kThreadWork, std::max<int64_t>(count, 1));
  parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row * count);
  });
}

}  // namespace

std::span<const RowsF32Kernel* const> rows_f32_kernels() noexcept { return kKernels; }

const RowsF32Kernel& best_rows_f32() noexcept {
  return active_isa() == Isa::ref ? kRowsF32Ref : kRowsF32Avx2;
}

void softmax_f32(const float* x, int64_t rows, int64_t count, float* out,
                 const RowsF32Kernel& kernel) noexcept {
  each_row(rows, count,
           [&](int64_t at) { kernel.softmax(x + at, nullptr, 1.0f, count, out + at); });
}

void layer_norm_f32(const float* x, const float* gain, const float* bias, float epsilon,
                    int64_t rows, int64_t count, float* out, const RowsF32Kernel& kernel) noexcept {
  each_row(rows, count,
           [&](int64_t at) { kernel.layer_norm(x + at, gain, bias, epsilon, count, out + at); });
}

void rms_norm_f32(const float* x, const float* gain, float epsilon, int64_t rows, int64_t count,
                  float* out, const RowsF32Kernel& kernel) noexcept {
  each_row(rows, count,
           [&](int64_t at) { kernel.rms_norm(x + at, gain, epsilon, count, out + at); });
}

}  // namespace compress::kernels
