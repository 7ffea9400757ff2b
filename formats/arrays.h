// NumPy's .npy and .npz, IDX, CSV.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "compress/core/tensor.h"

namespace compress {

// A .npy file, mapped. Little-endian numeric, bool and float16 types; Fortran order is transposed.
// Fails (invalid_model, unsupported) naming file and field; nothing is allocated from a header that
// the file's size contradicts.
Tensor read_npy(const std::string& path);
void write_npy(const std::string& path, const Tensor& tensor);

// A .npz archive: stored members are mapped, deflated ones are decompressed when read.
class NpzReader {
 public:
  static constexpr uint64_t kMaxBytes = uint64_t{16} << 30;  // of one decompressed member
  explicit NpzReader(const std::string& path, uint64_t max_bytes = kMaxBytes);
  ~NpzReader();
  std::vector<std::string> names() const;  // without ".npy", in the archive's order
  bool has(const std::string& name) const;
  Tensor read(const std::string& name) const;
  std::string read_bytes(const std::string& member) const;  // a member that is no array

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Deterministic bytes: members in the order given, no times. `extra` are other members (name,
// text).
void write_npz(const std::string& path, const std::vector<NamedTensor>& arrays, bool overwrite,
               const std::vector<std::pair<std::string, std::string>>& extra = {});

// IDX (MNIST), plain or gzip-compressed, recognised by its bytes.
Tensor read_idx(const std::string& path);

// Rows of a CSV file: quoted fields as in RFC 4180; the first row is the header.
struct Csv {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
};
Csv read_csv(const std::string& path);

}  // namespace compress
