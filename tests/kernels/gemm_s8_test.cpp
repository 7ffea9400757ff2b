#include "compress/kernels/gemm_s8/gemm_s8.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "compress/core/parallel.h"
#include "compress/kernels/gemm_s8/saturation.h"
#include "tests/kernels/kernel_test_util.h"

namespace compress::kernels {
extern const GemmS8Kernel kGemmS8Avx512VnniEmulated;

namespace {

using testing::byte_value;
using testing::Random;
using testing::Workspace;

// Every variant that this CPU runs, and the VNNI kernel on emulated registers.
std::vector<const GemmS8Kernel*> variants() {
  std::vector<const GemmS8Kernel*> out;
  for (const GemmS8Kernel* kernel : gemm_s8_kernels()) {
    if (!runs_here(kernel->isa)) continue;
    out.push_back(kernel);
  }
  out.push_back(&kGemmS8Avx512VnniEmulated);
  for (size_t i = 0; i < out.size(); ++i) {
    if (out[i]->of_entries != nullptr) out.push_back(out[i]->of_entries);
  }
  return out;
}

struct Case {
  int64_t m, k, n;
  bool a_signed, b_signed, transposed;
  int b_zero_points;  // 0 none, 1 one for all, 2 one a column
};

struct Problem {
  Case c;
  int64_t lda, ldb, ldc;
  int32_t a_zero;
  std::vector<uint8_t> a, b, b_zero;
  std::vector<int32_t> bias;
  std::vector<float> scale, float_bias;

  Problem(const Case& test, uint32_t seed) : c(test) {
    Random random(seed);
    lda = c.k + random.integer(0, 3);
    ldb = (c.transposed ? c.k : c.n) + random.integer(0, 3);
    ldc = c.n + random.integer(0, 3);
    a = random.bytes(c.m * lda);
    b = random.bytes((c.transposed ? c.n : c.k) * ldb);
    b_zero = random.bytes(c.n);
    a_zero = byte_value(random.bytes(1)[0], c.a_signed);
    bias = random.integers(c.n, -100000, 100000);
    // Small ones, and such that results leave 16 bits but not 32.
    scale = random.floats(c.n, 1e-5f, seed % 4 == 1 ? 0.99f : 3e-3f);
    float_bias = random.floats(c.n, -2, 2);
  }

  PackedGemmS8 pack(const GemmS8Kernel& kernel) const {
    GemmS8Weights weights{b.data(), c.b_signed, c.transposed, c.k, c.n, ldb};
    if (c.b_zero_points > 0) weights.zero_point = b_zero.data();
    weights.zero_point_per_column = c.b_zero_points == 2;
    return pack_gemm_s8(weights, kernel);
  }

