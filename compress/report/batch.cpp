#include "compress/report/batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

#include "compress/error.h"
#include "compress/report/page.h"
#include "compress/report/report.h"
#include "compress/report/tables.h"

namespace compress {
namespace {

constexpr std::string_view kSchema = "compress.batch/1";
constexpr std::string_view kAlign = "lllrrlrrrl";
constexpr std::array<std::string_view, 4> kStatusNames = {"done", "kept", "gate failed", "failed"};
constexpr std::array<std::string_view, 5> kMetrics = {"top1", "perplexity", "spearman", "agreement",
                                                      "cosine"};

std::string cell_of_metric(const BatchRow& row) {
  if (!row.candidate) return "";
  if (!row.reference) return fmt::format("{} {:.4g}", row.metric, *row.candidate);
  return fmt::format("{} {:.4g} -> {:.4g}", row.metric, *row.reference, *row.candidate);
}

Cells cells_of(const BatchSummary& summary) {
  Cells cells = {
      {"model", "recipe", "status", "size", "", "accuracy", "speed", "time", "memory", "note"}};
  for (const BatchRow& row : summary.rows) {
    const bool sized = row.wrote() && row.input_bytes > 0;
    cells.push_back({row.model, row.recipe, std::string(status_name(row.status)),
                     sized ? human_bytes(row.output_bytes) : "",
                     sized ? fmt::format("x {:.3f}", static_cast<double>(row.output_bytes) /
                                                         static_cast<double>(row.input_bytes))
                           : "",
                     cell_of_metric(row), row.speedup ? fmt::format("{:.2f}x", *row.speedup) : "",
                     row.seconds > 0 ? fmt::format("{:.1f} s", row.seconds) : "",
                     row.peak_memory_bytes > 0 ? human_bytes(row.peak_memory_bytes) : "",
                     row.message});
  }
  return cells;
}

std::string totals(const BatchSummary& summary) {
  std::string text = fmt::format("{} outputs:", summary.rows.size());
  for (const BatchStatus status :
       {BatchStatus::done, BatchStatus::kept, BatchStatus::gate_failed, BatchStatus::failed}) {
    const int64_t count = summary.count(status);
    if (count > 0) text += fmt::format(" {} {},", count, status_name(status));
  }
  text.back() = ';';
  return text + fmt::format(" {:.1f} s, at most {} at once", summary.seconds,
                            human_bytes(summary.peak_memory_bytes));
}

std::string to_csv(const BatchSummary& summary) {
  Cells cells = {{"model", "recipe", "output", "status", "input_bytes", "output_bytes", "metric",
                  "reference", "candidate", "speedup", "seconds", "peak_memory_bytes", "message"}};
  const auto optional = [](const std::optional<double>& value) {
    return value ? fmt::format("{:.9g}", *value) : "";
  };
  for (const BatchRow& row : summary.rows) {
    cells.push_back({row.model, row.recipe, row.output, std::string(status_name(row.status)),
                     std::to_string(row.input_bytes), std::to_string(row.output_bytes), row.metric,
                     optional(row.reference), optional(row.candidate), optional(row.speedup),
                     fmt::format("{:.3f}", row.seconds), std::to_string(row.peak_memory_bytes),
                     row.message});
  }
  return csv_table(cells);
}

std::string to_markdown(const BatchSummary& summary) {
  return markdown_table(cells_of(summary), kAlign) + "\n" + totals(summary) + "\n";
}

Tile tile_of(const BatchSummary& summary, BatchStatus status, bool bad) {
  const int64_t count = summary.count(status);
  return {std::string(status_name(status)), std::to_string(count), "", bad && count > 0};
}

std::string to_html(const BatchSummary& summary) {
  std::set<size_t> bad;
  for (size_t i = 0; i < summary.rows.size(); ++i) {
    const BatchStatus status = summary.rows[i].status;
    if (status == BatchStatus::failed || status == BatchStatus::gate_failed) bad.insert(i + 1);
  }
  const std::string body =
      html_heading("compress batch", fmt::format("{} outputs", summary.rows.size()),
                   {totals(summary)}) +
      html_tiles({tile_of(summary, BatchStatus::done, false),
                  tile_of(summary, BatchStatus::kept, false),
                  tile_of(summary, BatchStatus::gate_failed, true),
                  tile_of(summary, BatchStatus::failed, true)}) +
      html_section("Models", html_table(cells_of(summary), kAlign, bad)) +
      fmt::format("<footer>compress {}</footer>\n", escape_xml(summary.version));
  return html_page("compress batch", body);
}

// A test case an output: a gate that fails is a failure, a run that fails an error.
std::string to_junit(const BatchSummary& summary) {
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  const std::string counts = fmt::format(
      "tests=\"{}\" failures=\"{}\" errors=\"{}\" time=\"{:.3f}\"", summary.rows.size(),
      summary.count(BatchStatus::gate_failed), summary.count(BatchStatus::failed), summary.seconds);
  out += fmt::format("<testsuites {0}>\n<testsuite name=\"compress batch\" {0}>\n", counts);
  for (const BatchRow& row : summary.rows) {
    out += fmt::format("<testcase classname=\"{}\" name=\"{}\" time=\"{:.3f}\"",
                       escape_xml(row.recipe), escape_xml(row.model), row.seconds);
    if (row.status == BatchStatus::done || row.status == BatchStatus::kept) {
      out += "/>\n";
    } else {
      out += fmt::format(">\n<{} message=\"{}\"/>\n</testcase>\n",
                         row.status == BatchStatus::failed ? "error" : "failure",
                         escape_xml(row.message));
    }
  }
  return out + "</testsuite>\n</testsuites>\n";
}

Json to_json(const BatchRow& row) {
  Json json = {{"model", row.model},
               {"recipe", row.recipe},
               {"output", row.output},
               {"status", status_name(row.status)},
               {"input_bytes", row.input_bytes},
               {"output_bytes", row.output_bytes}};
  if (row.candidate) {
    json["metric"] = {{"name", row.metric}, {"candidate", *row.candidate}};
    if (row.reference) json["metric"]["reference"] = *row.reference;
  }
  if (row.speedup) json["speedup"] = *row.speedup;
  json["seconds"] = row.seconds;
  json["peak_memory_bytes"] = row.peak_memory_bytes;
  if (!row.message.empty()) json["message"] = row.message;
  return json;
}

std::optional<double> number_in(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_number()) return {};
  return object[key].get<double>();
}

BatchRow read_row(const Json& json) {
  BatchRow row;
  row.model = json.at("model").get<std::string>();
  row.recipe = json.at("recipe").get<std::string>();
  row.output = json.at("output").get<std::string>();
  const auto status =
      std::find(kStatusNames.begin(), kStatusNames.end(), json.at("status").get<std::string>());
  if (status == kStatusNames.end()) fail(ErrorCode::usage, "an unknown status");
  row.status = static_cast<BatchStatus>(status - kStatusNames.begin());
  row.input_bytes = json.at("input_bytes").get<uint64_t>();
  row.output_bytes = json.at("output_bytes").get<uint64_t>();
  if (json.contains("metric")) {
    row.metric = json["metric"].at("name").get<std::string>();
    row.candidate = number_in(json["metric"], "candidate");
    row.reference = number_in(json["metric"], "reference");
  }
  row.speedup = number_in(json, "speedup");
  row.seconds = json.at("seconds").get<double>();
  row.peak_memory_bytes = json.at("peak_memory_bytes").get<uint64_t>();
  row.message = json.value("message", "");
  return row;
}

}  // namespace

