// Which instruction set the kernels run on: what the CPU has, or what COMPRESS_ISA forces.
#pragma once

namespace compress::kernels {

// Each level has the ones before it. avx512 has kernels in oneDNN alone; ours are avx2's there.
enum class Isa { ref, avx2, avx512, avx512vnni };

struct IsaChoice {
  Isa isa = Isa::ref;           // the level asked for, or the level found
  const char* name = "ref";     // its name
  const char* error = nullptr;  // why COMPRESS_ISA was refused; isa is then what the CPU has
  bool forced = false;
};

// What the CPU and the operating system support, by cpuid and xgetbv.
Isa detected_isa() noexcept;

// The choice of this process, made once. COMPRESS_ISA is one of ref, avx2, avx512, avx512vnni
// and caps oneDNN too. A program checks `error` when it starts: an unknown value and a level that
// the CPU lacks are both refused.
const IsaChoice& isa_choice() noexcept;

// The rule behind isa_choice(), a pure function for tests. `value` is null where nothing is forced.
IsaChoice choose_isa(const char* value, Isa detected) noexcept;

inline Isa active_isa() noexcept { return isa_choice().isa; }
inline bool runs_here(Isa isa) noexcept { return isa <= detected_isa(); }
const char* isa_name(Isa isa) noexcept;

}  // namespace compress::kernels
