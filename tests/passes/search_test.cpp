// Sensitivity on cached prefixes, and the search that uses it.
#include "compress/report/search.h"
#include "compress/error.h"
#include "passes/search/search.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

using test::random_tensor;

constexpr int64_t kSamples = 24;
constexpr double kMaxDrop = 1e-5;  // of the cosine: between int4 and int8 everywhere

class Noise : public SampleSource {
 public:
  int64_t size() const override { return kSamples; }
  Sample get(int64_t index) override {
    ++reads;
    return {{{"x", random_tensor({1, 16, 6, 6}, static_cast<uint32_t>(index))}}, {}};
  }
  bool labelled() const override { return false; }
  std::string description() const override { return "noise"; }
  int reads = 0;
};

// Three convolutions with a shortcut, then classes as probabilities; the second is hard to
// quantize.
Model net() {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {1, 16, 6, 6});
  const std::vector<int64_t> pads = {1, 1, 1, 1};
  const auto conv = [&](ValueId in, uint32_t seed, float outlier) {
    Tensor weight = random_tensor({16, 16, 3, 3}, seed, 0.08f);
    for (int64_t c = 0; c < 16; ++c)
      weight.mutable_as<float>()[static_cast<size_t>(c * 144)] += outlier;
    return b.op("Conv", {in, b.constant(weight), b.constant(random_tensor({16}, seed + 50))},
                {attr("pads", pads)});
  };
  const ValueId first = b.op("Relu", {conv(x, 1, 0)});
  const ValueId second = b.op("Relu", {conv(first, 2, 4.0f)});
  const ValueId third = b.op("Add", {conv(second, 3, 0), first});
  const ValueId flat = b.op("Flatten", {b.op("GlobalAveragePool", {third})});
  b.output(b.op("Softmax", {b.op("Gemm",
                                 {flat, b.constant(random_tensor({128, 16}, 7)),
                                  b.constant(random_tensor({128}, 8))},
                                 {attr("transB", int64_t{1})})}),
           "y");
  Model model = std::move(b).model(21);
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) {
    model.graph.edit(id).name = "n" + std::to_string(id);
  }
  return model;
}

std::vector<int64_t> all() {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < kSamples; ++i) out.push_back(i);
  return out;
}

PipelineOptions pipeline(SampleSource& data) {
  std::vector<std::vector<NamedTensor>> feeds;
  for (int64_t i = 0; i < 8; ++i) feeds.push_back(data.get(i).inputs);
  PipelineOptions options = test::with_statistics(feeds);
  options.samples = [&data] { return CalibrationSamples{&data, {0, 1, 2, 3, 4, 5, 6, 7}}; };
  return options;
}

SearchSettings settings(double max_drop) {
  SearchSettings out;
  out.max_drop = max_drop;
  out.metric = "cosine";
  return out;
}

TEST_CASE("sensitivity: from kept values as from the start", "[search]") {
  const Model model = net();
  Noise noise;
  KeptSamples data(noise);
  ReferenceOutputs seen(model, data, all(), {});
  CHECK(seen.damage() == Damage::kl);
  const std::vector<SearchLayer> layers = search_layers(model);
  REQUIRE(layers.size() == 4);
  VariantMeter cut(seen);
  VariantMeter whole(seen, 0);
  std::vector<double> damages;
  for (const SearchLayer& layer : layers) {
    const auto measure = [&](VariantMeter& meter) {
      return measure_layer(meter, seen, layer, "static/int8/channel", Json::object(), settings(0),
                           pipeline(data));
    };
    const SensitivityRow a = measure(cut), b = measure(whole);
    INFO(layer.label);
    // The same integers; float sums ahead of them may be fused otherwise.
    CHECK(a.damage == Approx(b.damage).epsilon(0.02));
    CHECK(a.damage > 0);
    damages.push_back(a.damage);
  }
  CHECK(cut.cut_runs() == 3);  // nothing lies ahead of the first
  CHECK(whole.cut_runs() == 0);
  CHECK(damages[1] > damages[0]);
  CHECK(damages[1] > damages[2]);
  CHECK(noise.reads == kSamples);
}

