#include "compress/report/gate.h"

#include <catch2/catch.hpp>

#include <cmath>
#include <limits>

#include "compress/error.h"
#include "compress/report/report.h"

using namespace compress;
using Catch::Matchers::Contains;

namespace {

Report example() {
  Report report;
  report.command = "quantize";
  report.version = "0.1.0";
  report.changed = true;
  report.reference = ModelSummary{"a|b<c.onnx", 1000, 200, 5, 17, 0};
  report.candidate = ModelSummary{"b.onnx", 250, 200, 9, 17, 0.5};
  Evaluation evaluation;
  evaluation.samples = 10;
  evaluation.labelled = true;
  evaluation.accuracy = {{"top1", {0.9, 0.8}}, {"perplexity", {4, 5}}};
  evaluation.similarity = {{"sqnr", {std::numeric_limits<double>::infinity(), 30}}};
  evaluation.outputs = {{"y", 30, 40, 0.99, 0.1, 0.5, 0.95, 0.01}};
  report.evaluation = evaluation;
  SpeedRow speed;
  speed.threads = 2;
  speed.data = "x";
  speed.benchmark = {50, {2, 1.9, 2.1, 2, 2, 2, 500}, {1, 0.9, 1.1, 1, 1, 1, 1000}, 2, 1.9, 2.1};
  report.speed.push_back(speed);
  report.passes.push_back(
      {"p", "quantize", 0.1, true, {{"n1", "too small"}, {"n2", "too small"}}, {}});
  return report;
}

std::vector<GateResult> checked(const std::string& gate, const Measurements* baseline = nullptr) {
  return check_gates({parse_gate(gate)}, measurements(example()), baseline);
}

}  // namespace

TEST_CASE("gates are parsed and hold or fail") {
  struct Row {
    const char* gate;
    double value;
    bool passes;
  };
  for (const Row& row : std::vector<Row>{{"top1>=0.8", 0.8, true},
                                         {"top1 >= 80%", 0.8, true},
                                         {"top1>80%", 0.8, false},
                                         {"top1_drop<=1%", 0.1, false},
                                         {"top1_drop <= 0.11", 0.1, true},
                                         {"top1_drop_rel<12%", 0.1 / 0.9, true},
                                         {"perplexity_drop==1", 1, true},
                                         {"perplexity_drop_rel<=0.2", 0.25, false},
                                         {"size_ratio<=0.3", 0.25, true},
                                         {"size_bytes<250", 250, false},
                                         {"speedup>=1.2", 2, true},
                                         {"latency_ms<=1", 1, true},
                                         {"sqnr>=-1e1", 30, true}}) {
    INFO(row.gate);
    const auto result = checked(row.gate);
    CHECK(result[0].value == Approx(row.value));
    CHECK(result[0].passed == row.passes);
  }
}

TEST_CASE("gates that cannot be read say why") {
  const auto refused = [](const char* gate) {
    try {
      parse_gate(gate);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::usage);
      return std::string(error.what());
    }
    return std::string();
  };
  CHECK_THAT(refused("top1"), Contains("no comparison"));
  CHECK_THAT(refused("top1=0.8"), Contains("comparison is one of"));
  CHECK_THAT(refused("topp1>=0.8"), Contains("did you mean 'top1'"));
  CHECK_THAT(refused("top1>="), Contains("no number"));
  CHECK_THAT(refused("top1>=0.8x"), Contains("'0.8x' is no number"));
  CHECK_THAT(refused("top1>=nan"), Contains("no number"));
  CHECK_THAT(refused("_drop>=1"), Contains("unknown metric"));
  CHECK_THROWS_WITH(checked("kl<=1"), Contains("was not measured"));
}

TEST_CASE("NaN fails every gate") {
  Gate gate = parse_gate("top1<=1");
  for (const auto op : {Gate::Op::less_equal, Gate::Op::greater_equal, Gate::Op::less,
                        Gate::Op::greater, Gate::Op::equal}) {
    gate.op = op;
    CHECK_FALSE(gate.holds(std::numeric_limits<double>::quiet_NaN()));
  }
}

