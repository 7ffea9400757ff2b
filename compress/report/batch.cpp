#include "compress/report/batch.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

#include "compress/error.h"
#include "compress/report/report.h"

namespace compress {
namespace {

constexpr std::string_view kSchema = "compress.batch/1";
constexpr std::array<std::string_view, 4> kStatusNames = {"done", "kept", "gate failed", "failed"};
constexpr std::array<std::string_view, 5> kMetrics = {"top1", "perplexity", "spearman", "agreement",
                                                      "cosine"};

std::string extension_of(std::string_view path) {
  const size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? "" : std::string(path.substr(dot + 1));
}

std::string cell_of_metric(const BatchRow& row) {
  if (!row.candidate) return "";
  if (!row.reference) return fmt::format("{} {:.4g}", row.metric, *row.candidate);
  return fmt::format("{} {:.4g} -> {:.4g}", row.metric, *row.reference, *row.candidate);
}

using Cells = std::vector<std::string>;

std::vector<Cells> cells_of(const BatchSummary& summary) {
  std::vector<Cells> cells = {
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

std::string csv_field(const std::string& text) {
  const std::string safe = printable(text);
  if (safe.find_first_of(",\"") == std::string::npos) return safe;
  std::string out = "\"";
  for (const char c : safe) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string to_csv(const BatchSummary& summary) {
  std::string out =
      "model,recipe,output,status,input_bytes,output_bytes,metric,reference,candidate,speedup,"
      "seconds,peak_memory_bytes,message\n";
  const auto optional = [](const std::optional<double>& value) {
    return value ? fmt::format("{:.9g}", *value) : "";
  };
  for (const BatchRow& row : summary.rows) {
    out += fmt::format("{},{},{},{},{},{},{},{},{},{},{:.3f},{},{}\n", csv_field(row.model),
                       csv_field(row.recipe), csv_field(row.output), status_name(row.status),
                       row.input_bytes, row.output_bytes, row.metric, optional(row.reference),
                       optional(row.candidate), optional(row.speedup), row.seconds,
                       row.peak_memory_bytes, csv_field(row.message));
  }
  return out;
}

std::string to_markdown(const BatchSummary& summary) {
  std::string out;
  const std::vector<Cells> cells = cells_of(summary);
  for (size_t r = 0; r < cells.size(); ++r) {
    out += "|";
    for (const std::string& cell : cells[r]) out += " " + escape_markdown(cell) + " |";
    out += "\n";
    if (r > 0) continue;
    out += "|";
    for (size_t i = 0; i < cells[r].size(); ++i) out += "---|";
    out += "\n";
  }
  return out + "\n" + totals(summary) + "\n";
}

std::string to_html(const BatchSummary& summary) {
  std::string out =
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<meta name=\"viewport\" content=\"width=device-width\"><title>compress batch</title>"
      "<style>:root{color-scheme:light dark}body{font:15px/1.5 sans-serif;margin:2em auto;"
      "padding:0 1em;max-width:80em}.wide{overflow-x:auto}table{border-collapse:collapse}"
      "td,th{padding:.2em .8em;border-bottom:1px solid #8888;text-align:left}"
      ".bad{color:#c22;font-weight:bold}</style></head><body>\n<h1>compress batch</h1>\n";
  out += fmt::format("<p>{}</p>\n<div class=\"wide\"><table>\n", escape_xml(totals(summary)));
  const std::vector<Cells> cells = cells_of(summary);
  for (size_t r = 0; r < cells.size(); ++r) {
    const bool bad = r > 0 && (summary.rows[r - 1].status == BatchStatus::failed ||
                               summary.rows[r - 1].status == BatchStatus::gate_failed);
    out += bad ? "<tr class=\"bad\">" : "<tr>";
    for (const std::string& cell : cells[r]) {
      out += fmt::format("<{0}>{1}</{0}>", r == 0 ? "th" : "td", escape_xml(cell));
    }
    out += "</tr>\n";
  }
  return out + fmt::format("</table></div>\n<p>compress {}</p>\n</body></html>\n",
                           escape_xml(summary.version));
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

void read_report(const Json& report, BatchRow& row) {
  const auto bytes = [&](const char* side) -> uint64_t {
    const auto found = report.find(side);
    return found != report.end() && found->is_object() ? found->value("bytes", uint64_t{0}) : 0;
  };
  row.input_bytes = bytes("reference");
  row.output_bytes = bytes("candidate");
  const Json metrics = report.value("metrics", Json::object());
  for (const std::string_view name : kMetrics) {
    const auto found = metrics.find(std::string(name));
    if (found == metrics.end()) continue;
    row.metric = name;
    row.candidate = number_in(*found, "candidate");
    row.reference = number_in(*found, "reference");
    break;
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
  const std::vector<Cells> cells = cells_of(summary);
  std::vector<size_t> widths(cells[0].size());
  for (const Cells& row : cells) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const Cells& row : cells) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    line.erase(line.find_last_not_of(' ') + 1);
    out += printable(line) + "\n";
  }
  return out + totals(summary) + "\n";
}

void check_summary_path(std::string_view path) {
  constexpr std::array<std::string_view, 5> kKnown = {"json", "csv", "md", "html", "xml"};
  if (std::find(kKnown.begin(), kKnown.end(), extension_of(path)) == kKnown.end()) {
    fail(ErrorCode::usage,
         "--report {}: the extension says the format, one of json, csv, md, "
         "html, xml (JUnit)",
         path);
  }
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
