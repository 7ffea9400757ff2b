// compress as a library: a recipe and a change of one's own on a model, run before and after.
//   prune_and_compare IN.onnx OUT.onnx
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "calibration/dataset.h"
#include "compress/error.h"
#include "compress/recipe.h"
#include "compress/runtime/session.h"
#include "formats/onnx.h"
#include "passes/pass.h"

namespace {

using namespace compress;

// A pass of one's own is a function on the graph: here, node names lose their scopes.
int64_t shorten_names(Graph& graph) {
  int64_t changed = 0;
  for (const NodeId id : graph.order()) {
    std::string name = graph.node(id).name;
    const size_t slash = name.rfind('/');
    if (slash == std::string::npos) continue;
    graph.edit(id).name = name.substr(slash + 1);
    ++changed;
  }
  return changed;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_doubles(), y = b.to_doubles();
  double largest = 0;
  for (size_t i = 0; i < x.size(); ++i) largest = std::max(largest, std::abs(x[i] - y[i]));
  return largest;
}

int run(const std::string& from, const std::string& to) {
  const Model original = read_onnx(from);
  Model model = original;
  std::printf("%lld names shortened\n", static_cast<long long>(shorten_names(model.graph)));

  const Recipe recipe = Recipe::parse(
      R"({"schema": "compress.recipe/1", "steps": [{"prune": {"sparsity": 0.5, "scope": "global"}}]})");
  PipelineOptions options;
  options.lift_opset = convert_opset;
  for (const PassRecord& pass : run_pipeline(model, recipe, options).passes) {
    if (pass.changed) std::printf("%s changed the model\n", pass.name.c_str());
  }
  std::printf("%llu bytes written\n", static_cast<unsigned long long>(write_onnx(model, to)));

  Session before(original), after(model);
  const auto samples = random_dataset(original, 1, 0);
  const std::vector<NamedTensor> feeds = samples->get(0).inputs;
  const std::vector<Tensor> expected = before.run(feeds), got = after.run(feeds);
  for (size_t i = 0; i < expected.size(); ++i) {
    std::printf("output %zu differs by at most %g\n", i, largest_difference(expected[i], got[i]));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: prune_and_compare IN.onnx OUT.onnx\n");
    return 2;
  }
  try {
    return run(argv[1], argv[2]);
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