struct Run {
  SearchResult result;
  int published = 0;
  Json state;
  std::vector<uint64_t> published_bytes;
};

// Stops (as a kill would) after `saves` writes of the state.
Run run_search(const Json& state, double max_drop, int saves = 1 << 30) {
  const Model model = net();
  Noise noise;
  KeptSamples data(noise);
  ReferenceOutputs seen(model, data, all(), {});
  Run run;
  SearchHooks hooks;
  hooks.pipeline = pipeline(data);
  hooks.size = [](const Model& m) { return test::model_bytes(m.graph); };
  hooks.held_out = [&](const Model& m) { return seen.evaluate(m); };
  hooks.publish = [&](const SearchTrial& trial, const Model&) {
    ++run.published;
    run.published_bytes.push_back(trial.bytes);
  };
  struct Killed {};
  hooks.save = [&](const Json& at) {
    run.state = at;
    if (--saves == 0) throw Killed();
  };
  hooks.seconds = [] { return 0.0; };
  try {
    run.result = search(model, model, seen, settings(max_drop), hooks, state);
  } catch (const Killed&) {
  }
  return run;
}

TEST_CASE("search: smaller than any single setting that holds, and it holds", "[search]") {
  const Run run = run_search(nullptr, kMaxDrop);
  REQUIRE(run.result.chosen >= 0);
  const SearchTrial& chosen = run.result.trials[static_cast<size_t>(run.result.chosen)];
  CHECK(chosen.holds);
  CHECK(chosen.drop <= kMaxDrop);
  CHECK(chosen.on_front);
  uint64_t single = ~uint64_t{0};
  for (const SearchTrial& trial : run.result.trials) {
    UNSCOPED_INFO(trial.label << " " << trial.bytes << " " << trial.drop << " " << trial.failure);
    if (trial.single && trial.holds) single = std::min(single, trial.bytes);
  }
  CHECK(chosen.bytes < single);
  // Each published model is smaller than the one before.
  CHECK(std::is_sorted(run.published_bytes.rbegin(), run.published_bytes.rend()));
  CHECK(run.published >= 2);
}

TEST_CASE("search: cut off anywhere, it goes on and ends alike", "[search]") {
  const Run whole = run_search(nullptr, kMaxDrop);
  for (const int saves : {1, 5, 9}) {
    const Run part = run_search(nullptr, kMaxDrop, saves);
    const Run rest = run_search(Json::parse(part.state.dump()), kMaxDrop);
    INFO(saves);
    REQUIRE(rest.result.trials.size() == whole.result.trials.size());
    CHECK(rest.result.chosen == whole.result.chosen);
    for (size_t i = 0; i < rest.result.trials.size(); ++i) {
      CHECK(rest.result.trials[i].options == whole.result.trials[i].options);
      CHECK(rest.result.trials[i].bytes == whole.result.trials[i].bytes);
    }
    CHECK(rest.state["trials"].size() == whole.state["trials"].size());
  }
}

