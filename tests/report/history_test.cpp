#include "compress/report/history.h"

#include <catch2/catch.hpp>

#include "compress/error.h"
#include "compress/report/plot.h"
#include "compress/report/tables.h"

using namespace compress;
using Catch::Matchers::Contains;

namespace {

// A report as a run writes it, as far as histories read it.
Json report(const char* date, uint64_t bytes, double latency, double spread) {
  return {
      {"schema", "compress.report/1"},
      {"tool", {{"version", "0.1.0"}, {"build", "Release"}}},
      {"date", date},
      {"machine", {{"cpu", "a cpu"}, {"isa", "avx2"}}},
      {"reference", {{"path", "zoo/net.onnx"}, {"bytes", 1000}}},
      {"candidate", {{"path", "out/net_int8.onnx"}, {"bytes", bytes}}},
      {"data", "test.npz"},
      {"accuracy", {{"samples", 100}, {"intervals", {{"top1", {{"candidate", {0.85, 0.95}}}}}}}},
      {"metrics", {{"top1", {{"reference", 0.92}, {"candidate", 0.9}}}}},
      {"speed", Json::array({{{"threads", 2},
                              {"batch", 1},
                              {"candidate",
                               {{"median_ms", latency},
                                {"median_ci", {latency - spread, latency + spread}}}},
                              {"speedup", 2.0},
                              {"speedup_ci", {1.9, 2.1}}}})},
      {"gates", Json::array({{{"expression", "top1>=0.8"}, {"passed", true}}})}};
}

History history(const std::vector<Json>& reports) {
  std::vector<HistoryRow> rows;
  for (const Json& json : reports) {
    rows.push_back(read_history_row(json.dump(), fmt::format("r{}.json", rows.size())));
  }
  return history_of(std::move(rows));
}

using Changes = std::vector<std::string>;

}  // namespace

TEST_CASE("runs are told in order of their dates, whatever order they are named in") {
  const History all = history(
      {report("2026-02-02T00:00:00Z", 250, 5, 0.1), report("2026-02-01T00:00:00Z", 300, 5, 0.1)});
  CHECK(all.model == "net.onnx");
  REQUIRE(all.rows.size() == 2);
  CHECK(all.rows[0].file == "r1.json");
  CHECK(all.rows[1].changes == Changes{"size better"});
  // Without all dates the order is the user's.
  CHECK(history({report("2026-02-02T00:00:00Z", 250, 5, 0.1), report("", 300, 5, 0.1)})
            .rows[0]
            .file == "r0.json");
}

TEST_CASE("a change is told only where the intervals exclude each other") {
  const Json before = report("2026-02-01", 250, 5, 0.1);
  CHECK(history({before, report("2026-02-02", 250, 5.15, 0.1)}).rows[1].changes.empty());
  CHECK(history({before, report("2026-02-02", 250, 5.3, 0.1)}).rows[1].changes ==
        Changes{"latency worse"});
  CHECK(history({before, report("2026-02-02", 250, 4, 0.1)}).rows[1].changes ==
        Changes{"latency better"});
  Json lost = report("2026-02-02", 250, 5, 0.1);
  lost["metrics"]["top1"]["candidate"] = 0.7;
  CHECK(history({before, lost}).rows[1].changes.empty());  // 0.85 to 0.95 stands beside it still
  lost["accuracy"]["intervals"]["top1"]["candidate"] = {0.6, 0.8};
  CHECK(history({before, lost}).rows[1].changes == Changes{"top1 worse"});
  // Reports of older versions have no intervals: nothing is claimed.
  lost["accuracy"].erase("intervals");
  CHECK(history({before, lost}).rows[1].changes.empty());
}

TEST_CASE("what was measured elsewhere is not compared, and that is said") {
  Json other = report("2026-02-02", 250, 1, 0.01);
  other["machine"]["cpu"] = "a faster cpu";
  other["data"] = "other.npz";
  other["accuracy"]["intervals"]["top1"]["candidate"] = {0.1, 0.2};
  const History all = history({report("2026-02-01", 250, 5, 0.1), other});
  CHECK(all.rows[1].changes.empty());
  REQUIRE(all.notes.size() == 2);
  CHECK_THAT(all.notes[0], Contains("a faster cpu"));
  CHECK_THAT(all.notes[1], Contains("other.npz"));
}

