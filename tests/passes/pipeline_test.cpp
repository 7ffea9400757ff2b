#include "compress/error.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::run_step;

Model identity_chain(int length) {
  GraphBuilder b;
  ValueId x = b.input("x", DType::float32, {1, 4});
  for (int i = 0; i < length; ++i) x = b.op("Identity", {x});
  b.output(b.op("Relu", {x}), "y");
  return std::move(b).model();
}

TEST_CASE("the table of passes is sound", "[pipeline]") {
  for (const PassDef& pass : all_passes()) {
    CHECK(pass.run != nullptr);
    CHECK_FALSE(pass.summary.empty());
    CHECK_NOTHROW(find_step(pass.step));
  }
  for (const StepDef& step : all_steps()) {
    CHECK_NOTHROW(Options(step.options, Json::object()));
  }
}

TEST_CASE("unknown steps, options and passes name the nearest", "[pipeline]") {
  Model model = identity_chain(1);
  CHECK_THROWS_WITH(run_step(model, "optimise"), Catch::Contains("optimize"));
  CHECK_THROWS_WITH(run_step(model, "prune", {{"sparsty", 0.5}}), Catch::Contains("sparsity"));
  PipelineOptions options;
  options.disabled = {"fuse_pads"};
  CHECK_THROWS_WITH(run_step(model, "optimize", Json::object(), options),
                    Catch::Contains("fuse_pad"));
}

TEST_CASE("disabled passes do not run, stop-after ends the run", "[pipeline]") {
  Model model = identity_chain(3);
  PipelineOptions options;
  options.disabled = {"eliminate_identity"};
  CHECK_FALSE(run_step(model, "optimize", Json::object(), options).changed);
  CHECK(test::count_ops(model.graph, "Identity") == 3);
  options = {};
  options.stop_after = "eliminate_identity";
  std::vector<std::string> lines;
  options.log = [&](std::string_view line) { lines.emplace_back(line); };
  const PipelineResult result = run_step(model, "optimize", Json::object(), options);
  CHECK(result.changed);
  CHECK(result.passes.back().name == "eliminate_identity");
  CHECK(lines.size() == result.passes.size());
}

TEST_CASE("a chain of 100,000 nodes is optimized in linear time", "[pipeline]") {
  Model model = identity_chain(100'000);
  run_step(model, "optimize");
  CHECK(model.graph.node_count() == 1);
}

}  // namespace
}  // namespace compress
