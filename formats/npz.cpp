#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "compress/error.h"
#include "formats/arrays.h"
#include "formats/file.h"
#include "formats/npy.h"
#include "formats/npz_inflate.h"
#include "formats/npz_zip.h"

namespace compress {
namespace {

constexpr std::string_view kSuffix = ".npy";
constexpr size_t kAlignment = 64;  // so that stored arrays can be used where they are mapped

std::string array_name(const std::string& member) {
  return member.ends_with(kSuffix) ? member.substr(0, member.size() - kSuffix.size()) : "";
}

void check_crc(uint32_t found, const ZipMember& member) {
  if (found != member.crc) fail(ErrorCode::invalid_model, "checksum (CRC-32) does not match");
}

void check_limits(const ZipMember& member, uint64_t max_bytes) {
  if (member.method != 0 && member.method != 8) {
    fail(ErrorCode::unsupported, "compression method {} is not read; stored and deflated are",
         member.method);
  }
  if (member.method == 0 && member.size != member.packed_size) {
    fail(ErrorCode::invalid_model, "stored in {} bytes, but said to have {}", member.packed_size,
         member.size);
  }
  if (member.method == 8 && !plausible_inflation(member.packed_size, member.size)) {
    fail(ErrorCode::invalid_model, "{} compressed bytes cannot hold {}", member.packed_size,
         member.size);
  }
  if (member.size > max_bytes) {
    fail(ErrorCode::unsupported, "{} bytes are more than the limit of {}", member.size, max_bytes);
  }
}

Tensor inflate_array(std::span<const std::byte> packed, const ZipMember& member) {
  Inflater inflater(packed, -15);
  std::vector<std::byte> head(kNpyPrefix);
  if (member.size < head.size()) fail(ErrorCode::invalid_model, "too short for an array");
  inflater.read(head);
  const size_t header_size = npy_header_size(head);
  if (header_size > member.size || header_size < head.size()) {
    fail(ErrorCode::invalid_model, "npy header: {} bytes announced", header_size);
  }
  head.resize(header_size);
  inflater.read(std::span(head).subspan(kNpyPrefix));
  const NpyHeader header = parse_npy_header(head);
  if (header.data_bytes != member.size - header_size) {
    fail(ErrorCode::invalid_model, "shape {} of {} needs {} bytes, the member has {}",
         header.shape.to_string(), info(header.dtype).name, header.data_bytes,
         member.size - header_size);
  }
  Tensor stored = Tensor::allocate(header.dtype, header.shape);
  inflater.read({stored.mutable_data(), static_cast<size_t>(header.data_bytes)});
  inflater.expect_end();
  check_crc(inflater.crc(), member);
  return npy_decode(header, std::move(stored));
}

}  // namespace

struct NpzReader::Impl {
  std::string path;
  uint64_t max_bytes;
  std::shared_ptr<const MappedFile> file;
  std::vector<ZipMember> members;
  std::unordered_map<std::string, size_t> index;  // by member name

  const ZipMember& find(const std::string& member) const {
    const auto row = index.find(member);
    if (row == index.end()) {
      fail(ErrorCode::invalid_model, "{} has no '{}'", path, member);
    }
    return members[row->second];
  }

  template <class Body>
  auto with_member(const ZipMember& member, Body&& body) const {
    return in_context([&] { return fmt::format("'{}' of {}", member.name, path); },
                      [&] {
                        check_limits(member, max_bytes);
                        return body(zip_member_bytes(file->bytes(), member));
                      });
  }
};

NpzReader::NpzReader(const std::string& path, uint64_t max_bytes)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->max_bytes = max_bytes;
  impl_->file = MappedFile::open(path);
  in_context([&] { return fmt::format("in {}", path); },
             [&] {
               impl_->members = read_zip_directory(impl_->file->bytes());
               for (size_t i = 0; i < impl_->members.size(); ++i) {
                 const std::string& name = impl_->members[i].name;
                 if (!impl_->index.emplace(name, i).second) {
                   fail(ErrorCode::invalid_model, "two members are called '{}'", name);
                 }
               }
             });
}

NpzReader::~NpzReader() = default;

std::vector<std::string> NpzReader::names() const {
  std::vector<std::string> names;
  for (const ZipMember& member : impl_->members) {
    if (std::string name = array_name(member.name); !name.empty()) names.push_back(std::move(name));
  }
  return names;
}

bool NpzReader::has(const std::string& name) const {
  return impl_->index.contains(name + std::string(kSuffix));
}

Tensor NpzReader::read(const std::string& name) const {
  const ZipMember& member = impl_->find(name + std::string(kSuffix));
  return impl_->with_member(member, [&](std::span<const std::byte> bytes) {
    if (member.method == 8) return inflate_array(bytes, member);
    check_crc(crc32_of(bytes), member);
    return npy_tensor(bytes, impl_->file);
  });
}

std::string NpzReader::read_bytes(const std::string& name) const {
  const ZipMember& member = impl_->find(name);
  return impl_->with_member(member, [&](std::span<const std::byte> bytes) {
    std::string out(static_cast<size_t>(member.size), '\0');
    const auto room = std::as_writable_bytes(std::span(out));
    if (member.method == 8) {
      Inflater inflater(bytes, -15);
      inflater.read(room);
      inflater.expect_end();
    } else {
      std::copy(bytes.begin(), bytes.end(), room.begin());
    }
    check_crc(crc32_of(room), member);
    return out;
  });
}

void write_npz(const std::string& path, const std::vector<NamedTensor>& arrays, bool overwrite,
               const std::vector<std::pair<std::string, std::string>>& extra) {
  AtomicFile file(path, overwrite);
  std::vector<ZipMember> members;
  std::unordered_set<std::string> names;
  const auto add = [&](std::string name, std::string_view head, std::span<const std::byte> body) {
    if (name.size() > 0xFFFF || !names.insert(name).second) {
      fail(ErrorCode::internal, "{}: '{}' is too long or there twice", path, name);
    }
    ZipMember member;
    member.name = std::move(name);
    member.flags = 1 << 11;  // names are UTF-8
    member.size = member.packed_size = head.size() + body.size();
    member.header_offset = file.size();
    member.crc = crc32_of(body, crc32_of(std::as_bytes(std::span(head))));
    file.write(zip_local_header(member, kAlignment));
    file.write(head);
    file.write(body);
    members.push_back(std::move(member));
  };
  for (const auto& [name, text] : extra) add(name, text, {});
  for (const NamedTensor& array : arrays) {
    const Tensor stored = npy_storable(array.tensor);
    const TensorData data = stored.read();
    add(array.name + std::string(kSuffix), npy_header(stored.dtype(), stored.shape()),
        data.bytes());
  }
  const uint64_t directory_offset = file.size();
  for (const ZipMember& member : members) file.write(zip_central_record(member));
  file.write(zip_end(members.size(), file.size() - directory_offset, directory_offset));
  file.commit();
}

}  // namespace compress