TEST_CASE("files that are no reports of one model are refused in a line") {
  const Json good = report("", 250, 5, 0.1);
  Json other = good;
  other["reference"]["path"] = "zoo/another.onnx";
  CHECK_THROWS_WITH(history({good, other}), Contains("another.onnx") && Contains("one model"));
  CHECK_THROWS_WITH(read_history_row("[]", "x.json"), Contains("x.json is no report"));
  CHECK_THROWS_WITH(read_history_row(R"({"schema": "compress.batch/1"})", "x.json"),
                    Contains("summary of a batch"));
  CHECK_THROWS_WITH(read_history_row(R"({"schema": "compress.report/1"})", "x.json"),
                    Contains("compares no two models"));
  for (const char* key : {"tool", "machine", "candidate", "gates", "reference"}) {
    Json torn = good;
    torn[key] = {{"path", 7}, {"0", 1}};
    INFO(key);
    CHECK_THROWS_AS(read_history_row(torn.dump(), "x.json"), Error);
  }
}

TEST_CASE("a history in each format") {
  const History all =
      history({report("2026-02-01", 250, 5, 0.1), report("2026-02-02", 240, 7, 0.1)});
  CHECK_THAT(to_table(all), Contains("size better, latency worse") && Contains("5.00 ms [4.90"));
  CHECK_THAT(render(all, "x.md"), Contains("| r1.json | 2026-02-02 |") && Contains("--:|"));
  CHECK_THAT(render(all, "x.csv"), Contains(",7,6.9,7.1,2,1.9,2.1,1,1,size better; latency worse"));
  const std::string page = render(all, "x.html");
  CHECK_THAT(page, Contains("Latency") && Contains("<svg") && !Contains("http://www.w3.org/1999"));
  const Json json = Json::parse(render(all, "x.json"));
  CHECK(json["rows"][1]["changes"] == Json({"size better", "latency worse"}));
  CHECK_THROWS_WITH(render(all, "x.txt"), Contains(".html .md .csv .json"));
}

TEST_CASE("axes have round ticks, and none that lie on each other") {
  Plot plot{empty_axis("ms"), empty_axis("share", true), {{"a", 'b', PlotSeries::Mark::line}}};
  for (const double x : {0.0, 5.2}) plot.x.cover(x);
  for (const double y : {0.001, 100.0}) plot.y.cover(y);
  plot.series[0].points = {{0, 0.001}, {5.2, 100}};
  const std::string svg = to_svg(plot);
  for (const char* tick : {">0<", ">1<", ">2<", ">5<", ">0.001<", ">100<", "ms", "share"}) {
    CHECK_THAT(svg, Contains(tick));
  }
  // Nothing to show, or one value, still makes a picture with numbers.
  for (const double value : {std::nan(""), 0.0, 7.0}) {
    Plot flat{empty_axis(""), empty_axis(""), {}};
    flat.x.cover(value);
    flat.y.cover(value);
    CHECK_THAT(to_svg(flat), !Contains("nan") && !Contains("inf"));
  }
  CHECK_THAT(bars_svg({{"<&>", 0, 0, ""}}), Contains("&lt;&amp;&gt;") && !Contains("nan"));
  CHECK_THAT(svg_document(bars_svg({})), Contains("<style>"));
}

TEST_CASE("tables keep their columns, whatever cells hold") {
  const Cells cells = {{"name", "value"}, {"a|b,\"c\"\n<d>", "1"}, {"x", "1000"}};
  CHECK_THAT(text_table(cells, "lr", 0), Contains("    1\n") && Contains(" 1000\n"));
  CHECK_THAT(markdown_table(cells, "lr"), Contains("|---|--:|") && Contains("a\\|b"));
  CHECK_THAT(html_table(cells, "lr", {2}), Contains("&lt;d&gt;") && Contains("class=\"bad\""));
  CHECK(csv_table(cells) == "name,value\n\"a|b,\"\"c\"\"\\x0a<d>\",1\nx,1000\n");
}
