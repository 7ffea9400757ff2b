#include "compress/kernels/gemm_w4/gemm_w4.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>

#include "compress/core/parallel.h"
#include "tests/kernels/kernel_test_util.h"

namespace compress::kernels {
extern const GemmW4Int8Kernel kGemmW4Int8Avx512VnniEmulated;

namespace {

using testing::Random;
using testing::Workspace;

template <class Kernel>
std::vector<const Kernel*> runnable(std::span<const Kernel* const> kernels) {
  std::vector<const Kernel*> out;
  for (const Kernel* kernel : kernels) {
    if (runs_here(kernel->isa)) out.push_back(kernel);
  }
  return out;
}
std::vector<const GemmW4Int8Kernel*> int8_variants() {
  auto out = runnable(gemm_w4_int8_kernels());
  out.push_back(&kGemmW4Int8Avx512VnniEmulated);
  return out;
}

struct Problem {
  int64_t m, k, n, block_size;
  int bits;
  bool zero_points, with_bias;
  int64_t blocks, lda, ldc;
  std::vector<uint8_t> data, zeros;
  std::vector<float> scales, a, bias;

  Problem(int64_t rows, int64_t depth, int64_t columns, int64_t block, int width, bool asymmetric,
          uint32_t seed)
      : m(rows), k(depth), n(columns), block_size(block), bits(width), zero_points(asymmetric) {
    Random random(seed);
    with_bias = seed % 2 == 0;
    blocks = divide_up(k, block_size);
    lda = k + random.integer(0, 3);
    ldc = n + random.integer(0, 3);
    data = random.bytes(n * blocks * block_size * bits / 8);
    zeros = random.bytes(n * divide_up(blocks * bits, 8));
    scales = random.floats(n * blocks, -0.1f, 0.1f);  // scales may be negative
    a = random.floats(m * lda, -3, 3);
    bias = random.floats(n, -1, 1);
  }

  PackedGemmW4 pack() const {
    return pack_gemm_w4(
        {data.data(), scales.data(), zero_points ? zeros.data() : nullptr, k, n, block_size, bits});
  }
  int32_t quantized(int64_t column, int64_t index) const {
    const uint8_t* row = data.data() + column * blocks * block_size * bits / 8;
    if (bits == 8) return row[index];
    return index % 2 == 0 ? row[index / 2] & 15 : row[index / 2] >> 4;
  }
  int32_t zero(int64_t column, int64_t block) const {
    if (!zero_points) return 1 << (bits - 1);
    if (bits == 8) return zeros[column * blocks + block];
    const uint8_t byte = zeros[column * divide_up(blocks, 2) + block / 2];
    return block % 2 == 0 ? byte & 15 : byte >> 4;
  }
  GemmW4Args args(std::vector<float>& out, Workspace& workspace) const {
    out.assign(static_cast<size_t>(m * ldc), 77.0f);
    return {m, a.data(), lda, out.data(), ldc, with_bias ? bias.data() : nullptr, workspace.get()};
  }
  void check_gaps(const std::vector<float>& out) const {
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t i = n; i < ldc; ++i) REQUIRE(out[row * ldc + i] == 77.0f);
    }
  }
};

void check_float(const Problem& p) {
  const PackedGemmW4 packed = p.pack();
  for (const GemmW4FloatKernel* kernel : runnable(gemm_w4_float_kernels())) {
    CAPTURE(kernel->name);
    Workspace workspace(gemm_w4_float_workspace_bytes(packed, p.m));
    std::vector<float> out;
    gemm_w4_float(packed, p.args(out, workspace), *kernel);
    CHECK(workspace.intact());
    p.check_gaps(out);
    for (int64_t row = 0; row < p.m; ++row) {
      for (int64_t column = 0; column < p.n; ++column) {
        double sum = p.with_bias ? p.bias[column] : 0, magnitude = std::abs(sum);
        for (int64_t i = 0; i < p.k; ++i) {
          const int64_t block = i / p.block_size;
          const float weight = static_cast<float>(p.quantized(column, i) - p.zero(column, block)) *
                               p.scales[column * p.blocks + block];
          const double term = double{p.a[row * p.lda + i]} * weight;
          sum += term;
          magnitude += std::abs(term);
        }
        CAPTURE(row, column);
        // k products and k + 1 sums, each with half a unit in the last place.
        REQUIRE(std::abs(out[row * p.ldc + column] - sum) <=
                static_cast<double>(p.k + 2) * 0x1p-24 * magnitude);
      }
    }
  }
}

