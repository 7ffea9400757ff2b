#include "compress/kernels/block_pack/block_pack.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>

#include "kernel_test_util.h"

namespace compress::kernels {
namespace {

// At an odd address, as weights in a protobuf file may lie.
struct OddBytes {
  explicit OddBytes(const std::vector<float>& values) : memory(values.size() * 4 + 1) {
    std::memcpy(memory.data() + 1, values.data(), values.size() * 4);
  }
  const std::byte* get() const { return memory.data() + 1; }
  std::vector<std::byte> memory;
};

BlockGrid grid_of(int bits, int64_t block, bool symmetric) {
  return {bits, block, symmetric && bits == 8 ? 1 : 0, (1 << bits) - 1};
}

void check_same(const BlockRange& a, const BlockRange& b) {
  CHECK(std::memcmp(&a.low, &b.low, sizeof a.low) == 0);
  CHECK(std::memcmp(&a.high, &b.high, sizeof a.high) == 0);
  CHECK(std::isnan(a.flaw) == std::isnan(b.flaw));
  CHECK((std::isnan(a.flaw) || a.flaw == b.flaw));
}

// Ties, both ends of the range, and what is far outside of it.
std::vector<float> weights(testing::Random& random, int64_t count, float scale) {
  std::vector<float> values = random.floats(count, -300 * scale, 300 * scale);
  for (size_t i = 0; i < values.size(); i += 3) {
    values[i] = scale * (0.5f * static_cast<float>(random.integer(-20, 20)));
  }
  for (size_t i = 5; i < values.size(); i += 41) values[i] = i % 2 ? 3e38f : -3e38f;
  for (size_t i = 7; i < values.size(); i += 29) values[i] = -0.0f;
  return values;
}

}  // namespace

TEST_CASE("blocks are packed to the same bytes on every instruction set") {
  testing::Random random(11);
  for (const BlockPackKernel* kernel : block_pack_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    for (const int bits : {2, 4, 8}) {
      for (const int64_t block : {16, 32, 48, 256, 4096}) {
        for (const int64_t n : {int64_t{1}, int64_t{13}, block - 1, block}) {
          if (n > block) continue;
          CAPTURE(kernel->name, bits, block, n);
          const BlockGrid grid = grid_of(bits, block, n % 2 == 0);
          const float scale = n % 3 == 0 ? -0.03f : 0.7f;
          const auto zero = static_cast<int32_t>(random.integer(grid.least, grid.most));
          const OddBytes x(weights(random, n, std::abs(scale)));
          check_same(kernel->row_range(x.get(), n), kBlockPackRef.row_range(x.get(), n));
          std::vector<uint8_t> expected(static_cast<size_t>(block * bits / 8) + 1, 0xa5);
          std::vector<uint8_t> actual = expected;
          kBlockPackRef.row_pack(x.get(), n, grid, scale, zero, expected.data());
          kernel->row_pack(x.get(), n, grid, scale, zero, actual.data());
          REQUIRE(actual == expected);
          CHECK(actual.back() == 0xa5);
        }
      }
    }
  }
}

TEST_CASE("tiles of columns are packed to the same bytes on every instruction set") {
  testing::Random random(12);
  for (const BlockPackKernel* kernel : block_pack_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    for (const int bits : {2, 4, 8}) {
      for (const int64_t block : {16, 32, 80, 256, 2048}) {
        for (const int64_t width : {1, 4, 7, 8, 30, 32}) {
          for (const int64_t height : {int64_t{1}, int64_t{14}, block}) {
            CAPTURE(kernel->name, bits, block, width, height);
            const int64_t stride = width + 5;
            const BlockGrid grid = grid_of(bits, block, width % 2 == 0);
            const OddBytes x(weights(random, height * stride, 0.1f));
            const WeightTile tile{x.get(), stride, height, width};
            float scale[kBlockPackColumns];
            int32_t zero[kBlockPackColumns] = {};
            const int64_t bytes = block * bits / 8, apart = bytes + 3;
            std::vector<uint8_t> expected(static_cast<size_t>(width * apart), 0xa5);
            std::vector<uint8_t> actual = expected;
            for (int64_t j = 0; j < width; ++j) {
              scale[j] = random.real(-0.2f, 0.2f) + 1e-3f;
              zero[j] = static_cast<int32_t>(random.integer(grid.least, grid.most));
              // A column is a row with a stride.
              std::vector<float> column(static_cast<size_t>(height));
              for (int64_t i = 0; i < height; ++i) {
                std::memcpy(&column[static_cast<size_t>(i)], x.get() + (i * stride + j) * 4, 4);
              }
              const OddBytes alone(column);
              kBlockPackRef.row_pack(alone.get(), height, grid, scale[j], zero[j],
                                     expected.data() + j * apart);
            }
            kernel->column_pack(tile, grid, scale, zero, actual.data(), apart);
            REQUIRE(actual == expected);
            BlockRange ranges[2][kBlockPackColumns];
            float low[kBlockPackColumns], high[kBlockPackColumns], flaw[kBlockPackColumns];
            for (const BlockPackKernel* each : {&kBlockPackRef, kernel}) {
              each->column_range(tile, low, high, flaw);
              for (int64_t j = 0; j < width; ++j)
                ranges[each == kernel][j] = {low[j], high[j], flaw[j]};
            }
            for (int64_t j = 0; j < width && kernel != &kBlockPackRef; ++j) {
              check_same(ranges[0][j], ranges[1][j]);
            }
          }
        }
      }
    }
  }
}

TEST_CASE("a value that is not finite is seen wherever it stands") {
  for (const BlockPackKernel* kernel : block_pack_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    for (const float flaw : {std::nanf(""), HUGE_VALF, -HUGE_VALF}) {
      for (size_t at = 0; at < 45; ++at) {
        CAPTURE(kernel->name, flaw, at);
        std::vector<float> values(45, 0.25f);
        values[at] = flaw;
        const OddBytes x(values);
        CHECK(std::isnan(kernel->row_range(x.get(), 45).flaw));
        float low[kBlockPackColumns], high[kBlockPackColumns], found[kBlockPackColumns];
        kernel->column_range({x.get(), 9, 5, 9}, low, high, found);
        for (size_t j = 0; j < 9; ++j) CHECK(std::isnan(found[j]) == (j == at % 9));
      }
    }
  }
}

}  // namespace compress::kernels
