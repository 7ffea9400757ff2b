// The compression function of SHA-256, in plain C++ and with the processor's own instructions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace compress {

// FIPS 180-4, 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64
// primes.
extern const uint32_t kSha256Round[64];

// Mixes blocks of 64 bytes into eight words of state.
using Sha256Blocks = void (*)(uint32_t* state, const std::byte* data, size_t blocks);
void sha256_blocks_ref(uint32_t* state, const std::byte* data, size_t blocks);
// REQUIRES has_sha_instructions().
void sha256_blocks_shani(uint32_t* state, const std::byte* data, size_t blocks);
bool has_sha_instructions();

}  // namespace compress
