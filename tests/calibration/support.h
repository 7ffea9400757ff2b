// Models and data sets of tests.
#pragma once

#include <catch2/catch.hpp>
#include <filesystem>
#include <string>

#include "calibration/dataset.h"
#include "cli/data_files.h"
#include "compress/error.h"
#include "compress/graph/builder.h"
#include "tests/formats/scratch.h"

namespace compress {

// A model that does nothing but take these inputs.
inline Model taking(
    const std::vector<std::tuple<const char*, DType, std::vector<int64_t>>>& inputs) {
  Model model;
  for (const auto& [name, dtype, dims] : inputs) {
    const ValueId x = model.graph.add_input(name, {dtype, true, Shape(std::span(dims))});
    const NodeId node = model.graph.add({"Identity", {x}, {std::string(name) + "_out"}});
    model.graph.add_output(model.graph.node(node).outputs[0]);
  }
  model.opsets[""] = 17;
  return model;
}

inline std::unique_ptr<SampleSource> open(const std::string& path, const Model& model,
                                          const std::string& labels = "") {
  return open_dataset({path, labels}, model, data_files());
}

// The message with which opening (or reading the first sample) fails; "" where it works.
inline std::string refusal(const std::string& path, const Model& model,
                           const std::string& labels = "") {
  try {
    open(path, model, labels)->get(0);
    return "";
  } catch (const Error& error) {
    CHECK(error.code() != ErrorCode::internal);
    CHECK(std::string_view(error.what()).find('\n') == std::string_view::npos);
    return error.what();
  }
}

inline std::string shared(const std::string& path) {
  const std::string whole = std::string(COMPRESS_SHARED_DIR) + "/" + path;
  if (std::filesystem::exists(whole)) return whole;
  WARN("skipped: " << whole << " is missing");
  return "";
}

}  // namespace compress
