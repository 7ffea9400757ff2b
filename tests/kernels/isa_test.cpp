#include "compress/kernels/isa.h"

#include <catch2/catch.hpp>
#include <string>

namespace compress::kernels {
namespace {

TEST_CASE("isa: nothing forced takes what the CPU has") {
  for (const Isa isa : {Isa::ref, Isa::avx2, Isa::avx512, Isa::avx512vnni}) {
    CHECK(choose_isa(nullptr, isa).isa == isa);
    CHECK(choose_isa("", isa).isa == isa);
    CHECK(!choose_isa(nullptr, isa).forced);
  }
}

TEST_CASE("isa: a forced level is taken") {
  CHECK(choose_isa("ref", Isa::avx512vnni).isa == Isa::ref);
  CHECK(choose_isa("avx2", Isa::avx512vnni).isa == Isa::avx2);
  CHECK(choose_isa("avx512", Isa::avx512vnni).isa == Isa::avx512);
  CHECK(choose_isa("avx512", Isa::avx512).isa == Isa::avx512);
  CHECK(choose_isa("avx512", Isa::avx512).error == nullptr);
  CHECK(choose_isa("avx512", Isa::avx512vnni).name == std::string("avx512"));
  CHECK(choose_isa("avx512vnni", Isa::avx512vnni).isa == Isa::avx512vnni);
  CHECK(choose_isa("avx2", Isa::avx2).forced);
}

TEST_CASE("isa: unknown and missing levels are errors") {
  CHECK(choose_isa("sse9", Isa::avx2).error != nullptr);
  CHECK(choose_isa("AVX2", Isa::avx2).error != nullptr);
  CHECK(choose_isa("avx2 ", Isa::avx2).error != nullptr);
  CHECK(choose_isa("avx512vnni", Isa::avx2).error != nullptr);
  CHECK(choose_isa("avx512vnni", Isa::avx512).error != nullptr);
  CHECK(choose_isa("avx512", Isa::avx2).error != nullptr);
  CHECK(choose_isa("avx2", Isa::ref).error != nullptr);
  CHECK(choose_isa("avx512vnni", Isa::avx2).isa == Isa::avx2);
}

}  // namespace
}  // namespace compress::kernels
