// What a data set is, as plain data: from a path, or from a JSON spec (docs/data.md).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "calibration/files.h"

namespace compress {

enum class DataKind { images, npz, npy, idx, csv, tensor_folders };

// How raw values become the model's: (x / scale - mean) / std in the model's layout.
struct Preprocessing {
  bool fit_to_model = true;  // images: no size given, so the model's
  ImageGeometry geometry;
  std::string color;          // "rgb", "bgr", "gray"; "" follows the model's channels
  std::string layout;         // of the model: "nchw", "nhwc"; "" follows the model
  std::string source_layout;  // of arrays; "" as `layout`
  std::vector<double> mean;   // one, or one a channel; empty: 0
  std::vector<double> std;    // empty: 1
  double scale = 1;
  DType dtype = DType::undefined;  // given explicitly: any conversion is meant

  bool computes() const { return !mean.empty() || !std.empty() || scale != 1; }
};

struct DatasetSpec {
  DataKind kind = DataKind::npz;
  std::string path;
  std::string labels;  // a file, or the name of an array; "" for the usual places
  bool labels_are_file = false;
  std::string input;  // the input that preprocessing is meant for; "" for the only one
  std::map<std::string, std::string> inputs;  // model input -> array
  std::vector<std::string> constants;         // arrays that every batch gets whole
  Preprocessing preprocessing;
  std::string text;  // the spec as written, for the hash
};

// From a .json file, an inline JSON object, or the path of data whose kind its bytes tell. Fails
// (usage) on keys and values that are not understood, (io) where nothing is there.
DatasetSpec read_spec(const std::string& path, const std::string& labels, const DataFiles& files);

// True for names of files that read_image may read.
bool is_image_name(const std::string& path);

}  // namespace compress
