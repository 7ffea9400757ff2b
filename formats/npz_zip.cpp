#include "formats/npz_zip.h"

#include <algorithm>
#include <string_view>

#include "compress/error.h"

namespace compress {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50;
constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kEnd64LocatorSignature = 0x07064b50;
constexpr size_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56;
constexpr size_t kLocatorSize = 20;
constexpr uint16_t kZip64Extra = 0x0001;
constexpr uint16_t kPaddingExtra = 0xD935;  // as zipalign uses it
constexpr uint16_t kEncrypted = 1 << 0 | 1 << 6 | 1 << 13;
constexpr uint32_t kIn64 = 0xFFFFFFFF;  // "see the 64-bit field"
constexpr uint16_t kDate1980 = 0x0021;  // ZIP's earliest day: archives carry no time

[[noreturn]] void broken(std::string_view what) {
  fail(ErrorCode::invalid_model, "not a sound .npz archive: {}", what);
}

// Little-endian fields of a record whose size was checked.
struct Fields {
  std::span<const std::byte> bytes;

  uint64_t get(size_t offset, size_t size) const {
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) {
      value |= std::to_integer<uint64_t>(bytes[offset + i]) << (8 * i);
    }
    return value;
  }
  uint16_t u16(size_t offset) const { return static_cast<uint16_t>(get(offset, 2)); }
  uint32_t u32(size_t offset) const { return static_cast<uint32_t>(get(offset, 4)); }
  uint64_t u64(size_t offset) const { return get(offset, 8); }
};

Fields fields_at(std::span<const std::byte> file, uint64_t offset, uint64_t size,
                 std::string_view what) {
  if (offset > file.size() || file.size() - offset < size) broken(what);
  return {file.subspan(static_cast<size_t>(offset), static_cast<size_t>(size))};
}

// The last end record whose comment reaches exactly to the end of the file.
size_t find_end(std::span<const std::byte> file) {
  if (file.size() < kEndSize) broken("too short for an archive");
  const size_t last = file.size() - kEndSize;
  const size_t first = last > 0xFFFF ? last - 0xFFFF : 0;
  for (size_t at = last + 1; at-- > first;) {
    const Fields end{file.subspan(at, kEndSize)};
    if (end.u32(0) == kEndSignature && at + kEndSize + end.u16(20) == file.size()) return at;
  }
  broken("no end record (truncated, or no archive)");
}

struct Directory {
  uint64_t entries, size, offset;
};

Directory find_directory(std::span<const std::byte> file) {
  const size_t at = find_end(file);
  const Fields end{file.subspan(at, kEndSize)};
  Directory directory{end.u16(10), end.u32(12), end.u32(16)};
  const bool in_64 =
      directory.entries == 0xFFFF || directory.size == kIn64 || directory.offset == kIn64;
  if (in_64 && at >= kLocatorSize) {
    const Fields locator{file.subspan(at - kLocatorSize, kLocatorSize)};
    if (locator.u32(0) == kEnd64LocatorSignature) {
      const Fields end64 = fields_at(file, locator.u64(8), kEnd64Size, "64-bit end record");
      if (end64.u32(0) != kEnd64Signature) broken("64-bit end record");
      directory = {end64.u64(32), end64.u64(40), end64.u64(48)};
    }
  } else if (end.u16(4) != 0 || end.u16(6) != 0 || end.u16(8) != end.u16(10)) {
    fail(ErrorCode::unsupported, "an archive in several parts is not read");
  }
  return directory;
}

// Sizes and offset that did not fit in 32 bits, in the order of APPNOTE 4.5.3.
void apply_zip64(std::span<const std::byte> extra, ZipMember& member) {
  for (size_t at = 0; at + 4 <= extra.size();) {
    const Fields head{extra.subspan(at, 4)};
    const size_t size = head.u16(2);
    if (extra.size() - at - 4 < size) broken("extra field");
    const Fields body{extra.subspan(at + 4, size)};
    at += 4 + size;
    if (head.u16(0) != kZip64Extra) continue;
    size_t field = 0;
    for (uint64_t* slot : {&member.size, &member.packed_size, &member.header_offset}) {
      if (*slot != kIn64) continue;
      if (body.bytes.size() < field + 8) broken("64-bit sizes");
      *slot = body.u64(field);
      field += 8;
    }
  }
}

void append(std::string& out, uint64_t value, int size) {
  for (int i = 0; i < size; ++i) out += static_cast<char>(value >> (8 * i) & 0xFF);
}

uint32_t clipped(uint64_t value) { return value >= kIn64 ? kIn64 : static_cast<uint32_t>(value); }

}  // namespace

