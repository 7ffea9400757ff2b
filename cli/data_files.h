// Joins formats/ to calibration/, which may not include each other.
#pragma once

#include <memory>
#include <utility>

#include "calibration/files.h"
#include "formats/arrays.h"
#include "formats/file.h"
#include "formats/image.h"
#include "formats/onnx.h"

namespace compress {

inline Tensor read_image_tensor(const std::string& path, const ImageGeometry& geometry) {
  const Interpolation interpolation = geometry.interpolation == "bicubic" ? Interpolation::bicubic
                                      : geometry.interpolation == "nearest"
                                          ? Interpolation::nearest
                                          : Interpolation::bilinear;
  Image image = read_image(path);
  if (geometry.resize > 0) image = resize_short_side(image, geometry.resize, interpolation);
  if (geometry.resize_width > 0) {
    image = resize(image, geometry.resize_width, geometry.resize_height, interpolation);
  }
  if (geometry.cover) {
    image = resize_to_cover(image, geometry.crop_width, geometry.crop_height, interpolation);
  }
  if (geometry.crop_width > 0) {
    image = center_crop(image, geometry.crop_width, geometry.crop_height);
  }
  auto pixels = std::make_shared<const std::vector<uint8_t>>(std::move(image.pixels));
  return Tensor::borrow(DType::uint8, {image.height, image.width, image.channels}, pixels->data(),
                        pixels);
}

inline ArrayArchive open_npz_archive(const std::string& path) {
  auto reader = std::make_shared<const NpzReader>(path);
  return {reader->names(), [reader](const std::string& name) { return reader->read(name); },
          [reader](const std::string& member) { return reader->read_bytes(member); }};
}

inline DataFiles data_files() {
  DataFiles files;
  files.read_npy = read_npy;
  files.read_idx = read_idx;
  files.open_npz = open_npz_archive;
  files.read_csv = [](const std::string& path) {
    Csv csv = read_csv(path);
    csv.rows.insert(csv.rows.begin(), std::move(csv.header));
    return std::move(csv.rows);
  };
  files.read_image = read_image_tensor;
  files.read_tensor_file = [](const std::string& path) {
    NamedTensor named;
    named.tensor = read_tensor_file(path, &named.name);
    return named;
  };
  files.read_text = read_file;
  files.write_npz = write_npz;
  return files;
}

}  // namespace compress
