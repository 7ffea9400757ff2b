// The atomic writer. Order of operations after Pillai et al., "All File Systems Are Not Created
// Equal" (OSDI 2014): temporary in the same folder, write, fsync, rename, fsync of the folder.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>

#include "compress/error.h"
#include "formats/file.h"

namespace compress {
namespace {

constexpr std::string_view kPrefix = ".compress-";
constexpr std::string_view kSuffix = ".tmp";
constexpr size_t kGather = size_t{1} << 20;

// Names of open temporaries in static memory: a signal handler may neither allocate nor lock.
struct Slot {
  std::atomic<int> state{0};  // 0 free, 1 being filled, 2 holds a name
  char path[PATH_MAX];
};
Slot slots[64];

int claim_slot(const std::string& path) {
  if (path.size() >= sizeof slots[0].path) return -1;
  for (int i = 0; i < static_cast<int>(std::size(slots)); ++i) {
    int expected = 0;
    if (!slots[i].state.compare_exchange_strong(expected, 1)) continue;
    std::memcpy(slots[i].path, path.c_str(), path.size() + 1);
    slots[i].state.store(2);
    return i;
  }
  return -1;
}

void release_slot(int slot) noexcept {
  if (slot >= 0) slots[slot].state.store(0);
}

std::string random_name() {
  uint64_t number = 0;
  if (::getrandom(&number, sizeof number, 0) != sizeof number) {
    static std::atomic<uint64_t> counter{0};
    number = (static_cast<uint64_t>(::getpid()) << 32) + counter++;
  }
  return fmt::format("{}{:016x}{}", kPrefix, number, kSuffix);
}

bool is_temporary_name(std::string_view name) {
  return name.size() == kPrefix.size() + 16 + kSuffix.size() && name.starts_with(kPrefix) &&
         name.ends_with(kSuffix);
}

// Temporaries that no living process holds locked: their writers were killed.
void remove_leftovers(const std::string& folder) {
  DIR* directory = ::opendir(folder.c_str());
  if (directory == nullptr) return;
  const int folder_fd = ::dirfd(directory);
  while (const dirent* entry = ::readdir(directory)) {
    if (!is_temporary_name(entry->d_name)) continue;
    const int fd =
        ::openat(folder_fd, entry->d_name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) continue;
    struct stat status;
    if (::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
        ::flock(fd, LOCK_EX | LOCK_NB) == 0) {
      ::unlinkat(folder_fd, entry->d_name, 0);
    }
    ::close(fd);
  }
  ::closedir(directory);
}

// Opens and locks a new temporary. A cleaner may take it between the two steps; then again.
int create_locked(const std::string& folder, std::string& path, int& slot) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    path = folder + "/" + random_name();
    slot = claim_slot(path);
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) {
      const int reason = errno;
      release_slot(slot);
      slot = -1;
      errno = reason;
      if (reason == EEXIST) continue;
      return -1;
    }
    struct stat status;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0 && ::fstat(fd, &status) == 0 && status.st_nlink == 1) {
      return fd;
    }
    ::unlink(path.c_str());
    ::close(fd);
    release_slot(slot);
    slot = -1;
  }
  return -1;
}

// rename() that fails with EEXIST instead of replacing, where the file system can.
int rename_new(const char* from, const char* to) {
  constexpr unsigned kNoReplace = 1;  // RENAME_NOREPLACE of linux/fs.h
  const long result = ::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, kNoReplace);
  if (result == 0 || (errno != ENOSYS && errno != EINVAL)) return static_cast<int>(result);
  if (::link(from, to) != 0) return -1;
  return ::unlink(from);
}

}  // namespace