std::vector<ZipMember> read_zip_directory(std::span<const std::byte> file) {
  const Directory directory = find_directory(file);
  const Fields all = fields_at(file, directory.offset, directory.size, "central directory");
  if (directory.entries > directory.size / kCentralSize) broken("number of members");
  std::vector<ZipMember> members;
  members.reserve(static_cast<size_t>(directory.entries));
  uint64_t at = 0;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    const Fields record = fields_at(all.bytes, at, kCentralSize, "central directory");
    if (record.u32(0) != kCentralSignature) broken("central directory");
    const size_t name = record.u16(28), extra = record.u16(30), comment = record.u16(32);
    const Fields rest =
        fields_at(all.bytes, at + kCentralSize, name + extra + comment, "central directory");
    ZipMember member;
    member.name.assign(reinterpret_cast<const char*>(rest.bytes.data()), name);
    member.flags = record.u16(8);
    member.method = record.u16(10);
    member.crc = record.u32(16);
    member.packed_size = record.u32(20);
    member.size = record.u32(24);
    member.header_offset = record.u32(42);
    apply_zip64(rest.bytes.subspan(name, extra), member);
    members.push_back(std::move(member));
    at += kCentralSize + name + extra + comment;
  }
  return members;
}

std::span<const std::byte> zip_member_bytes(std::span<const std::byte> file,
                                            const ZipMember& member) {
  const Fields local = fields_at(file, member.header_offset, kLocalSize, "member header");
  if (local.u32(0) != kLocalSignature) broken("member header");
  if ((member.flags | local.u16(6)) & kEncrypted) {
    fail(ErrorCode::unsupported, "encrypted members are not read");
  }
  const uint64_t name_at = member.header_offset + kLocalSize;
  const Fields name = fields_at(file, name_at, local.u16(26), "member name");
  const std::string_view local_name(reinterpret_cast<const char*>(name.bytes.data()),
                                    name.bytes.size());
  if (local_name != member.name || local.u16(8) != member.method) {
    broken("the directory and the member's header disagree");
  }
  const uint64_t data_at = name_at + local.u16(26) + local.u16(28);
  return fields_at(file, data_at, member.packed_size, "member reaches beyond the file").bytes;
}

std::string zip_local_header(const ZipMember& member, size_t alignment) {
  const bool large = member.size >= kIn64;
  std::string extra;
  if (large) {
    append(extra, kZip64Extra, 2);
    append(extra, 16, 2);
    append(extra, member.size, 8);
    append(extra, member.packed_size, 8);
  }
  const uint64_t unpadded =
      member.header_offset + kLocalSize + member.name.size() + extra.size() + 4;
  const size_t padding = static_cast<size_t>((alignment - unpadded % alignment) % alignment);
  append(extra, kPaddingExtra, 2);
  append(extra, padding, 2);
  extra.append(padding, '\0');

  std::string out;
  append(out, kLocalSignature, 4);
  append(out, large ? 45 : 20, 2);  // version needed
  append(out, member.flags, 2);
  append(out, member.method, 2);
  append(out, 0, 2);
  append(out, kDate1980, 2);
  append(out, member.crc, 4);
  append(out, clipped(large ? kIn64 : member.packed_size), 4);
  append(out, clipped(member.size), 4);
  append(out, member.name.size(), 2);
  append(out, extra.size(), 2);
  return out + member.name + extra;
}

std::string zip_central_record(const ZipMember& member) {
  std::string extra;
  if (member.size >= kIn64) append(extra, member.size, 8);
  if (member.packed_size >= kIn64) append(extra, member.packed_size, 8);
  if (member.header_offset >= kIn64) append(extra, member.header_offset, 8);
  if (!extra.empty()) {
    std::string head;
    append(head, kZip64Extra, 2);
    append(head, extra.size(), 2);
    extra = head + extra;
  }
  std::string out;
  append(out, kCentralSignature, 4);
  append(out, 45, 2);
  append(out, extra.empty() ? 20 : 45, 2);
  append(out, member.flags, 2);
  append(out, member.method, 2);
  append(out, 0, 2);
  append(out, kDate1980, 2);
  append(out, member.crc, 4);
  append(out, clipped(member.packed_size), 4);
  append(out, clipped(member.size), 4);
  append(out, member.name.size(), 2);
  append(out, extra.size(), 2);
  append(out, 0, 2);  // comment
  append(out, 0, 2);  // disk
  append(out, 0, 2);  // internal attributes
  append(out, 0, 4);  // external attributes
  append(out, clipped(member.header_offset), 4);
  return out + member.name + extra;
}

std::string zip_end(uint64_t members, uint64_t directory_size, uint64_t directory_offset) {
  std::string out;
  if (members >= 0xFFFF || directory_size >= kIn64 || directory_offset >= kIn64) {
    append(out, kEnd64Signature, 4);
    append(out, kEnd64Size - 12, 8);
    append(out, 45, 2);
    append(out, 45, 2);
    append(out, 0, 4);
    append(out, 0, 4);
    append(out, members, 8);
    append(out, members, 8);
    append(out, directory_size, 8);
    append(out, directory_offset, 8);
    append(out, kEnd64LocatorSignature, 4);
    append(out, 0, 4);
    append(out, directory_offset + directory_size, 8);
    append(out, 1, 4);
  }
  const uint64_t count = std::min<uint64_t>(members, 0xFFFF);
  append(out, kEndSignature, 4);
  append(out, 0, 4);
  append(out, count, 2);
  append(out, count, 2);
  append(out, clipped(directory_size), 4);
  append(out, clipped(directory_offset), 4);
  append(out, 0, 2);
  return out;
}

}  // namespace compress
