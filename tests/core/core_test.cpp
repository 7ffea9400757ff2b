#include <sched.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <limits>

#include "compress/core/half.h"
#include "compress/core/int4.h"
#include "compress/core/nearest.h"
#include "compress/core/parallel.h"
#include "compress/core/sha256.h"
#include "compress/core/sha256_blocks.h"
#include "compress/core/small_float.h"
#include "compress/core/tensor.h"
#include "compress/error.h"

using namespace compress;

TEST_CASE("an error is one printable line with its context") {
  Error error(ErrorCode::invalid_model, "bad\nname \x1b[31m\xff");
  error.add_context("while reading /conv1");
  error.add_context("in model.onnx");
  CHECK(std::string(error.what()) ==
        "bad\\x0aname \\x1b[31m\\xff (while reading /conv1, in model.onnx)");
  CHECK(printable("gr\xc3\xbc\xc3\x9f") == "gr\xc3\xbc\xc3\x9f");
  CHECK(printable(std::string(1'000'000, 'a')).size() < 500);
}

TEST_CASE("every float16 survives a round trip through float32") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const float value = to_float(half);
    if (std::isnan(value)) {
      CHECK(std::isnan(to_float(to_half(value))));
    } else if (to_half(value).bits != half.bits) {
      FAIL("float16 0x" << std::hex << bits);
    }
  }
}

TEST_CASE("float16 rounds to nearest, ties to even") {
  CHECK(to_half(1.0f + 0x1p-11f).bits == 0x3C00);            // a tie: down to even
  CHECK(to_half(1.0f + 3 * 0x1p-11f).bits == 0x3C02);        // a tie: up to even
  CHECK(to_half(65519.0f).bits == 0x7BFF);                   // the largest finite one
  CHECK(to_half(65520.0f).bits == 0x7C00);                   // a tie with 2^16: infinity
  CHECK(to_half(0x1p-25f).bits == 0);                        // a tie with zero
  CHECK(to_half(std::nextafter(0x1p-25f, 1.0f)).bits == 1);  // the smallest subnormal
  CHECK(to_half(-0.0f).bits == 0x8000);
}