void check_int8(const Problem& p) {
  const PackedGemmW4 packed = p.pack();
  for (const GemmW4Int8Kernel* kernel : int8_variants()) {
    CAPTURE(kernel->name);
    Workspace workspace(gemm_w4_int8_workspace_bytes(packed, p.m));
    std::vector<float> out;
    gemm_w4_int8(packed, p.args(out, workspace), *kernel);
    CHECK(workspace.intact());
    p.check_gaps(out);
    for (int64_t row = 0; row < p.m; ++row) {
      for (int64_t column = 0; column < p.n; ++column) {
        float acc = 0;
        for (int64_t block = 0; block < p.blocks; ++block) {
          const int64_t begin = block * p.block_size, end = std::min(p.k, begin + p.block_size);
          float largest = 0;
          for (int64_t i = begin; i < end; ++i) {
            largest = std::max(largest, std::abs(p.a[row * p.lda + i]));
          }
          const float scale = largest / 127.0f;
          int64_t dot = 0;
          for (int64_t i = begin; i < end; ++i) {
            const float value = scale > 0 ? std::nearbyint(p.a[row * p.lda + i] / scale) : 0.0f;
            dot += static_cast<int64_t>(value) * (p.quantized(column, i) - p.zero(column, block));
          }
          const float factor = scale * p.scales[column * p.blocks + block];
          const float term = static_cast<float>(dot) * factor;
          acc = acc + term;
        }
        if (p.with_bias) acc = acc + p.bias[column];
        CAPTURE(row, column);
        REQUIRE(out[row * p.ldc + column] == acc);
      }
    }
  }
}

TEST_CASE("gemm_w4: every variant equals the definition") {
  Random random(41);
  const int64_t sizes[] = {1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 33};
  const int64_t depths[] = {1, 15, 16, 17, 31, 32, 33, 64, 100, 255, 257, 300, 513};
  const int64_t blocks[] = {16, 32, 64, 128, 256};
  for (uint32_t seed = 0; seed < 90; ++seed) {
    const Problem p(sizes[random.integer(0, 12)], depths[random.integer(0, 12)],
                    sizes[random.integer(0, 12)], blocks[seed % 5], seed % 3 == 0 ? 8 : 4,
                    random.integer(0, 1) == 1, seed);
    CAPTURE(p.m, p.k, p.n, p.block_size, p.bits, p.zero_points, p.with_bias);
    check_float(p);
    check_int8(p);
  }
}

TEST_CASE("gemm_w4: the largest sums do not overflow 16 bits") {
  for (const int64_t block : {16, 32, 64}) {  // the usual zero point, 8
    Problem p(7, 128, 17, block, 4, false, 2);
    for (const uint8_t weights : {0x00, 0x80, 0x08, 0xff}) {
      std::fill(p.data.begin(), p.data.end(), weights);
      for (const float value : {-1.0f, 1.0f}) {
        std::fill(p.a.begin(), p.a.end(), value);
        check_int8(p);
      }
    }
  }
  for (const int bits : {4, 8}) {
    for (const int64_t block : {16, 32, 256}) {
      Problem p(5, 512, 17, block, bits, true, 2);
      std::fill(p.data.begin(), p.data.end(), uint8_t{255});
      for (const uint8_t zero : {0, 255}) {
        std::fill(p.zeros.begin(), p.zeros.end(), zero);
        for (const float value : {-1.0f, 1.0f}) {
          std::fill(p.a.begin(), p.a.end(), value);
          check_int8(p);
        }
      }
    }
  }
}

TEST_CASE("gemm_w4: more rows than stay in cache at once") {
  const Problem p(67, 4100, 17, 128, 4, true, 4);
  check_int8(p);
  check_float(Problem(131, 40, 18, 16, 4, true, 4));
}

TEST_CASE("gemm_w4: blocks of zeros, infinities and NaN stay in range") {
  Problem p(2, 96, 16, 32, 4, false, 1);
  std::fill(p.a.begin(), p.a.begin() + 64, 0.0f);
  check_int8(p);
  p.a[3] = std::numeric_limits<float>::infinity();
  p.a[5] = std::nanf("");
  for (const GemmW4Int8Kernel* kernel : int8_variants()) {
    CAPTURE(kernel->name);
    int8_t values[32];
    float scale;
    int32_t sum;
    kernel->quantize_row(p.a.data(), 32, 32, values, &scale, &sum);
    CHECK(std::isinf(scale));
    CHECK(values[0] == 0);
    CHECK(values[3] == -127);  // infinity / infinity is a NaN, and that the lowest value
    CHECK(values[5] == -127);
    const int32_t low = static_cast<int16_t>(sum & 0xffff), high = static_cast<int16_t>(sum >> 16);
    CHECK((kernel->sum_halves ? low + high : sum) == -254);
  }
}

TEST_CASE("gemm_w4: threads leave no trace") {
  const int before = thread_count();
  for (const int threads : {1, 2, 5}) {
    set_thread_count(threads);
    const Problem p(43, 256, 200, 32, 4, true, 6);
    check_int8(p);
    check_float(p);
    check_int8(Problem(1, 1024, 1000, 64, 8, false, 5));
    check_float(Problem(100, 128, 200, 64, 8, false, 5));
  }
  set_thread_count(before);
}

}  // namespace
}  // namespace compress::kernels
