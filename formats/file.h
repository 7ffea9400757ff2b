// Files: mapping for reading, and the atomic writer that every output goes through.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "compress/core/sha256.h"

namespace compress {

// A read-only mapping of a regular file; shared by the tensors that lie in it.
class MappedFile {
 public:
  // Fails (io) with the system's reason; refuses directories, FIFOs and devices.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  // The same for a path inside `folder`: relative, no "..", no symbolic link on the way, no second
  // hard link. Fails (invalid_model).
  static std::shared_ptr<const MappedFile> open_beneath(const std::string& folder,
                                                        const std::string& relative);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  static std::shared_ptr<const MappedFile> map(int fd, const std::string& path);
  const std::byte* data_;
  size_t size_;
};

std::string read_file(const std::string& path, uint64_t max_bytes);

// Writes to a temporary beside `path`, locked by flock so that a later run removes only what dead
// writers left. commit() flushes, syncs, renames and syncs the folder; without it the destructor
// (or a signal handler through remove_temporaries) removes the temporary.
class AtomicFile {
 public:
  // Fails (io): the folder is missing, not writable, or `path` is a directory; or `path` exists and
  // `overwrite` is false.
  AtomicFile(std::string path, bool overwrite);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // Every write is checked; a full disk ends here as an error (io) and leaves no file.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  uint64_t size() const { return written_; }
  const std::string& temporary_path() const { return temporary_; }
  // Data on disk under the temporary name; may be re-read before commit().
  void flush();
  void commit();

 private:
  void write_all(const char* data, size_t size);
  void start_writeback();
  void discard() noexcept;

  std::string path_;
  std::string folder_;
  std::string temporary_;
  std::string pending_;  // small writes, gathered
  int fd_ = -1;
  int slot_ = -1;  // in the table that remove_temporaries() reads
  bool overwrite_;
  uint64_t written_ = 0;
  uint64_t on_file_ = 0;  // of these, what is not pending
  uint64_t sent_ = 0;     // of these, what is on its way to the disk
};

// Async-signal-safe: unlinks the temporaries that this process has open.
void remove_temporaries() noexcept;

// SHA-256 of a file's bytes, as 64 hexadecimal digits.
std::string sha256_file(const std::string& path);

}  // namespace compress
