#include "compress/kernels/isa.h"

#include <cpuid.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace compress::kernels {
namespace {

constexpr uint64_t kYmmState = 0x06;  // xmm and ymm saved by the operating system
constexpr uint64_t kZmmState = 0xe6;  // and the mask and zmm registers

uint64_t enabled_states() noexcept {
  uint32_t low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

Isa detect() noexcept {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::ref;
  const bool osxsave = c & bit_OSXSAVE, fma = c & bit_FMA, f16c = c & bit_F16C;
  if (!osxsave || !fma || !f16c) return Isa::ref;
  const uint64_t states = enabled_states();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Isa::ref;
  if ((states & kYmmState) != kYmmState || !(b & bit_AVX2)) return Isa::ref;
  const uint32_t avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
  const bool zmm = (states & kZmmState) == kZmmState && (b & avx512) == avx512;
  if (!zmm) return Isa::avx2;
  return c & bit_AVX512VNNI ? Isa::avx512vnni : Isa::avx512;
}

}  // namespace

Isa detected_isa() noexcept {
  static const Isa isa = detect();
  return isa;
}

const char* isa_name(Isa isa) noexcept {
  switch (isa) {
    case Isa::ref:
      return "ref";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512vnni:
      return "avx512vnni";
  }
  return "ref";
}

IsaChoice choose_isa(const char* value, Isa detected) noexcept {
  IsaChoice choice{detected, isa_name(detected), nullptr, false};
  if (value == nullptr || *value == '\0') return choice;
  for (const Isa isa : {Isa::ref, Isa::avx2, Isa::avx512, Isa::avx512vnni}) {
    if (std::strcmp(value, isa_name(isa)) != 0) continue;
    if (isa > detected) {
      choice.error = "COMPRESS_ISA names an instruction set that this CPU lacks";
      return choice;
    }
    return {isa, isa_name(isa), nullptr, true};
  }
  choice.error = "COMPRESS_ISA must be ref, avx2, avx512 or avx512vnni";
  return choice;
}

const IsaChoice& isa_choice() noexcept {
  static const IsaChoice choice = choose_isa(std::getenv("COMPRESS_ISA"), detected_isa());
  return choice;
}

}  // namespace compress::kernels
