#include "compress/report/history.h"

#include <algorithm>

#include "compress/error.h"
#include "compress/report/batch.h"
#include "compress/report/page.h"
#include "compress/report/plot.h"
#include "compress/report/rows.h"

namespace compress {
namespace {

constexpr std::string_view kSchema = "compress.history/1";
constexpr std::string_view kAlign = "llllr";

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::optional<double> number_at(const Json& json, const Json::json_pointer& at) {
  if (!json.contains(at) || !json[at].is_number()) return {};
  return json[at].get<double>();
}

std::optional<Interval> interval_at(const Json& json, const Json::json_pointer& at) {
  if (!json.contains(at) || !json[at].is_array() || json[at].size() != 2) return {};
  const Json& pair = json[at];
  if (!pair[0].is_number() || !pair[1].is_number()) return {};
  return Interval{pair[0].get<double>(), pair[1].get<double>()};
}

void read_measured(const Json& json, HistoryRow& row) {
  using Pointer = Json::json_pointer;
  const Json metrics = json.value("metrics", Json::object());
  row.metric = headline_metric(metrics);
  if (!row.metric.empty()) {
    row.accuracy = number_at(metrics, Pointer("/" + row.metric + "/candidate"));
    row.accuracy_interval =
        interval_at(json, Pointer("/accuracy/intervals/" + row.metric + "/candidate"));
    row.evaluated_on = fmt::format("{}, {} samples", json.value("data", ""),
                                   number_at(json, Pointer("/accuracy/samples")).value_or(0));
  }
  row.latency_ms = number_at(json, Pointer("/speed/0/candidate/median_ms"));
  row.latency_interval = interval_at(json, Pointer("/speed/0/candidate/median_ci"));
  row.speedup = number_at(json, Pointer("/speed/0/speedup"));
  row.speedup_interval = interval_at(json, Pointer("/speed/0/speedup_ci"));
  if (!row.latency_ms) return;
  const Json& machine = json.at("machine");
  const Json& speed = json.at("speed").at(0);
  row.measured_on =
      fmt::format("{}, {}, {} threads, batch {}, {}", machine.at("cpu").get<std::string>(),
                  machine.at("isa").get<std::string>(), speed.at("threads").get<int64_t>(),
                  speed.at("batch").get<int64_t>(), json.value("engine", "compress"));
}

bool apart(const std::optional<Interval>& a, const std::optional<Interval>& b) {
  return a && b && (a->second < b->first || b->second < a->first);
}

void compare(const HistoryRow& before, HistoryRow& row) {
  const auto add = [&](const char* what, bool better) {
    row.changes.push_back(fmt::format("{} {}", what, better ? "better" : "worse"));
  };
  if (row.bytes != before.bytes) add("size", row.bytes < before.bytes);
  if (row.metric == before.metric && row.evaluated_on == before.evaluated_on &&
      apart(row.accuracy_interval, before.accuracy_interval)) {
    add(row.metric.c_str(),
        (*row.accuracy > *before.accuracy) == find_metric(row.metric).higher_is_better);
  }
  if (row.measured_on == before.measured_on &&
      apart(row.latency_interval, before.latency_interval)) {
    add("latency", *row.latency_ms < *before.latency_ms);
  }
}

std::vector<std::string> not_compared(const std::vector<HistoryRow>& rows) {
  std::vector<std::string> notes;
  for (size_t i = 1; i < rows.size(); ++i) {
    const HistoryRow &a = rows[i - 1], &b = rows[i];
    if (!a.measured_on.empty() && !b.measured_on.empty() && a.measured_on != b.measured_on) {
      notes.push_back(
          fmt::format("{}: its times are not compared with those of {}, since it ran "
                      "elsewhere: {}; before: {}",
                      b.file, a.file, b.measured_on, a.measured_on));
    }
    if (a.metric != b.metric || a.evaluated_on != b.evaluated_on) {
      notes.push_back(
          fmt::format("{}: its accuracy is not compared with that of {}, since it was "
                      "measured on other data: {}; before: {}",
                      b.file, a.file, b.evaluated_on, a.evaluated_on));
    }
  }
  return notes;
}

std::string within(const std::string& value, const std::optional<Interval>& interval, int digits,
                   double scale = 1) {
  if (!interval) return value;
  return fmt::format("{} [{:.{}f}, {:.{}f}]", value, interval->first * scale, digits,
                     interval->second * scale, digits);
}

// "2026-01-31 12:00" of 2026-01-31T12:00:00Z.
std::string minutes(const std::string& date) {
  if (date.size() != std::string_view("2026-01-31T12:00:00Z").size()) return date;
  return date.substr(0, 10) + " " + date.substr(11, 5);
}

Cells cells_of(const History& history) {
  Cells cells = {
      {"report", "date", "version", "changed", "size", "accuracy", "latency", "speed-up", "gates"}};
  for (const HistoryRow& row : history.rows) {
    cells.push_back(
        {row.file, minutes(row.date), row.version, fmt::format("{}", fmt::join(row.changes, ", ")),
         human_bytes(row.bytes),
         row.accuracy
             ? within(fmt::format("{} {:.4f}", row.metric, *row.accuracy), row.accuracy_interval, 4)
             : "",
         row.latency_ms ? within(number(*row.latency_ms, "ms"), row.latency_interval,
                                 *row.latency_ms < 0.1 ? 4
                                 : *row.latency_ms < 1 ? 3
                                                       : 2)
                        : "",
         row.speedup ? within(fmt::format("{:.2f}x", *row.speedup), row.speedup_interval, 2) : "",
         row.gates > 0 ? fmt::format("{}/{}", row.gates_passed, row.gates) : ""});
  }
  return cells;
}

Json interval_json(const std::optional<Interval>& interval) {
  return interval ? Json{interval->first, interval->second} : Json(nullptr);
}

Json to_json(const HistoryRow& row) {
  const auto optional = [](const std::optional<double>& value) {
    return value ? Json(*value) : Json(nullptr);
  };
  return {{"file", row.file},
          {"date", row.date},
          {"version", row.version},
          {"candidate", row.candidate},
          {"bytes", row.bytes},
          {"metric", row.metric},
          {"accuracy", optional(row.accuracy)},
          {"accuracy_ci", interval_json(row.accuracy_interval)},
          {"latency_ms", optional(row.latency_ms)},
          {"latency_ci", interval_json(row.latency_interval)},
          {"speedup", optional(row.speedup)},
          {"speedup_ci", interval_json(row.speedup_interval)},
          {"gates", row.gates},
          {"gates_passed", row.gates_passed},
          {"changes", row.changes}};
}

std::string to_csv(const History& history) {
  Cells cells = {{"file", "date", "version", "candidate", "bytes", "metric", "accuracy",
                  "accuracy_low", "accuracy_high", "latency_ms", "latency_low", "latency_high",
                  "speedup", "speedup_low", "speedup_high", "gates", "gates_passed", "changes"}};
  const auto text = [](const std::optional<double>& value) {
    return value ? fmt::format("{:.9g}", *value) : "";
  };
  for (const HistoryRow& row : history.rows) {
    std::vector<std::string> line = {
        row.file, row.date, row.version, row.candidate, std::to_string(row.bytes), row.metric};
    for (const auto& [value, interval] : {std::pair(row.accuracy, row.accuracy_interval),
                                          std::pair(row.latency_ms, row.latency_interval),
                                          std::pair(row.speedup, row.speedup_interval)}) {
      line.push_back(text(value));
      line.push_back(interval ? text(interval->first) : "");
      line.push_back(interval ? text(interval->second) : "");
    }
    line.push_back(std::to_string(row.gates));
    line.push_back(std::to_string(row.gates_passed));
    line.push_back(fmt::format("{}", fmt::join(row.changes, "; ")));
    cells.push_back(std::move(line));
  }
  return csv_table(cells);
}

std::string to_markdown(const History& history) {
  std::string out = fmt::format("### {}\n\n", escape_markdown(history.model)) +
                    markdown_table(cells_of(history), kAlign);
  if (!history.notes.empty()) out += "\n";
  for (const std::string& note : history.notes) out += "- " + escape_markdown(note) + "\n";
  return out;
}

// One value over the runs; those that changed stand out.
struct Trend {
  const char* caption;
  std::string unit;
  const char* change;  // how row.changes calls it
  std::optional<double> (*value)(const HistoryRow&);
  std::optional<Interval> (*interval)(const HistoryRow&);
  double scale = 1;
};

std::string trend_figure(const History& history, const Trend& trend) {
  using Mark = PlotSeries::Mark;
  Plot plot{empty_axis("run"),
            empty_axis(trend.unit),
            {{"", 'm', Mark::line}, {"better", 'b', Mark::dots}, {"worse", 'x', Mark::dots}}};
  plot.width = 300;
  plot.height = 170;
  for (size_t i = 0; i < history.rows.size(); ++i) {
    const HistoryRow& row = history.rows[i];
    plot.x.cover(static_cast<double>(i + 1));
    plot.x.ticks.emplace_back(static_cast<double>(i + 1), std::to_string(i + 1));
    const auto value = trend.value(row);
    if (!value) continue;
    PlotPoint point{static_cast<double>(i + 1), *value * trend.scale,
                    fmt::format("{} {}: {:.5g}", row.file, row.date, *value * trend.scale)};
    plot.y.cover(point.y);
    if (const auto interval = trend.interval(row)) {
      point.interval = {interval->first * trend.scale, interval->second * trend.scale};
      plot.y.cover(point.interval->first);
      plot.y.cover(point.interval->second);
    }
    plot.series[0].points.push_back(point);
    point.large = true;
    point.interval = {};
    for (const std::string& change : row.changes) {
      if (change == std::string(trend.change) + " better") plot.series[1].points.push_back(point);
      if (change == std::string(trend.change) + " worse") plot.series[2].points.push_back(point);
    }
  }
  if (plot.series[0].points.empty()) return "";
  const double room = 0.15 * (plot.y.high - plot.y.low);
  plot.y.low -= room;
  plot.y.high += room;
  return html_figure(trend.caption, to_svg(std::move(plot)));
}

std::string to_html(const History& history) {
  const std::string metric = history.rows.back().metric;
  const Trend trends[] = {
      {"Size", "MB", "size",
       [](const HistoryRow& row) { return std::optional(static_cast<double>(row.bytes)); },
       [](const HistoryRow&) { return std::optional<Interval>(); }, 1e-6},
      {"Accuracy", metric, metric.c_str(), [](const HistoryRow& row) { return row.accuracy; },
       [](const HistoryRow& row) { return row.accuracy_interval; }},
      {"Latency", "ms", "latency", [](const HistoryRow& row) { return row.latency_ms; },
       [](const HistoryRow& row) { return row.latency_interval; }},
      {"Speed-up over the reference", "times", "speed-up",
       [](const HistoryRow& row) { return row.speedup; },
       [](const HistoryRow& row) { return row.speedup_interval; }},
  };
  std::vector<std::string> figures;
  for (const Trend& trend : trends) {
    const std::string figure = trend_figure(history, trend);
    if (!figure.empty()) figures.push_back(figure);
  }
  std::set<size_t> bad;
  for (size_t i = 0; i < history.rows.size(); ++i) {
    if (history.rows[i].gates_passed < history.rows[i].gates) bad.insert(i + 1);
  }
  const std::string body =
      html_heading(
          "compress report", history.model,
          {fmt::format("{} runs, {} to {}", history.rows.size(), minutes(history.rows.front().date),
                       minutes(history.rows.back().date))}) +
      html_section("Over time", html_figures(figures, true)) +
      html_section("Runs", html_table(cells_of(history), kAlign, bad) +
                               html_paragraph("Brackets and whiskers are 95 % confidence "
                                              "intervals. A change of accuracy or latency is told "
                                              "only where two of them do not meet.")) +
      html_section("Notes", html_list(history.notes));
  return html_page("compress report: " + history.model, body);
}

}  // namespace

HistoryRow read_history_row(std::string_view text, std::string_view what) {
  const Json json = parse_json(text, what);
  const Json schema = json.is_object() ? json.value("schema", Json()) : Json();
  if (schema == "compress.batch/1") {
    fail(ErrorCode::usage, "{} is the summary of a batch; name the reports beside its outputs",
         what);
  }
  if (schema != "compress.report/1") {
    fail(ErrorCode::usage, "{} is no report of this program (compress.report/1)", what);
  }
  try {
    if (!json.contains("reference") || !json.contains("candidate")) {
      fail(ErrorCode::usage, "{} compares no two models", what);
    }
    HistoryRow row;
    row.file = what;
    row.date = json.value("date", "");
    row.version = json.at("tool").at("version").get<std::string>();
    row.reference = base_name(json["reference"].at("path").get<std::string>());
    row.candidate = base_name(json["candidate"].at("path").get<std::string>());
    row.bytes = json["candidate"].at("bytes").get<uint64_t>();
    read_measured(json, row);
    for (const Json& gate : json.value("gates", Json::array())) {
      ++row.gates;
      row.gates_passed += gate.at("passed").get<bool>();
    }
    return row;
  } catch (const Json::exception& error) {
    fail(ErrorCode::usage, "{} is no whole report: {}", what, error.what());
  }
}

History history_of(std::vector<HistoryRow> rows) {
  for (const HistoryRow& row : rows) {
    if (row.reference == rows[0].reference) continue;
    fail(ErrorCode::usage, "{} is about {} and {} about {}; reports of one model are compared",
         rows[0].file, rows[0].reference, row.file, row.reference);
  }
  const bool dated = std::none_of(rows.begin(), rows.end(),
                                  [](const HistoryRow& row) { return row.date.empty(); });
  if (dated) {
    std::stable_sort(rows.begin(), rows.end(),
                     [](const HistoryRow& a, const HistoryRow& b) { return a.date < b.date; });
  }
  for (size_t i = 1; i < rows.size(); ++i) compare(rows[i - 1], rows[i]);
  const std::string model = rows[0].reference;
  std::vector<std::string> notes = not_compared(rows);
  return {model, std::move(rows), std::move(notes)};
}

std::string to_table(const History& history) {
  std::string out = printable(history.model) + "\n" + text_table(cells_of(history), kAlign, 0);
  for (const std::string& note : history.notes) out += "note: " + printable(note) + "\n";
  return out;
}

void check_history_path(std::string_view path) {
  check_extension("-o", path, {"html", "md", "csv", "json"});
}

std::string render(const History& history, std::string_view path) {
  check_history_path(path);
  const std::string extension = extension_of(path);
  if (extension == "csv") return to_csv(history);
  if (extension == "md") return to_markdown(history);
  if (extension == "html") return to_html(history);
  Json json = {{"schema", kSchema}, {"model", history.model}, {"rows", Json::array()}};
  for (const HistoryRow& row : history.rows) json["rows"].push_back(to_json(row));
  json["notes"] = history.notes;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace compress