TEST_CASE("search: the budget holds, and mixes are tried though not all layers could be measured",
          "[search]") {
  const Model model = net();
  Noise noise;
  KeptSamples data(noise);
  ReferenceOutputs seen(model, data, all(), {});
  // Of a clock that ticks with the work: a trial takes 10 s, a measured layer 6 s.
  double clock = 0;
  bool mixed = false;
  SearchHooks hooks;
  hooks.pipeline = pipeline(data);
  hooks.size = [&](const Model& m) {
    clock += 10;
    return test::model_bytes(m.graph);
  };
  hooks.held_out = [&](const Model& m) {
    clock += 5;
    return seen.evaluate(m);
  };
  hooks.publish = [](const SearchTrial&, const Model&) {};
  Json state;
  size_t rows = 0;
  hooks.save = [&](const Json& at) {
    if (at["sensitivity"].size() > rows) clock += 6;
    rows = at["sensitivity"].size();
    state = at;
  };
  hooks.seconds = [&] { return clock; };
  SearchSettings limited = settings(kMaxDrop);
  limited.budget_seconds = 200;
  const SearchResult result = search(model, model, seen, limited, hooks, nullptr);
  CHECK(clock <= limited.budget_seconds);
  CHECK(result.out_of_time);
  REQUIRE(result.chosen >= 0);
  size_t measurable = 0;
  for (const SearchLayer& layer : search_layers(model)) measurable += layer.ladder.size() - 2;
  CHECK(rows > 0);
  CHECK(rows < measurable);
  for (const SearchTrial& trial : result.trials) mixed = mixed || !trial.single;
  CHECK(mixed);

  // Without any time left, what is known counts: nothing is lost.
  hooks.seconds = [] { return 1e9; };
  const SearchResult again = search(model, model, seen, limited, hooks, Json::parse(state.dump()));
  CHECK(again.trials.size() == result.trials.size());
  CHECK(again.chosen >= 0);
}

TEST_CASE("search: rows read back as they were written", "[search]") {
  const SearchPoint point{
      "a", {{"mode", "static"}}, true, 12, 0.5, HUGE_VAL, 0.1, 0.9, true, false, true, "x"};
  CHECK(to_json(search_point(to_json(point))) == to_json(point));
  CHECK(std::isinf(search_point(to_json(point)).drop));
  CHECK(search_point(to_json(point)).options == point.options);
  const SensitivityRow row{"n", "Conv", "p", 3, 4, 0.5, 6, 0.7, NAN};
  CHECK(to_json(sensitivity_row(to_json(row))) == to_json(row));
  CHECK(sensitivity_row(to_json(row)).bytes_saved == 4);
  Json broken = to_json(row);
  broken.erase("op");
  CHECK_THROWS(sensitivity_row(broken));
}

TEST_CASE("search: no time, no trial; the float model stands", "[search]") {
  const Model model = net();
  Noise noise;
  KeptSamples data(noise);
  ReferenceOutputs seen(model, data, all(), {});
  SearchHooks hooks;
  hooks.pipeline = pipeline(data);
  hooks.seconds = [] { return 1e9; };
  const SearchResult result = search(model, model, seen, settings(0), hooks, nullptr);
  CHECK(result.out_of_time);
  CHECK(result.trials.empty());
  CHECK(result.chosen == -1);
  CHECK(same_graph(result.model.graph, model.graph));
}

TEST_CASE("search: reports survive hostile names and are whole", "[search]") {
  SearchReport report;
  report.metric = "top1";
  report.minimize = "size";
  report.max_drop = 0.005;
  report.points = {
      {"a <b>&\"|", Json::object(), true, 1000, 0, 0.001, 0.1, 0.99, true, true, true, ""},
      {"c", Json::object(), false, 500, 0, NAN, 0.1, 0.9, false, false, false, "no"}};
  SensitivityReport layers{"kl",
                           "top1",
                           8,
                           {{"<script>", "Conv", "static", 10, 5, 0.5, 20, 1, 0},
                            {"zero", "Conv", "static", 10, 5, 0, HUGE_VAL, 1, 0}}};
  for (const std::string& html : {search_html(report), sensitivity_html(layers)}) {
    CHECK(html.find("<script>") == std::string::npos);
    CHECK(html.find("</svg>") != std::string::npos);
    CHECK(html.find("nan") == std::string::npos);
  }
  CHECK(search_json(report)["trials"][1]["drop"].is_null());
  CHECK(search_table(report).find("chosen") != std::string::npos);
  CHECK(sensitivity_table(layers).find("zero") != std::string::npos);
}

}  // namespace
}  // namespace compress
