// ONNX's own node cases (tests/golden/make_cases.py), each run through a session, op by op and
// lowered. not_run.txt lists those that do not pass, with the reason; it is checked both ways.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <string_view>

#include "compress/error.h"
#include "compress/runtime/session.h"
#include "formats/onnx.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

struct Bound {
  double rtol = 1e-3;
  double atol = 1e-7;
};

Bound read_bound(const fs::path& folder) {
  Bound bound;
  std::ifstream file(folder / "bound");
  std::string kind;
  while (file >> kind) file >> (kind == "rtol" ? bound.rtol : bound.atol);
  return bound;
}

std::vector<NamedTensor> read_tensors(const fs::path& folder, const std::string& prefix) {
  std::vector<NamedTensor> tensors;
  for (int i = 0;; ++i) {
    const fs::path path = folder / (prefix + "_" + std::to_string(i) + ".pb");
    if (!fs::exists(path)) return tensors;
    NamedTensor& named = tensors.emplace_back();
    named.tensor = read_tensor_file(path.string(), &named.name);
  }
}

// Why the tensors differ; "" where they agree.
std::string difference(const Tensor& ours, const Tensor& expected, const Bound& bound) {
  if (ours.dtype() != expected.dtype()) {
    return fmt::format("type {}, not {}", info(ours.dtype()).name, info(expected.dtype()).name);
  }
  if (!(ours.shape() == expected.shape())) {
    return fmt::format("shape {}, not {}", ours.shape().to_string(), expected.shape().to_string());
  }
  const bool comparable = is_float(ours.dtype()) && info(ours.dtype()).bits >= 16;
  if (!comparable) return same_content(ours, expected) ? "" : "other content";
  const std::vector<double> a = ours.to_doubles();
  const std::vector<double> b = expected.to_doubles();
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    if (std::fabs(a[i] - b[i]) <= bound.atol + bound.rtol * std::fabs(b[i])) continue;
    return fmt::format("element {} is {}, not {}", i, a[i], b[i]);
  }
  return "";
}

// Cases that draw at random, whose values are those of NumPy's generator: ONNX asks for a
// distribution, so types, shapes and ranges are compared. A case expands its operator in several
// forms, which share the beginning of the name.
bool draws_at_random(const std::string& name) {
  const auto begins = [&](std::string_view text) {
    return name.compare(0, text.size(), text) == 0;
  };
  return begins("test_bernoulli") ||
         (begins("test_training_dropout") && name.find("zero_ratio") == std::string::npos);
}

std::string difference_of_draws(const Tensor& ours, const Tensor& expected) {
  if (ours.dtype() != expected.dtype()) return "another type";
  if (!(ours.shape() == expected.shape())) return "another shape";
  // Masks and draws are 0 and 1; what stays of a standard normal input is scaled by 4 at most.
  for (const double value : ours.to_doubles()) {
    if (!(std::fabs(value) < 40)) return fmt::format("{} was drawn", value);
  }
  return "";
}

// Why the case does not pass; "" where it does.
std::string failure(const fs::path& folder, bool lower) {
  try {
    const Model model = read_onnx((folder / "model.onnx").string());
    SessionOptions options;
    options.lower = lower;
    Session session(model, options);
    std::vector<NamedTensor> feeds = read_tensors(folder / "test_data_set_0", "input");
    const std::vector<NamedTensor> expected = read_tensors(folder / "test_data_set_0", "output");
    const std::vector<Tensor> ours = session.run(feeds);
    if (ours.size() != expected.size() || ours.empty()) return "another number of outputs";
    for (size_t i = 0; i < ours.size(); ++i) {
      const std::string reason = draws_at_random(folder.filename().string())
                                     ? difference_of_draws(ours[i], expected[i].tensor)
                                     : difference(ours[i], expected[i].tensor, read_bound(folder));
      if (!reason.empty()) return fmt::format("output {}: {}", i, reason);
    }
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

// Cases by name with the reason; a line is "name: reason", '#' begins a comment.
std::map<std::string, std::string> read_not_run() {
  std::map<std::string, std::string> cases;
  std::ifstream file(COMPRESS_NOT_RUN);
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(": ");
    if (line.empty() || line[0] == '#') continue;
    REQUIRE(colon != std::string::npos);
    REQUIRE(cases.emplace(line.substr(0, colon), line.substr(colon + 2)).second);
  }
  return cases;
}

}  // namespace

TEST_CASE("ONNX's node cases pass, but for those listed with a reason") {
  const char* other = std::getenv("COMPRESS_CASES");
  const fs::path root = other != nullptr ? other : COMPRESS_CASES;
  if (!fs::exists(root)) {
    WARN("skipped: no cases in " << root.string() << " (tests/golden/make_cases.py writes them)");
    return;
  }
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(root)) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  REQUIRE((other != nullptr || folders.size() > 1000));
  const std::map<std::string, std::string> listed = read_not_run();
  const bool trace = std::getenv("COMPRESS_TEST_TRACE") != nullptr;
  const bool lower = GENERATE(false, true);
  size_t passed = 0;
  for (const fs::path& folder : folders) {
    const std::string name = folder.filename().string();
    const std::string reason = failure(folder, lower);
    // One line a case, in not_run.txt's form, for whoever brings that file up to date.
    if (trace && !reason.empty()) std::cerr << name << ": " << reason << '\n';
    passed += reason.empty();
    const bool expected = listed.count(name) == 0;
    if (reason.empty() == expected) continue;
    // Fused nodes round less often, which may take a listed case inside of its bound.
    if (lower && !expected) continue;
    INFO((lower ? "lowered: " : "op by op: ") << name);
    if (expected) FAIL_CHECK(reason);
    if (!expected) FAIL_CHECK("passes, yet not_run.txt lists it: " << listed.at(name));
  }
  std::cout << (lower ? "lowered: " : "op by op: ") << passed << " of " << folders.size()
            << " cases pass\n";
  for (const auto& [name, reason] : listed) {
    INFO(name << " (" << reason << ")");
    CHECK(fs::exists(root / name));
  }
}

}  // namespace compress