AtomicFile::AtomicFile(std::string path, bool overwrite)
    : path_(std::move(path)), overwrite_(overwrite) {
  const size_t slash = path_.rfind('/');
  const std::string base = slash == std::string::npos ? path_ : path_.substr(slash + 1);
  folder_ = slash == std::string::npos ? "." : slash == 0 ? "/" : path_.substr(0, slash);
  struct stat status;
  if (::stat(folder_.c_str(), &status) != 0) {
    fail(ErrorCode::io, "cannot write {}: folder {}: {}", path_, folder_, std::strerror(errno));
  }
  if (!S_ISDIR(status.st_mode)) {
    fail(ErrorCode::io, "cannot write {}: {} is not a folder", path_, folder_);
  }
  if (base.empty() || base == "." || base == "..") {
    fail(ErrorCode::io, "cannot write {}: it is a directory", path_);
  }
  if (::lstat(path_.c_str(), &status) == 0) {
    if (S_ISDIR(status.st_mode)) {
      fail(ErrorCode::io, "cannot write {}: it is a directory", path_);
    }
    if (!overwrite_) fail(ErrorCode::io, "{} exists already; --force replaces it", path_);
    if (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode)) {
      fail(ErrorCode::io, "cannot write {}: it is not a regular file", path_);
    }
  } else if (errno != ENOENT) {
    fail(ErrorCode::io, "cannot write {}: {}", path_, std::strerror(errno));
  }
  remove_leftovers(folder_);
  // Absolute, so that a handler finds it whatever the working directory is by then.
  char absolute[PATH_MAX];
  if (::realpath(folder_.c_str(), absolute) != nullptr) folder_ = absolute;
  fd_ = create_locked(folder_, temporary_, slot_);
  if (fd_ < 0) {
    fail(ErrorCode::io, "cannot write in folder {}: {}", folder_, std::strerror(errno));
  }
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() noexcept {
  if (fd_ < 0) return;
  ::unlink(temporary_.c_str());
  ::close(fd_);
  fd_ = -1;
  release_slot(slot_);
  slot_ = -1;
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  write(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

void AtomicFile::write(std::string_view text) {
  written_ += text.size();
  if (pending_.size() + text.size() <= kGather) {
    pending_ += text;
    return;
  }
  write_all(pending_.data(), pending_.size());
  pending_.clear();
  if (text.size() >= kGather) {
    write_all(text.data(), text.size());
  } else {
    pending_ = text;
  }
}

void AtomicFile::write_all(const char* data, size_t size) {
  while (size > 0) {
    const ssize_t done = ::write(fd_, data, size);
    if (done < 0) {
      if (errno == EINTR) continue;
      fail(ErrorCode::io, "cannot write {}: {}", path_, std::strerror(errno));
    }
    data += done;
    size -= static_cast<size_t>(done);
    on_file_ += static_cast<uint64_t>(done);
  }
  start_writeback();
}

// So that flush() has little left to wait for. A hint: where it fails, nothing is lost.
void AtomicFile::start_writeback() {
  constexpr uint64_t kStep = uint64_t{8} << 20;
  if (on_file_ - sent_ < kStep) return;
  ::sync_file_range(fd_, static_cast<off_t>(sent_), static_cast<off_t>(on_file_ - sent_),
                    SYNC_FILE_RANGE_WRITE);
  sent_ = on_file_;
}

void AtomicFile::flush() {
  write_all(pending_.data(), pending_.size());
  pending_.clear();
  if (::fsync(fd_) != 0) {
    fail(ErrorCode::io, "cannot write {}: {}", path_, std::strerror(errno));
  }
}

void AtomicFile::commit() {
  flush();
  const int result = overwrite_ ? ::rename(temporary_.c_str(), path_.c_str())
                                : rename_new(temporary_.c_str(), path_.c_str());
  if (result != 0) {
    if (errno == EEXIST) fail(ErrorCode::io, "{} exists already; --force replaces it", path_);
    fail(ErrorCode::io, "cannot write {}: {}", path_, std::strerror(errno));
  }
  release_slot(slot_);
  slot_ = -1;
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) fail(ErrorCode::io, "cannot write {}: {}", path_, std::strerror(errno));
  const int folder = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  // Some file systems refuse fsync on a folder (EINVAL); the rename itself is done.
  const int synced = ::fsync(folder);
  const int reason = errno;
  ::close(folder);
  if (synced != 0 && reason != EINVAL && reason != EROFS) {
    fail(ErrorCode::io, "cannot write folder {}: {}", folder_, std::strerror(reason));
  }
}

void remove_temporaries() noexcept {
  for (Slot& slot : slots) {
    if (slot.state.load() == 2) ::unlink(slot.path);
  }
}

}  // namespace compress