TEST_CASE("a baseline stands in for the reference") {
  Report earlier = example();
  earlier.evaluation->accuracy["top1"] = {0.9, 0.805};
  const Measurements baseline = read_baseline(render(earlier, "x.json"), "x.json");
  CHECK(checked("top1_drop<=1%", &baseline)[0].passed);
  CHECK(checked("top1_drop<=1%", &baseline)[0].value == Approx(0.005));
  CHECK(checked("latency_ms_drop_rel<=5%", &baseline)[0].passed);
  CHECK(std::isinf(baseline.at("sqnr").reference));
  // Timing is noisy: only what the interval excludes fails.
  earlier.speed.at(0).benchmark.speedup = 2.4;  // now 2, between 1.9 and 2.1
  const Measurements faster = read_baseline(render(earlier, "x.json"), "x.json");
  CHECK(checked("speedup_drop<=0.35", &faster)[0].passed);
  CHECK(checked("speedup_drop<=0.35", &faster)[0].value == Approx(0.4));
  CHECK_FALSE(checked("speedup_drop<=0.25", &faster)[0].passed);
  CHECK_THROWS_WITH(read_baseline("{}", "x.json"), Contains("no report"));
}

TEST_CASE("every metric of the table can be gated") {
  Measurements values;
  for (const MetricDef& metric : all_metrics()) values[std::string(metric.name)] = {2, 1};
  for (const MetricDef& metric : all_metrics()) {
    for (const char* suffix : {"", "_drop", "_drop_rel"}) {
      const Gate gate = parse_gate(std::string(metric.name) + suffix + ">=-100");
      CHECK(check_gates({gate}, values, nullptr)[0].passed);
    }
  }
}

TEST_CASE("the JSON report has the keys that scripts rely on") {
  Report report = example();
  report.gates = {{"top1_drop<=1%", 0.1, false}};
  const Json json = to_json(report);
  for (const char* key : {"schema", "tool", "recipe", "seed", "changed", "machine", "reference",
                          "candidate", "passes", "accuracy", "similarity", "speed", "kernels",
                          "gates", "result", "seconds", "peak_memory_bytes"}) {
    INFO(key);
    CHECK(json.contains(key));
  }
  CHECK(json["schema"] == "compress.report/1");
  CHECK(json["candidate"]["size_ratio"] == 0.25);
  CHECK(json["accuracy"]["drop"]["top1"].get<double>() == Approx(0.1));
  CHECK(json["accuracy"]["drop"]["perplexity"].get<double>() == Approx(1));
  CHECK(json["similarity"]["outputs"][0]["agreement"] == 0.95);
  CHECK(json["speed"][0]["speedup_ci"] == Json({1.9, 2.1}));
  CHECK(json["passes"][0]["skipped"][1]["node"] == "n2");
  CHECK(json["result"] == "failed");
}

TEST_CASE("the HTML report draws the losses of training") {
  Report report = example();
  CHECK_THAT(render(report, "r.html"), !Contains("<polyline"));
  PassSummary pass{"distill_model", "distill", 1, true, {}, Json::object()};
  pass.details = {{"best_epoch", 1},
                  {"epochs",
                   {{{"epoch", 0}, {"loss", nullptr}, {"validation_loss", 2.0}},
                    {{"epoch", 1}, {"loss", 1.0}, {"validation_loss", 0.5}}}}};
  report.passes.push_back(pass);
  const std::string html = render(report, "r.html");
  // Two curves; of three losses two are held back. 2.0 is the upper edge, 0.5 the lower one.
  CHECK_THAT(html, Contains("Loss of distill") && Contains("epoch 1: 0.5"));
  CHECK_THAT(html, Contains("points=\"46.0,24.0 428.0,216.0 \"") && Contains("kept: 1<"));
}

TEST_CASE("every format shows the gate and escapes names") {
  Report report = example();
  report.gates = {{"top1_drop<=1%", 0.1, false}};
  CHECK_THAT(render(report, "r.md"), Contains("**FAILED**") && Contains("2.00x faster"));
  CHECK_THAT(render(report, "r.html"), Contains("a|b&lt;c.onnx") && !Contains("b<c"));
  CHECK_THAT(render(report, "r.xml"), Contains("failures=\"1\"") && Contains("top1_drop&lt;=1%"));
  CHECK_THAT(to_table(report),
             Contains("FAILED") && Contains("x 0.250") && Contains("too small: 2 nodes"));
  CHECK_THROWS_WITH(render(report, "r.txt"), Contains(".json .md .html .csv .xml"));
}
