// The file formats that calibration/ reads and writes. It may not include formats/, so whoever
// joins the two (the program, a test) hands in these functions; cli/data_files.h has the usual
// ones.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "compress/core/tensor.h"

namespace compress {

// An .npz archive that is open.
struct ArrayArchive {
  std::vector<std::string> names;  // of arrays, in the archive's order
  std::function<Tensor(const std::string& name)> read;
  std::function<std::string(const std::string& member)> read_bytes;  // a member that is no array
};

// What happens to an image's pixels before they become numbers; 0 leaves a step out.
struct ImageGeometry {
  int resize = 0;        // the short side
  int resize_width = 0;  // both sides, whatever that does to the proportions
  int resize_height = 0;
  bool cover = false;  // the smallest size in its proportions that covers the crop
  int crop_width = 0;
  int crop_height = 0;
  std::string interpolation = "bilinear";  // "nearest", "bilinear", "bicubic"
};

struct DataFiles {
  std::function<Tensor(const std::string& path)> read_npy;
  std::function<Tensor(const std::string& path)> read_idx;
  std::function<ArrayArchive(const std::string& path)> open_npz;
  // The first row is the header.
  std::function<std::vector<std::vector<std::string>>(const std::string& path)> read_csv;
  // uint8[height, width, 3], RGB.
  std::function<Tensor(const std::string& path, const ImageGeometry& geometry)> read_image;
  // A TensorProto: test_data_set_0/input_0.pb.
  std::function<NamedTensor(const std::string& path)> read_tensor_file;
  std::function<std::string(const std::string& path, uint64_t max_bytes)> read_text;
  std::function<void(const std::string& path, const std::vector<NamedTensor>& arrays,
                     bool overwrite, const std::vector<std::pair<std::string, std::string>>& other)>
      write_npz;
};

}  // namespace compress
