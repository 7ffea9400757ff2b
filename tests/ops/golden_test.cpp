// Runs single-node models against outputs that another runtime gave (tests/ops/make_goldens.py),
// laid out as ONNX's own node tests: CASE/model.onnx, CASE/test_data_set_0/{input,output}_N.pb.
// CASE/bound holds what is allowed: "relative R" (of the largest output, at least 1e-3) or "steps
// N" (integers).
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "compress/error.h"
#include "compress/ops/fold.h"
#include "formats/onnx.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

struct Bound {
  double relative = 1e-4;
  int64_t steps = 0;
};

Bound read_bound(const fs::path& folder) {
  Bound bound;
  std::ifstream file(folder / "bound");
  std::string kind;
  while (file >> kind) {
    if (kind == "relative") file >> bound.relative;
    if (kind == "steps") file >> bound.steps;
  }
  return bound;
}

std::vector<Tensor> read_tensors(const fs::path& folder, const std::string& prefix) {
  std::vector<Tensor> tensors;
  for (int i = 0;; ++i) {
    const fs::path path = folder / (prefix + "_" + std::to_string(i) + ".pb");
    if (!fs::exists(path)) return tensors;
    tensors.push_back(read_tensor_file(path.string()));
  }
}

struct Difference {
  double worst = 0;  // absolute
  double top = 0;    // of the expected values
};

Difference compare(const Tensor& ours, const Tensor& expected) {
  const std::vector<double> a = convert(ours, DType::float64).to_doubles();
  const std::vector<double> b = convert(expected, DType::float64).to_doubles();
  Difference difference;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool same = a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]));
    const double distance = same ? 0 : std::abs(a[i] - b[i]);
    difference.worst = std::isnan(distance) ? INFINITY : std::max(difference.worst, distance);
    if (std::isfinite(b[i])) difference.top = std::max(difference.top, std::abs(b[i]));
  }
  return difference;
}

// The outputs of the only node of the model; inputs by the order of the graph's inputs.
std::vector<Tensor> run_model(const Model& model, const std::vector<Tensor>& feeds,
                              bool as_double = false) {
  const Graph& graph = model.graph;
  REQUIRE(graph.node_count() == 1);
  const Node& node = graph.node(graph.order()[0]);
  const auto seen = [&](const Tensor& tensor) {
    return as_double && tensor.dtype() == DType::float32 ? convert(tensor, DType::float64) : tensor;
  };
  std::map<ValueId, Tensor> given;
  size_t next = 0;
  for (const ValueId id : graph.inputs()) {
    if (!graph.value(id).is_constant()) given[id] = feeds.at(next++);
  }
  std::vector<Tensor> inputs;
  const auto row = model.opsets.find(node.domain);
  NodeContext context = context_of(graph, node, row == model.opsets.end() ? 1 : row->second);
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    const ValueId id = node.inputs[i];
    Tensor tensor;
    if (id != kNoValue) tensor = seen(given.count(id) ? given[id] : graph.value(id).constant);
    if (tensor) context.input_types[i] = {tensor.dtype(), true, tensor.shape()};
    inputs.push_back(tensor);
  }
  std::vector<Tensor> outputs;
  for (Tensor& tensor : run_node(op_of(node, model), context, inputs)) {
    if (tensor) outputs.push_back(std::move(tensor));
  }
  return outputs;
}

// The same in float64, where the operator knows it.
void check_double(const Model& model, const std::vector<Tensor>& feeds,
                  const std::vector<Tensor>& expected, const Bound& bound) {
  std::vector<Tensor> ours;
  try {
    ours = run_model(model, feeds, true);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::unsupported);
    return;
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].dtype() != DType::float32 || ours[i].dtype() != DType::float64) continue;
    CAPTURE(i);
    const Difference d = compare(ours[i], expected[i]);
    CHECK(d.worst <= bound.relative * std::max(d.top, 1e-3));
  }
}

void check_case(const fs::path& folder) {
  CAPTURE(folder.filename().string());
  const Bound bound = read_bound(folder);
  // Unchecked: ONNX Runtime knows operators of ai.onnx that ONNX does not.
  ReadOptions unchecked;
  unchecked.check = false;
  const Model model = read_onnx((folder / "model.onnx").string(), unchecked);
  const std::vector<Tensor> expected = read_tensors(folder / "test_data_set_0", "output");
  const std::vector<Tensor> feeds = read_tensors(folder / "test_data_set_0", "input");
  std::vector<Tensor> ours;
  REQUIRE_NOTHROW(ours = run_model(model, feeds));
  REQUIRE(!expected.empty());
  REQUIRE(ours.size() == expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    REQUIRE(ours[i].dtype() == expected[i].dtype());
    REQUIRE(ours[i].shape() == expected[i].shape());
    const Difference d = compare(ours[i], expected[i]);
    const double allowed = is_float(expected[i].dtype()) ? bound.relative * std::max(d.top, 1e-3)
                                                         : static_cast<double>(bound.steps);
    CHECK(d.worst <= allowed);
    if (std::getenv("COMPRESS_TEST_FIGURES") != nullptr) {
      std::cout << folder.filename().string() << " output " << i << ": " << d.worst << " of "
                << d.top << '\n';
    }
  }
  check_double(model, feeds, expected, bound);
}

}  // namespace

TEST_CASE("operators agree with the outputs of another runtime") {
  const char* other = std::getenv("COMPRESS_GOLDENS");
  const fs::path root = other != nullptr ? other : COMPRESS_GOLDENS;
  if (!fs::exists(root)) {
    WARN("skipped: no goldens in " << root.string() << " (tests/ops/make_goldens.py writes them)");
    return;
  }
  std::vector<fs::path> folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
    if (entry.is_directory()) folders.push_back(entry.path());
  }
  std::sort(folders.begin(), folders.end());
  REQUIRE(!folders.empty());
  for (const fs::path& folder : folders) {
    DYNAMIC_SECTION(folder.filename().string()) { check_case(folder); }
  }
}

}  // namespace compress