  // The definition, in 64 bits.
  int64_t exact(int64_t row, int64_t column, bool with_bias) const {
    int64_t sum = with_bias ? bias[column] : 0;
    const int32_t zero = c.b_zero_points == 0
                             ? 0
                             : byte_value(b_zero[c.b_zero_points == 2 ? column : 0], c.b_signed);
    for (int64_t k = 0; k < c.k; ++k) {
      const uint8_t weight = c.transposed ? b[column * ldb + k] : b[k * ldb + column];
      sum += int64_t{byte_value(a[row * lda + k], c.a_signed) - a_zero} *
             (byte_value(weight, c.b_signed) - zero);
    }
    return sum;
  }
};

template <class T>
std::vector<T> run(const Problem& p, const PackedGemmS8& packed, const S8Epilogue& epilogue) {
  std::vector<T> out(static_cast<size_t>(p.c.m * p.ldc), T{77});
  Workspace workspace(gemm_s8_workspace_bytes(packed, p.c.m));
  gemm_s8(packed, {p.c.m, p.a.data(), p.lda, p.c.a_signed, p.a_zero, out.data(), p.ldc, epilogue,
                   workspace.get()});
  CHECK(workspace.intact());
  for (int64_t row = 0; row < p.c.m; ++row) {  // nothing between the rows is touched
    for (int64_t i = p.c.n; i < p.ldc; ++i) REQUIRE(out[row * p.ldc + i] == T{77});
  }
  return out;
}

void check(const Case& c, uint32_t seed) {
  CAPTURE(c.m, c.k, c.n, c.a_signed, c.b_signed, c.transposed, c.b_zero_points, seed);
  const Problem p(c, seed);
  Random random(seed + 1);
  S8Epilogue raw;
  raw.output = S8Output::int32;
  if (seed % 2 == 0) raw.bias = p.bias.data();
  S8Epilogue quantized = raw;
  quantized.output = S8Output::quantized;
  quantized.scale = p.scale.data();
  quantized.is_signed = seed % 3 == 0;
  const int32_t lowest = quantized.is_signed ? -128 : 0;
  quantized.zero_point = lowest + static_cast<int32_t>(random.integer(0, 255));
  quantized.lo = seed % 5 == 0 ? quantized.zero_point : lowest;
  quantized.hi = std::max(quantized.zero_point, lowest + 255 - static_cast<int>(seed % 3));
  S8Epilogue floating = raw;
  floating.output = S8Output::float32;
  floating.scale = p.scale.data();
  floating.scale_factor = 0.37f;
  if (seed % 3 != 0) floating.float_bias = p.float_bias.data();

  for (const GemmS8Kernel* kernel : variants()) {
    CAPTURE(kernel->name);
    const PackedGemmS8 packed = p.pack(*kernel);
    const auto sums = run<int32_t>(p, packed, raw);
    const auto bytes = run<uint8_t>(p, packed, quantized);
    const auto floats = run<float>(p, packed, floating);
    for (int64_t row = 0; row < c.m; ++row) {
      for (int64_t column = 0; column < c.n; ++column) {
        CAPTURE(row, column);
        const int64_t at = row * p.ldc + column;
        const int64_t exact = p.exact(row, column, raw.bias != nullptr);
        REQUIRE(sums[at] == exact);
        const float scaled = static_cast<float>(exact) * p.scale[column];
        const double rounded = std::nearbyint(double{scaled}) + quantized.zero_point;
        const double expected =
            std::min<double>(std::max<double>(rounded, quantized.lo), quantized.hi);
        REQUIRE(byte_value(bytes[at], quantized.is_signed) == expected);
        const float m = p.scale[column] * 0.37f;
        const float product = static_cast<float>(exact) * m;
        const float sum = floating.float_bias ? product + p.float_bias[column] : product;
        REQUIRE(floats[at] == sum);
      }
    }
  }
}

TEST_CASE("gemm_s8: every variant equals the definition") {
  const int64_t sizes[] = {1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 67, 97};
  Random random(7);
  for (uint32_t seed = 0; seed < 160; ++seed) {
    const auto size = [&] { return sizes[random.integer(0, std::size(sizes) - 1)]; };
    check({size(), size(), size(), random.integer(0, 1) == 1, random.integer(0, 1) == 1,
           random.integer(0, 1) == 1, static_cast<int>(random.integer(0, 2))},
          seed);
  }
}

TEST_CASE("gemm_s8: sums that would saturate 16 bits") {
  for (const bool a_signed : {false, true}) {
    Case c{7, 130, 33, a_signed, true, false, 0};
    Problem p(c, 3);
    std::fill(p.a.begin(), p.a.end(), a_signed ? uint8_t{0x80} : uint8_t{255});
    std::fill(p.b.begin(), p.b.end(), uint8_t{127});
    p.a_zero = 0;
    S8Epilogue raw;
    raw.output = S8Output::int32;
    for (const GemmS8Kernel* kernel : variants()) {
      CAPTURE(kernel->name);
      const auto sums = run<int32_t>(p, p.pack(*kernel), raw);
      CHECK(sums[0] == 130 * 127 * (a_signed ? -128 : 255));
      CHECK(sums[6 * p.ldc + 32] == sums[0]);
    }
  }
}

// Weights as layers have them, most of them small; some units of four by sixteen without any.
std::vector<uint8_t> layer_weights(Random& random, int64_t k, int64_t n, int percent_zero) {
  std::vector<uint8_t> weights(static_cast<size_t>(k * n));
  const std::vector<float> spread = random.floats(k * n * 2, -1, 1);
  for (int64_t row = 0; row < k; ++row) {
    for (int64_t column = 0; column < n; ++column) {
      const int64_t at = row * n + column;
      const float value = 127 * spread[2 * at] * spread[2 * at + 1] * spread[2 * at];
      const bool zero = (row / 4 * 7 + column / 16 * 3) % 100 < percent_zero;
      weights[at] = zero ? 0 : static_cast<uint8_t>(static_cast<int8_t>(value));
    }
  }
  return weights;
}

TEST_CASE("gemm_s8: a kernel of entries where weights suit it: products in pairs, zeros left out") {
  Random random(31);
  for (const int percent_zero : {0, 50, 100}) {
    for (const int64_t m : {12, 13, 25, 100}) {
      Case c{m, 200, 72, m % 2 == 0, true, false, 0};
      Problem p(c, 9);
      p.ldb = c.n;
      p.b = layer_weights(random, c.k, c.n, percent_zero);
      const GemmS8Weights weights{p.b.data(), true, false, c.k, c.n, p.ldb};
      const PackedGemmS8 chosen = pack_gemm_s8_for(weights, m);
      CAPTURE(percent_zero, m, chosen.kernel->name);
      const GemmS8Kernel* of_entries = best_gemm_s8().of_entries;
      if (of_entries != nullptr && (of_entries->in_pairs || percent_zero > 0)) {
        CHECK(chosen.kernel == of_entries);
        const int64_t units = c.k / 4 * divide_up(c.n, of_entries->entry_columns);
        CHECK(chosen.entries <= (100 - percent_zero + 10) * units / 100);
        if (percent_zero == 0) CHECK(chosen.copies == 3);
      } else {
        CHECK(chosen.kernel == &best_gemm_s8());
      }
      S8Epilogue raw;
      raw.output = S8Output::int32;
      const auto expected = run<int32_t>(p, p.pack(kGemmS8Ref), raw);
      CHECK(run<int32_t>(p, chosen, raw) == expected);
      for (const GemmS8Kernel* kernel : variants()) {
        CAPTURE(kernel->name);
        CHECK(run<int32_t>(p, p.pack(*kernel), raw) == expected);
      }
    }
  }
  // Few rows, or weights of which most pairs would leave 16 bits: not taken.
  const Problem wild({40, 200, 72, false, true, false, 0}, 5);
  const GemmS8Weights weights{wild.b.data(), true, false, 200, 72, wild.ldb};
  CHECK(pack_gemm_s8_for(weights, 40).kernel == &best_gemm_s8());
  const std::vector<uint8_t> tame = layer_weights(random, 200, 72, 0);
  const GemmS8Weights small{tame.data(), true, false, 200, 72, 72};
  CHECK(pack_gemm_s8_for(small, 3).kernel == &best_gemm_s8());
}

TEST_CASE("gemm_s8: rows, columns and threads are split without a trace") {
  const int before = thread_count();
  for (const Case& c :
       {Case{1, 600, 2000, false, true, false, 2}, Case{203, 240, 50, true, false, true, 1},
        Case{16, 512, 333, false, true, true, 0}}) {
    const Problem p(c, 12);
    S8Epilogue raw;
    raw.output = S8Output::int32;
    set_thread_count(1);
    const auto expected = run<int32_t>(p, p.pack(kGemmS8Ref), raw);
    for (const int threads : {1, 2, 3, 7}) {
      set_thread_count(threads);
      for (const GemmS8Kernel* kernel : variants()) {
        CAPTURE(kernel->name, threads);
        CHECK(run<int32_t>(p, p.pack(*kernel), raw) == expected);
      }
    }
  }
  set_thread_count(before);
}

TEST_CASE("gemm_s8: empty sizes") {
  for (const GemmS8Kernel* kernel : variants()) {
    const Problem p({0, 5, 3, false, true, false, 0}, 1);
    S8Epilogue raw;
    raw.output = S8Output::int32;
    CHECK(run<int32_t>(p, p.pack(*kernel), raw).empty());
    const Problem no_k({2, 0, 3, false, true, false, 0}, 1);
    raw.bias = no_k.bias.data();
    CHECK(run<int32_t>(no_k, no_k.pack(*kernel), raw)[1] == no_k.bias[1]);
  }
}

}  // namespace

TEST_CASE("saturating pairs: their definition, and exact where weights leave a bit unused",
          "[gemm_s8]") {
  Random random(11);
  for (const bool a_signed : {false, true}) {
    for (const int64_t k : {1, 2, 7, 64}) {
      for (const int most : {127, 64}) {  // a pair of 64 by 255 is 32,640
        const int64_t m = 5, n = 19;
        CAPTURE(a_signed, k, most);
        const std::vector<uint8_t> a = random.bytes(m * k);
        std::vector<int8_t> b;
        for (int64_t i = 0; i < k * n; ++i) {
          b.push_back(static_cast<int8_t>(random.integer(-most, most)));
        }
        const int32_t a_zero = 3;
        const GemmS8Weights weights{b.data(), true, false, k, n, n};
        const auto product = [&](const PackedGemmS8& packed) {
          std::vector<int32_t> out(static_cast<size_t>(m * n));
          GemmS8Args args;
          args.m = m;
          args.a = a.data();
          args.lda = k;
          args.a_signed = a_signed;
          args.a_zero_point = a_zero;
          args.out = out.data();
          args.ldc = n;
          args.epilogue.output = S8Output::int32;
          Workspace workspace(gemm_s8_workspace_bytes(packed, m));
          args.workspace = workspace.get();
          gemm_s8(packed, args);
          return out;
        };
        std::vector<int32_t> expected;
        for (int64_t row = 0; row < m; ++row) {
          for (int64_t column = 0; column < n; ++column) {
            int32_t sum = 0;
            for (int64_t i = 0; i < k; i += 2) {
              int32_t pair = 0;
              for (int64_t j = i; j < std::min(i + 2, k); ++j) {
                const int32_t value = byte_value(a[row * k + j], a_signed) + (a_signed ? 128 : 0);
                pair += value * b[j * n + column];
              }
              sum += std::clamp(pair, -32768, 32767);
            }
            for (int64_t i = 0; i < k; ++i) {
              sum -= (a_zero + (a_signed ? 128 : 0)) * b[i * n + column];
            }
            expected.push_back(sum);
          }
        }
        const auto chosen = [&] {
          const SaturationScope scope;
          return pack_gemm_s8_for(weights, m);
        }();
        const std::vector<int32_t> exact = product(pack_gemm_s8_for(weights, m));
        CHECK(product(chosen) == expected);
        if (most == 64) CHECK(expected == exact);
        if (most == 127 && k == 64) CHECK(expected != exact);
      }
    }
  }
}

}  // namespace compress::kernels
