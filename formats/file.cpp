#include "formats/file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "compress/core/mapped_pages.h"
#include "compress/error.h"

namespace compress {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  int fd_;
};

std::vector<std::string> components(const std::string& relative) {
  const auto refuse = [&](std::string_view why) {
    fail(ErrorCode::invalid_model, "external data \"{}\" {}", relative, why);
  };
  if (relative.empty()) refuse("names no file");
  if (relative.find('\0') != std::string::npos) refuse("has a NUL in its name");
  if (relative.front() == '/') refuse("is an absolute path");
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= relative.size();) {
    const size_t end = std::min(relative.find('/', begin), relative.size());
    const std::string part = relative.substr(begin, end - begin);
    if (part == "..") refuse("leaves the model's folder");
    if (!part.empty() && part != ".") parts.push_back(part);
    begin = end + 1;
  }
  if (parts.empty() || relative.back() == '/') refuse("names no file");
  return parts;
}

// The kernel's own containment check; false where it does not know the call.
bool open_contained(int folder, const std::string& path, Descriptor& file) {
  struct open_how how = {};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  const long fd = ::syscall(SYS_openat2, folder, path.c_str(), &how, sizeof how);
  if (fd < 0) return errno != ENOSYS && errno != EPERM && errno != EINVAL && errno != E2BIG;
  file = Descriptor(static_cast<int>(fd));
  return true;
}

// The same by hand: each component opened by descriptor, none of them a symbolic link.
Descriptor open_by_components(int folder, const std::vector<std::string>& parts) {
  Descriptor current(::dup(folder));
  for (size_t i = 0; i < parts.size() && current.is_open(); ++i) {
    const int kind = i + 1 < parts.size() ? O_DIRECTORY : O_NONBLOCK;
    current = Descriptor(
        ::openat(current.get(), parts[i].c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | kind));
  }
  return current;
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::map(int fd, const std::string& path) {
  struct stat status;
  if (::fstat(fd, &status) != 0) {
    fail(ErrorCode::io, "cannot read {}: {}", path, std::strerror(errno));
  }
  if (S_ISDIR(status.st_mode)) fail(ErrorCode::io, "{} is a directory", path);
  if (!S_ISREG(status.st_mode)) fail(ErrorCode::io, "{} is not a regular file", path);
  const size_t size = static_cast<size_t>(status.st_size);
  const std::byte* data = nullptr;
  if (size > 0) {
    void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) {
      fail(ErrorCode::io, "cannot map {}: {}", path, std::strerror(errno));
    }
    data = static_cast<const std::byte*>(memory);
    register_mapping({data, size});
  }
  return std::shared_ptr<const MappedFile>(new MappedFile(data, size));
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  // O_NONBLOCK: a FIFO must be refused, not waited for.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.is_open()) fail(ErrorCode::io, "cannot open {}: {}", path, std::strerror(errno));
  return map(file.get(), path);
}

std::shared_ptr<const MappedFile> MappedFile::open_beneath(const std::string& folder,
                                                           const std::string& relative) {
  const std::vector<std::string> parts = components(relative);
  const Descriptor root(
      ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root.is_open()) fail(ErrorCode::io, "cannot open {}: {}", folder, std::strerror(errno));
  Descriptor file;
  if (!open_contained(root.get(), relative, file)) file = open_by_components(root.get(), parts);
  if (!file.is_open()) {
    if (errno == ELOOP) {
      fail(ErrorCode::invalid_model, "external data \"{}\" goes through a symbolic link", relative);
    }
    fail(ErrorCode::invalid_model, "external data \"{}\" cannot be opened: {}", relative,
         std::strerror(errno));
  }
  struct stat status;
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    fail(ErrorCode::invalid_model, "external data \"{}\" is not a regular file", relative);
  }
  // A second name may make any file of the same disk look as if it lay in the folder.
  if (status.st_nlink > 1) {
    fail(ErrorCode::invalid_model, "external data \"{}\" has a second hard link", relative);
  }
  return map(file.get(), relative);
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  forget_mapping({data_, size_});
  ::munmap(const_cast<std::byte*>(data_), size_);
}

std::string read_file(const std::string& path, uint64_t max_bytes) {
  const auto file = MappedFile::open(path);
  if (file->text().size() > max_bytes) {
    fail(ErrorCode::io, "{} has {} bytes, more than the {} that are read", path,
         file->text().size(), max_bytes);
  }
  return std::string(file->text());
}

std::string sha256_file(const std::string& path) {
  constexpr size_t kStep = size_t{16} << 20;
  const auto file = MappedFile::open(path);
  Sha256 hash;
  for (size_t at = 0; at < file->bytes().size(); at += kStep) {
    const auto part = file->bytes().subspan(at, std::min(kStep, file->bytes().size() - at));
    hash.update(part);
    drop_mapped_pages(part);
  }
  return hash.finish();
}

}  // namespace compress
