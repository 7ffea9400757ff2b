// The part of ZIP (PKWARE's APPNOTE) that .npz archives use: stored and deflated members of a
// mapped file, 64-bit sizes included. libzip does not say where a stored member lies, and mapping
// it is what keeps large data sets out of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace compress {

struct ZipMember {
  std::string name;
  uint16_t method = 0;  // 0 stored, 8 deflated
  uint16_t flags = 0;
  uint32_t crc = 0;
  uint64_t packed_size = 0;
  uint64_t size = 0;
  uint64_t header_offset = 0;
};

// The central directory. Fails (invalid_model) where it does not fit the file, (unsupported) for
// archives in several parts.
std::vector<ZipMember> read_zip_directory(std::span<const std::byte> file);
// The member's bytes as they are in the file. Fails where its local header disagrees.
std::span<const std::byte> zip_member_bytes(std::span<const std::byte> file,
                                            const ZipMember& member);

// Bytes of a stored member's local header, of its central record, and of the archive's end.
std::string zip_local_header(const ZipMember& member, size_t alignment);
std::string zip_central_record(const ZipMember& member);
std::string zip_end(uint64_t members, uint64_t directory_size, uint64_t directory_offset);

}  // namespace compress
