#include "compress/report/trace.h"

#include <catch2/catch.hpp>

#include "compress/error.h"
#include "compress/recipe.h"
#include "compress/report/report.h"

using namespace compress;
using Catch::Matchers::Contains;

TEST_CASE("a trace has a process a model and an event a kernel") {
  const std::vector<KernelRecord> kernels = {
      {"conv \"1\"", "Conv", "cpu", "conv_ref", 2, 1000, false, {Shape({1, 3})}, {Shape({1, 8})}},
      {"relu", "Relu", "cpu", "conv_ref", 0, 1000, true, {}, {}},
      {"", "Add", "cpu", "add", 0.5, 1002, false, {}, {}},
      {"not run", "Mul", "cpu", "mul", 0, 0, false, {}, {}}};
  const std::vector<TraceProcess> runs = {{"reference: a.onnx", kernels}, {"candidate", {}}};
  const Json trace = parse_json(to_trace(runs), "trace");
  std::vector<Json> events, names;
  for (const Json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "X") events.push_back(event);
    if (event.at("name") == "process_name") names.push_back(event);
  }
  REQUIRE(names.size() == 2);
  CHECK(names[0].at("args").at("name") == "reference: a.onnx");
  CHECK(names[0].at("pid") != names[1].at("pid"));
  REQUIRE(events.size() == 2);
  CHECK(events[0].at("name") == "conv \"1\"");
  CHECK(events[0].at("ts") == 0);
  CHECK(events[0].at("dur") == 2000);
  CHECK(events[0].at("args").at("kernel") == "conv_ref");
  CHECK(events[0].at("args").at("inputs")[0] == "[1,3]");
  CHECK(events[0].at("args").at("nodes") == Json::array({"conv \"1\"", "relu"}));
  CHECK(events[1].at("name") == "Add");
  CHECK(events[1].at("ts") == 2000);
  CHECK_THROWS_AS(check_trace_path("run.txt"), Error);
}

TEST_CASE("load and explanation are in every form of the report") {
  Report report;
  report.command = "verify";
  report.reference = ModelSummary{"a.onnx", 1000, 200, 5, 17, 0};
  report.candidate = ModelSummary{"b.onnx", 250, 200, 9, 17, 0};
  report.engine = "onnxruntime 1.2";
  LoadRow load;
  load.concurrency = 4;
  load.batch = 8;
  load.reference = {10, {2, 2, 2, 3, 4, 1, 500}};
  load.candidate = {20, {1, 1, 1, 2, 3, 1, 1000}};
  load.speedup = 2;
  report.load.push_back(load);
  Explanation explanation;
  explanation.source = "rules";
  explanation.why = {"a <reason> with a | in it"};
  ExplainedNode node;
  node.ort = {"n|1", "Conv", OrtRuns::dequantized, "Conv", "because", 100, 10, true};
  node.kernel = "conv_x";
  node.ms = 1.5;
  explanation.nodes = {node};
  node.ort.node = "hidden";
  node.ort.runs = OrtRuns::fused;
  explanation.nodes.push_back(node);
  report.explanation = explanation;

  const Json json = parse_json(render(report, "r.json"), "report");
  CHECK(json.at("engine") == "onnxruntime 1.2");
  CHECK(json.at("load")[0].at("concurrency") == 4);
  CHECK(json.at("load")[0].at("candidate").at("p99_ms") == 3);
  CHECK(json.at("load")[0].at("candidate").at("runs") == 20);
  const Json& row = json.at("explain").at("nodes")[0];
  CHECK(row.at("onnxruntime").at("runs") == "dequantized");
  CHECK(row.at("onnxruntime").at("reason") == "because");
  CHECK(row.at("multiply_adds") == 100);
  CHECK(json.at("explain").at("nodes").size() == 2);

  const std::string table = to_table(report);
  CHECK_THAT(table, Contains("why: a <reason>") && Contains("4 x 1 thread") && Contains("conv_x") &&
                        Contains("dequantized: Conv") && Contains("2.00x"));
  CHECK(table.find("why:") < table.find("size"));
  CHECK_THAT(table, !Contains("hidden") && Contains("1 more node"));
  CHECK_THAT(render(report, "r.md"), Contains("with a \\| in it") && Contains("| 4 x 1 thread |") &&
                                         Contains("n\\|1") && Contains("because"));
  CHECK_THAT(render(report, "r.html"),
             Contains("a &lt;reason&gt;") && Contains("Under load") && Contains("because"));
}
