// Sparsities of single layers: --override, and the search that finds them.
#include "compress/error.h"
#include "passes/search/search.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::random_tensor;
using test::run_step;

constexpr int64_t kSamples = 24;

class Noise : public SampleSource {
 public:
  int64_t size() const override { return kSamples; }
  Sample get(int64_t index) override {
    return {{{"x", random_tensor({1, 16, 6, 6}, static_cast<uint32_t>(index))}}, {}};
  }
  bool labelled() const override { return false; }
  std::string description() const override { return "noise"; }
};

// Three convolutions in a row; what the middle one makes is a thousandth of what is added to it.
Model net() {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 16, 6, 6});
  const std::vector<int64_t> pads = {1, 1, 1, 1};
  const auto conv = [&](ValueId in, const char* name, uint32_t seed) {
    return b.op("Conv", {in, b.constant(random_tensor({16, 16, 3, 3}, seed, 0.1f), name)},
                {attr("pads", pads)});
  };
  const ValueId first = b.op("Relu", {conv(x, "w0", 1)});
  const ValueId faint =
      b.op("Mul", {conv(first, "w1", 2), b.constant(Tensor::scalar<float>(1e-3f))});
  b.output(conv(b.op("Add", {faint, first}), "w2", 3), "y");
  Model model = std::move(b).model();
  int count = 0;
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) {
    if (model.graph.node(id).is("Conv"))
      model.graph.edit(id).name = "conv" + std::to_string(count++);
  }
  return model;
}

double zeros_of(const Model& model, std::string_view name) {
  const Tensor& tensor = model.graph.value(model.graph.find_value(name)).constant;
  double zeros = 0;
  for (const double x : tensor.to_doubles()) zeros += x == 0;
  return zeros / static_cast<double>(tensor.count());
}

PipelineOptions with_samples(SampleSource& data) {
  PipelineOptions options;
  options.samples = [&data] { return CalibrationSamples{&data, {0, 1, 2, 3}}; };
  return options;
}

TEST_CASE("layers have sparsities of their own", "[prune]") {
  Noise noise;
  for (const char* method : {"magnitude", "wanda", "sparsegpt", "taylor"}) {
    INFO(method);
    Model model = net();
    run_step(model, "prune",
             {{"method", method}, {"sparsity", 0.5}, {"override", {"conv1=75%", "conv[12]=0"}}},
             with_samples(noise));
    CHECK(zeros_of(model, "w0") == Approx(0.5).margin(0.01));
    CHECK(zeros_of(model, "w1") == Approx(0.75).margin(0.01));  // the first pattern counts
    CHECK(zeros_of(model, "w2") == 0);
  }
  Model blocks = net();
  run_step(blocks, "prune", {{"granularity", "block:4x4"}, {"override", {"conv0=0.25"}}});
  CHECK(zeros_of(blocks, "w0") == Approx(0.25));
  CHECK(zeros_of(blocks, "w1") == Approx(0.5));
  Model n_of_m = net();
  run_step(n_of_m, "prune", {{"granularity", "2:4"}, {"override", {"conv0=0"}}});
  CHECK(zeros_of(n_of_m, "w0") == 0);
  CHECK(zeros_of(n_of_m, "w2") == Approx(0.5));
  Model channels = net();
  run_step(channels, "prune", {{"granularity", "channel"}, {"override", {"conv1=0.25"}}});
  // conv0 and conv1 are tied by the sum; the first of them that is named decides.
  CHECK(channels.graph.value(channels.graph.find_value("w0")).constant.shape()[0] == 12);
}

TEST_CASE("overrides that say nothing, or too much, are refused", "[prune]") {
  for (const Json& options : {Json{{"override", {"conv0"}}}, Json{{"override", {"conv0=2"}}},
                              Json{{"override", {"conv0=half"}}}, Json{{"override", {"[=0.5"}}},
                              Json{{"override", {"conv0=0.5"}}, {"scope", "global"}},
                              Json{{"override", {"conv0=0.3"}}, {"granularity", "2:4"}}}) {
    INFO(options.dump());
    Model model = net();
    try {
      run_step(model, "prune", options);
      FAIL("taken");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
    }
  }
}

SearchResult search_prune(const Json& options, double max_drop, Json* state = nullptr) {
  const Model model = net();
  Noise noise;
  KeptSamples data(noise);
  std::vector<int64_t> all;
  for (int64_t i = 0; i < kSamples; ++i) all.push_back(i);
  ReferenceOutputs seen(model, data, all, {});
  SearchSettings settings;
  settings.kind = &sparsity_search();
  settings.max_drop = max_drop;
  settings.metric = "cosine";
  settings.options = options;
  SearchHooks hooks;
  hooks.pipeline = with_samples(data);
  hooks.size = [](const Model& m) {
    uint64_t left = 0;
    for (const char* name : {"w0", "w1", "w2"}) {
      for (const double x : m.graph.value(m.graph.find_value(name)).constant.to_doubles()) {
        left += x != 0;
      }
    }
    return left;
  };
  hooks.held_out = [&](const Model& m) { return seen.evaluate(m); };
  hooks.publish = [](const SearchTrial&, const Model&) {};
  hooks.save = [&](const Json& at) {
    if (state != nullptr) *state = at;
  };
  hooks.seconds = [] { return 0.0; };
  return search(model, model, seen, settings, hooks, nullptr);
}

TEST_CASE("the search takes weights where that does no harm", "[search]") {
  Json state;
  for (const Json& options :
       {Json::object(), Json{{"method", "wanda"}}, Json{{"granularity", "block:4x4"}}}) {
    INFO(options.dump());
    const SearchResult result = search_prune(options, 0.01, &state);
    REQUIRE(result.chosen >= 0);
    const SearchTrial& chosen = result.trials[static_cast<size_t>(result.chosen)];
    CHECK(chosen.drop <= 0.01);
    uint64_t uniform = ~uint64_t{0};
    for (const SearchTrial& trial : result.trials) {
      UNSCOPED_INFO(trial.label << ": " << trial.bytes << " left, drop " << trial.drop << " "
                                << trial.failure);
      CHECK(trial.failure.empty());
      const bool by_layer = trial.options.value("scope", "") == "layer";
      if (trial.single && by_layer && trial.holds) uniform = std::min(uniform, trial.bytes);
    }
    CHECK(chosen.bytes < 0.9 * static_cast<double>(uniform));
    CHECK(zeros_of(result.model, "w1") >= 0.9);  // the faint layer
    CHECK(state["sensitivity"].size() > 6);
  }
}

TEST_CASE("the search takes channels, and N:M where it holds", "[search]") {
  const SearchResult channels = search_prune({{"granularity", "channel"}}, 0.05);
  REQUIRE(channels.chosen >= 0);
  CHECK(channels.trials[static_cast<size_t>(channels.chosen)].bytes < 3 * 16 * 16 * 9);
  const SearchResult groups = search_prune({{"granularity", "2:4"}}, 1e-3);
  REQUIRE(groups.chosen >= 0);
  CHECK(zeros_of(groups.model, "w1") == Approx(0.5));
  CHECK(zeros_of(groups.model, "w0") == 0);
  const SearchResult none = search_prune(Json::object(), -1);
  CHECK(none.chosen == -1);
}

}  // namespace
}  // namespace compress