std::string_view status_name(BatchStatus status) {
  return kStatusNames[static_cast<size_t>(status)];
}

int64_t BatchSummary::count(BatchStatus status) const {
  return std::count_if(rows.begin(), rows.end(),
                       [&](const BatchRow& row) { return row.status == status; });
}

std::string_view headline_metric(const Json& metrics) {
  const auto found = std::find_if(kMetrics.begin(), kMetrics.end(), [&](std::string_view name) {
    return metrics.contains(std::string(name));
  });
  return found == kMetrics.end() ? std::string_view() : *found;
}

void read_report(const Json& report, BatchRow& row) {
  const auto bytes = [&](const char* side) -> uint64_t {
    const auto found = report.find(side);
    return found != report.end() && found->is_object() ? found->value("bytes", uint64_t{0}) : 0;
  };
  row.input_bytes = bytes("reference");
  row.output_bytes = bytes("candidate");
  const Json metrics = report.value("metrics", Json::object());
  row.metric = headline_metric(metrics);
  if (!row.metric.empty()) {
    row.candidate = number_in(metrics[row.metric], "candidate");
    row.reference = number_in(metrics[row.metric], "reference");
  }
  if (metrics.contains("speedup")) row.speedup = number_in(metrics["speedup"], "candidate");
  row.message = report.value("note", "");
}

Json to_json(const BatchSummary& summary) {
  Json json = {{"schema", kSchema},
               {"version", summary.version},
               {"seconds", summary.seconds},
               {"peak_memory_bytes", summary.peak_memory_bytes},
               {"rows", Json::array()}};
  for (const BatchRow& row : summary.rows) json["rows"].push_back(to_json(row));
  return json;
}

BatchSummary read_summary(std::string_view text, std::string_view what) {
  const Json json = parse_json(text, what);
  if (!json.is_object() || json.value("schema", Json()) != Json(std::string(kSchema))) {
    fail(ErrorCode::usage, "{} is no summary of a batch (schema {})", what, kSchema);
  }
  try {
    BatchSummary summary;
    summary.version = json.at("version").get<std::string>();
    summary.seconds = json.at("seconds").get<double>();
    summary.peak_memory_bytes = json.at("peak_memory_bytes").get<uint64_t>();
    for (const Json& row : json.at("rows")) summary.rows.push_back(read_row(row));
    return summary;
  } catch (const Json::exception& error) {
    fail(ErrorCode::usage, "{} is no summary of a batch: {}", what, error.what());
  }
}

BatchSummary merge(const std::vector<BatchSummary>& parts) {
  BatchSummary all;
  std::set<std::string> outputs;
  for (const BatchSummary& part : parts) {
    all.version = part.version;
    all.seconds = std::max(all.seconds, part.seconds);
    all.peak_memory_bytes = std::max(all.peak_memory_bytes, part.peak_memory_bytes);
    for (const BatchRow& row : part.rows) {
      if (!outputs.insert(row.output).second) {
        fail(ErrorCode::usage, "two summaries tell of {}: shards do not overlap", row.output);
      }
      all.rows.push_back(row);
    }
  }
  std::sort(all.rows.begin(), all.rows.end(), [](const BatchRow& a, const BatchRow& b) {
    return std::tie(a.model, a.recipe) < std::tie(b.model, b.recipe);
  });
  return all;
}

std::string to_table(const BatchSummary& summary) {
  return text_table(cells_of(summary), kAlign, 0) + totals(summary) + "\n";
}

void check_summary_path(std::string_view path) {
  check_extension("--report", path, {"json", "csv", "md", "html", "xml"});
}

std::string render(const BatchSummary& summary, std::string_view path) {
  check_summary_path(path);
  const std::string extension = extension_of(path);
  if (extension == "csv") return to_csv(summary);
  if (extension == "md") return to_markdown(summary);
  if (extension == "html") return to_html(summary);
  if (extension == "xml") return to_junit(summary);
  return to_json(summary).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace compress
