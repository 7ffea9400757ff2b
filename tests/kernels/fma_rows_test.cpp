#include "compress/kernels/fma_rows/fma_rows.h"

#include <catch2/catch.hpp>

#include <array>
#include <cstring>

#include "compress/kernels/fma_rows/fma_rows_kernel.h"
#include "compress/kernels/isa.h"
#include "kernel_test_util.h"

namespace compress::kernels {

TEST_CASE("rows of fused multiply-adds have the same bits on every instruction set") {
  if (!runs_here(Isa::avx2)) {
    WARN("skipped: this processor has no AVX2");
    return;
  }
  testing::Random random(7);
  for (int rows = 1; rows <= 6; ++rows) {
    for (const int64_t n : {0, 1, 7, 8, 9, 40, 133}) {
      for (const int64_t stride : {1, 2, 3}) {
        CAPTURE(rows, n, stride);
        const std::vector<float> x = random.floats(n * stride + 1, -2, 2);
        const std::vector<float> w = random.floats(rows, -2, 2);
        std::vector<float> expected = random.floats(rows * n + 1, -2, 2);
        std::vector<float> actual = expected;
        std::array<float*, 6> into{}, from{};
        for (int r = 0; r < rows; ++r) {
          into[static_cast<size_t>(r)] = expected.data() + r * n;
          from[static_cast<size_t>(r)] = actual.data() + r * n;
        }
        kFmaRowsRef(rows, into.data(), w.data(), x.data(), stride, n);
        kFmaRowsAvx2(rows, from.data(), w.data(), x.data(), stride, n);
        REQUIRE(std::memcmp(actual.data(), expected.data(), expected.size() * sizeof(float)) == 0);
      }
    }
  }
}

}  // namespace compress::kernels
