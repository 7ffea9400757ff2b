// TensorProto and SparseTensorProto: every size is checked before anything is allocated.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "compress/core/tensor.h"
#include "formats/file.h"

namespace compress {

// Where a model's payloads lie: its own bytes, and files beside it.
class TensorSource {
 public:
  // `owner` keeps the model's bytes alive. `external_folder` is the model's; external data is
  // refused where the bytes come from memory (no folder is known).
  TensorSource(std::shared_ptr<const void> owner, std::string external_folder, bool has_folder)
      : owner_(std::move(owner)), folder_(std::move(external_folder)), has_folder_(has_folder) {}

  // The file at `path` stands for `location`: external data before its rename.
  void substitute(std::string location, std::string path) {
    substitutes_.emplace(std::move(location), std::move(path));
  }
  // The tensor stands for `location`: it travelled through ONNX's library as a name alone.
  void hold(std::string location, Tensor tensor) { held_.emplace(std::move(location), tensor); }
  const Tensor* held(const std::string& location) const {
    const auto row = held_.find(location);
    return row == held_.end() ? nullptr : &row->second;
  }

  const std::shared_ptr<const MappedFile>& external(const std::string& location);
  const std::shared_ptr<const void>& owner() const { return owner_; }
  uint64_t external_bytes() const;

 private:
  std::shared_ptr<const void> owner_;
  std::string folder_;
  bool has_folder_;
  std::map<std::string, std::string> substitutes_;
  std::map<std::string, std::shared_ptr<const MappedFile>> files_;
  std::map<std::string, Tensor> held_;
};

// A TensorProto taken apart. The views lie in the model's bytes.
struct TensorWire {
  std::string name;
  int64_t data_type = 0;
  std::vector<int64_t> dims;
  std::string_view raw;
  bool has_raw = false;
  uint32_t data_field = 0;               // the typed field that is filled, or 0
  std::vector<std::string_view> packed;  // its packed runs
  std::vector<uint64_t> loose;           // its values that were not packed
  std::vector<std::string_view> strings;
  bool external = false;
  std::vector<std::pair<std::string, std::string>> external_data;
};

// Fails (invalid_model) on what breaks the format, before looking at sizes.
TensorWire scan_tensor(std::string_view wire);
// The external bytes that it names, checked against the file.
std::string_view external_bytes(const TensorWire& tensor, TensorSource& source);

// The tensor: raw and external data stay in the file where their address suits the element type.
Tensor read_tensor(const TensorWire& tensor, TensorSource& source);

// A sparse tensor made dense; its name is that of its values. Refused (unsupported) above 256 MiB.
NamedTensor read_sparse_tensor(std::string_view wire, TensorSource& source);

}  // namespace compress