TEST_CASE("bfloat16 rounds to nearest even and keeps NaN") {
  CHECK(to_bfloat16(1.0f + 0x1p-8f).bits == 0x3F80);
  CHECK(to_bfloat16(1.0f + 3 * 0x1p-8f).bits == 0x3F82);
  CHECK(std::isnan(to_float(to_bfloat16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST_CASE("every code of a small float survives a round trip") {
  for (const DType dtype : {DType::float8e4m3fn, DType::float8e4m3fnuz, DType::float8e5m2,
                            DType::float8e5m2fnuz, DType::float8e8m0, DType::float4e2m1}) {
    CAPTURE(info(dtype).name);
    const unsigned codes = 1u << info(dtype).bits;
    const auto& values = small_float_values(dtype);
    for (unsigned code = 0; code < codes; ++code) {
      CAPTURE(code);
      const uint8_t again = to_small_float(dtype, static_cast<double>(values[code]), {false});
      if (std::isnan(values[code])) {
        CHECK(std::isnan(values[again]));
      } else {
        CHECK(static_cast<unsigned>(again) == code);
      }
    }
  }
}

TEST_CASE("small floats round to nearest even, and saturate where asked") {
  const auto value = [](DType dtype, double x, SmallRounding rounding = {}) {
    return static_cast<double>(small_float_values(dtype)[to_small_float(dtype, x, rounding)]);
  };
  const double infinity = std::numeric_limits<double>::infinity();
  const DType e4m3 = DType::float8e4m3fn, e5m2 = DType::float8e5m2, e2m1 = DType::float4e2m1;
  CHECK(value(e4m3, 1.0625) == 1.0);   // a tie between 1 and 1.125
  CHECK(value(e4m3, 1.1875) == 1.25);  // a tie between 1.125 and 1.25
  CHECK(value(e4m3, 0x1p-10) == 0);    // a tie with the smallest subnormal, 2^-9
  CHECK(value(e4m3, 464) == 448);      // a tie beyond the largest
  CHECK(value(e4m3, 1e6) == 448);
  CHECK(std::isnan(value(e4m3, 1e6, {false})));
  CHECK(value(e5m2, -infinity) == -57344);
  CHECK(value(e5m2, -infinity, {false}) == -infinity);
  CHECK(to_small_float(DType::float8e4m3fnuz, -1e-9) == 0);  // there is no negative zero
  CHECK(value(DType::float8e4m3fnuz, infinity) == 240);
  CHECK(value(e2m1, 2.5) == 2);
  CHECK(value(e2m1, -5) == -4);
  CHECK(value(e2m1, 1e9, {false}) == 6);
  // Above one and a half, "up" and "nearest" agree and "down" does not.
  using Mode = SmallRounding::Mode;
  const DType e8m0 = DType::float8e8m0;
  CHECK(value(e8m0, 1.1, {true, Mode::up}) == 2);
  CHECK(value(e8m0, 1.1, {true, Mode::nearest}) == 1);
  CHECK(value(e8m0, 1.6, {true, Mode::nearest}) == 2);
  CHECK(value(e8m0, 1.6, {true, Mode::down}) == 1);
  CHECK(value(e8m0, 0) == 0x1p-127);
  CHECK(std::isnan(value(e8m0, 0, {false, Mode::nearest})));
  CHECK(value(e8m0, infinity) == 0x1p127);
}

TEST_CASE("tensors of small floats convert by value, packed ones too") {
  const Tensor wide = Tensor::from<float>({5}, {0.5f, -1.5f, 6.0f, 0.0f, -3.0f});
  for (const DType dtype : {DType::float4e2m1, DType::float8e5m2}) {
    const Tensor narrow = convert(wide, dtype);
    CHECK(narrow.bytes() == (dtype == DType::float4e2m1 ? 3u : 5u));
    CHECK(same_content(convert(narrow, DType::float32), wide));
  }
}

TEST_CASE("packed 4-bit integers lie low nibble first") {
  std::array<uint8_t, 2> bytes{};
  set_packed(bytes.data(), 0, 4, -8);
  set_packed(bytes.data(), 1, 4, 7);
  set_packed(bytes.data(), 2, 4, -1);
  CHECK(bytes[0] == 0x78);
  CHECK(bytes[1] == 0x0F);
  CHECK(get_packed(bytes.data(), 0, 4, true) == -8);
  CHECK(get_packed(bytes.data(), 0, 4, false) == 8);
  CHECK(get_packed(bytes.data(), 2, 4, true) == -1);
}

TEST_CASE("byte sizes round up and refuse overflow") {
  CHECK(byte_size(DType::int4, 3) == 2);
  CHECK(byte_size(DType::float32, 3) == 12);
  CHECK_THROWS_AS(byte_size(DType::float32, uint64_t{1} << 62), Error);
  CHECK_THROWS_AS(byte_size(DType::string, 1), Error);
}

TEST_CASE("SHA-256: known answers, any cut, both implementations") {
  // FIPS 180-4, examples of one and two blocks; and a million times 'a'.
  CHECK(sha256(std::as_bytes(std::span("abc", 3))) ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string_view two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
  CHECK(sha256(std::as_bytes(std::span(two))) ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  Sha256 hash;
  const std::string part(999, 'a');
  for (int i = 0; i < 1001; ++i) hash.update(std::string_view(part));
  hash.update(std::string_view("a"));
  CHECK(hash.finish() == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  if (!has_sha_instructions()) {
    WARN("skipped: no SHA instructions here");
    return;
  }
  std::vector<std::byte> bytes(64 * 37);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * i * 31 >> 3);
  for (const size_t blocks : {0, 1, 2, 37}) {
    uint32_t ours[8] = {1, 2, 3, 4, 0xfffffff5, 6, 7, 8};
    uint32_t theirs[8] = {1, 2, 3, 4, 0xfffffff5, 6, 7, 8};
    sha256_blocks_ref(ours, bytes.data(), blocks);
    sha256_blocks_shani(theirs, bytes.data(), blocks);
    CHECK(std::equal(ours, ours + 8, theirs));
  }
}

TEST_CASE("shapes: overflow, rank, broadcasting, unknown dimensions") {
  const int64_t big = int64_t{1} << 32;
  CHECK_THROWS_AS(Shape({big, big, big}).count(), Error);
  CHECK_THROWS_AS(Shape({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}), Error);
  CHECK(broadcast({3, 1}, {4}) == Shape({3, 4}));
  CHECK_THROWS_AS(broadcast({3}, {4}), Error);
  CHECK(broadcast({-2, 4}, {1, 4}) == Shape({-2, 4}));
  CHECK(broadcast({-1}, {5}) == Shape({5}));
  CHECK(broadcast({-2}, {-3}) == Shape({-1}));
  CHECK(strides_of({2, 3, 4}) == Shape({12, 4, 1}));
}

TEST_CASE("a deferred group is computed once while a handle lives") {
  int runs = 0;
  auto group = std::make_shared<DeferredGroup>([&] {
    ++runs;
    return std::vector<Tensor>{Tensor::from<uint8_t>({4}, {7, 0, 0, 0}),
                               Tensor::from<uint8_t>({2}, {0, 9})};
  });
  const Tensor a = Tensor::deferred(DType::uint8, {4}, group, 0);
  const Tensor b = Tensor::deferred(DType::uint8, {2}, group, 1);
  {
    const TensorData first = a.read();
    const TensorData second = b.read();
    CHECK(runs == 1);
    CHECK(first.as<uint8_t>()[0] == 7);
    CHECK(second.as<uint8_t>()[1] == 9);
  }
  b.read();
  CHECK(runs == 2);
}

TEST_CASE("what is copied late is told apart by its address and read at another") {
  const auto file = std::make_shared<const std::vector<std::byte>>(9, std::byte{5});
  const std::span<const std::byte> odd = std::span(*file).subspan(1);
  const Tensor tensor = Tensor::copied_late(DType::float32, {2}, odd, file);
  CHECK_FALSE(tensor.is_deferred());
  CHECK(tensor.identity() == odd.data());
  CHECK(tensor.stored_bytes().data() == odd.data());
  CHECK(tensor.stored_bytes().size() == 8);
  CHECK(Tensor::deferred(DType::uint8, {4}, nullptr, 0).stored_bytes().empty());
  const TensorData data = tensor.read();
  CHECK(data.bytes().data() != odd.data());
  CHECK(reinterpret_cast<uintptr_t>(data.bytes().data()) % alignof(float) == 0);
  CHECK(std::equal(data.bytes().begin(), data.bytes().end(), odd.begin(), odd.end()));
  CHECK(tensor.read().bytes().data() == data.bytes().data());  // while a handle lives
}

TEST_CASE("a tensor is never read as another element type") {
  const Tensor tensor = Tensor::zeros(DType::float32, {4});
  CHECK(tensor.read().as<float>().size() == 4);
  CHECK_THROWS_WITH(tensor.read().as<double>(),
                    "a tensor of float32 stands where one of float64 must");
  CHECK_THROWS_AS(tensor.read().as<int32_t>(), Error);  // the same width is no excuse
}

TEST_CASE("conversion clamps, truncates and widens") {
  const Tensor floats = Tensor::from<float>({4}, {-1.5f, 300.0f, NAN, 2.9f});
  CHECK(convert(floats, DType::uint8).to_ints() == std::vector<int64_t>{0, 255, 0, 2});
  CHECK(convert(floats, DType::int64).to_ints()[0] == -1);
  const Tensor half = convert(floats, DType::float16);
  CHECK(half.to_doubles()[3] == Approx(2.9).epsilon(0x1p-11));
  Tensor packed = Tensor::zeros(DType::int4, {3});
  set_packed(reinterpret_cast<uint8_t*>(packed.mutable_data()), 2, 4, -3);
  CHECK(packed.to_ints() == std::vector<int64_t>{0, 0, -3});
}

TEST_CASE("parallel_for covers the range once, in grains, and passes exceptions on") {
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    std::array<std::atomic<int>, 103> hits{};
    parallel_for(3, 100, 10, [&](int64_t begin, int64_t end) {
      CHECK((begin - 3) % 10 == 0);
      for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
    });
    for (size_t i = 0; i < hits.size(); ++i) CHECK(hits[i] == (i >= 3 && i < 100 ? 1 : 0));
    CHECK_THROWS_AS(parallel_for(0, 10, 1,
                                 [](int64_t begin, int64_t) {
                                   if (begin == 0) fail(ErrorCode::internal, "first range");
                                 }),
                    Error);
  }
}

// Whether the other thread of a region ends it on another CPU than the caller's.
bool runs_apart() {
  const int caller = sched_getcpu();
  std::atomic<bool> apart = false;
  parallel_for(0, 2, 1, [&](int64_t begin, int64_t) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(2);
    while (std::chrono::steady_clock::now() < end) {
    }
    if (begin != 0) apart = sched_getcpu() != caller;
  });
  return apart;
}

TEST_CASE("a thread of the pool does not stay on its caller's CPU") {
  cpu_set_t all;
  REQUIRE(sched_getaffinity(0, sizeof all, &all) == 0);
  if (CPU_COUNT(&all) < 2) return;
  const int threads = thread_count();
  set_thread_count(2);
  runs_apart();  // the pool's threads may run where the one that makes them may
  // Wherever the caller is held, the other thread is elsewhere.
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &all)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
    CAPTURE(cpu);
    CHECK(runs_apart());
  }
  REQUIRE(sched_setaffinity(0, sizeof all, &all) == 0);
  set_thread_count(threads);
}

TEST_CASE("the nearest name is offered only when it is near") {
  constexpr std::array<std::string_view, 3> names{"magnitude", "minmax", "entropy"};
  CHECK(nearest("magnitud", names) == "magnitude");
  CHECK(nearest("zzz", names).empty());
  CHECK(suggestion("entrop", names) == " (did you mean 'entropy'?)");
  CHECK(suggestion("zzz", names) == ", one of magnitude, minmax, entropy");
}
