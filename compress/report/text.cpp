#include <algorithm>
#include <cmath>
#include <map>

#include "compress/error.h"
#include "compress/report/report.h"

namespace compress {
namespace {

// One line of the summary, shared by the terminal, Markdown and HTML.
struct Line {
  std::string label;
  std::string reference;
  std::string candidate;
  std::string change;
};

std::string number(double value, std::string_view unit) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? (unit == "dB" ? "exact" : "inf") : "-inf";
  if (unit == "bytes") return human_bytes(static_cast<uint64_t>(std::max(value, 0.0)));
  if (unit == "dB") return fmt::format("{:.1f} dB", value);
  if (unit == "ms") return fmt::format("{:.{}f} ms", value, value < 1 ? 3 : value < 100 ? 2 : 1);
  if (unit == "1/s") return fmt::format("{:.{}f} /s", value, value < 100 ? 1 : 0);
  if (value != 0 && std::fabs(value) < 1e-3) return fmt::format("{:.2e}", value);
  return fmt::format("{:.4f}", value);
}

std::string count(int64_t value) {
  if (value >= 10'000'000) return fmt::format("{:.1f} M", static_cast<double>(value) / 1e6);
  return fmt::format("{}", value);
}

std::string times(double reference, double candidate) {
  return reference > 0 ? fmt::format("x {:.3f}", candidate / reference) : "";
}

void add_models(const Report& report, std::vector<Line>& lines) {
  if (!report.reference) return;
  const ModelSummary& a = *report.reference;
  if (!report.candidate) {
    lines.push_back({"size", human_bytes(a.bytes), "", ""});
    lines.push_back({"parameters", count(a.parameters), "", ""});
    return;
  }
  const ModelSummary& b = *report.candidate;
  lines.push_back({"size", human_bytes(a.bytes), human_bytes(b.bytes),
                   times(static_cast<double>(a.bytes), static_cast<double>(b.bytes))});
  lines.push_back({"parameters", count(a.parameters), count(b.parameters), ""});
  lines.push_back({"nodes", count(a.nodes), count(b.nodes), ""});
  if (a.sparsity >= 5e-4 || b.sparsity >= 5e-4) {
    lines.push_back({"weights that are zero", fmt::format("{:.1f} %", 100 * a.sparsity),
                     fmt::format("{:.1f} %", 100 * b.sparsity), ""});
  }
}

void add_quality(const Report& report, std::vector<Line>& lines) {
  if (!report.evaluation) return;
  for (const MetricDef& metric : all_metrics()) {
    if (const auto row = report.evaluation->accuracy.find(metric.name);
        row != report.evaluation->accuracy.end()) {
      const Measured& value = row->second;
      const double change = value.candidate - value.reference;
      lines.push_back({std::string(metric.name), number(value.reference, metric.unit),
                       number(value.candidate, metric.unit),
                       metric.unit == "fraction" ? fmt::format("{:+.2f} points", 100 * change)
                                                 : fmt::format("{:+.4f}", change)});
    } else if (const auto same = report.evaluation->similarity.find(metric.name);
               same != report.evaluation->similarity.end() && metric.name != "mse" &&
               metric.name != "psnr") {
      lines.push_back(
          {std::string(metric.name), "", number(same->second.candidate, metric.unit), ""});
    }
  }
}

void add_cost(const Report& report, std::vector<Line>& lines) {
  for (const SpeedRow& row : report.speed) {
    const Benchmark& b = row.benchmark;
    const std::string where = fmt::format("{}, {} thread{}, batch {}", row.device, row.threads,
                                          row.threads == 1 ? "" : "s", row.batch);
    lines.push_back(
        {"latency (" + where + ")", number(b.reference.median_ms, "ms"),
         number(b.candidate.median_ms, "ms"),
         fmt::format("{:.2f}x faster [{:.2f}, {:.2f}]", b.speedup, b.speedup_low, b.speedup_high)});
    if (b.speedup < 1) {
      lines.back().change = fmt::format("{:.2f}x slower [{:.2f}, {:.2f}]", 1 / b.speedup,
                                        1 / b.speedup_high, 1 / b.speedup_low);
    }
    lines.push_back(
        {"latency, 90 % / 99 %",
         fmt::format("{} / {}", number(b.reference.p90_ms, "ms"), number(b.reference.p99_ms, "ms")),
         fmt::format("{} / {}", number(b.candidate.p90_ms, "ms"), number(b.candidate.p99_ms, "ms")),
         ""});
    lines.push_back({"throughput", number(b.reference.throughput, "1/s"),
                     number(b.candidate.throughput, "1/s"), ""});
  }
  if (report.reference_use && report.candidate_use) {
    const ResourceUse& a = *report.reference_use;
    const ResourceUse& b = *report.candidate_use;
    lines.push_back({"peak memory", human_bytes(a.peak_memory_bytes),
                     human_bytes(b.peak_memory_bytes),
                     times(static_cast<double>(a.peak_memory_bytes),
                           static_cast<double>(b.peak_memory_bytes))});
    lines.push_back({"processor use", fmt::format("{:.0f} %", a.cpu_percent),
                     fmt::format("{:.0f} %", b.cpu_percent), ""});
  }
}

std::vector<Line> lines_of(const Report& report) {
  std::vector<Line> lines;
  add_models(report, lines);
  add_quality(report, lines);
  add_cost(report, lines);
  return lines;
}

// The load test as rows of cells; the first row is the head.
std::vector<std::vector<std::string>> load_cells(const Report& report) {
  std::vector<std::vector<std::string>> rows = {{"clients", "batch", "reference p50 / p90 / p99",
                                                 "throughput", "candidate p50 / p90 / p99",
                                                 "throughput", "gain"}};
  const auto times_of = [](const LoadSide& side) {
    return fmt::format("{:.2f} / {:.2f} / {:.2f} ms", side.timing.median_ms, side.timing.p90_ms,
                       side.timing.p99_ms);
  };
  for (const LoadRow& row : report.load) {
    rows.push_back(
        {fmt::format("{} x {} thread{}", row.concurrency, row.threads, row.threads == 1 ? "" : "s"),
         std::to_string(row.batch), times_of(row.reference),
         number(row.reference.timing.throughput, "1/s"), times_of(row.candidate),
         number(row.candidate.timing.throughput, "1/s"), fmt::format("{:.2f}x", row.speedup)});
  }
  return rows;
}

std::string load_table(const Report& report) {
  if (report.load.empty()) return "";
  const auto rows = load_cells(report);
  std::vector<size_t> width(rows[0].size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  }
  std::string out = "under load (throughput in samples)\n";
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      out += fmt::format("  {:>{}}", row[i], width[i]);
    }
    out += "\n";
  }
  return out;
}

std::string load_markdown(const Report& report) {
  if (report.load.empty()) return "";
  std::string out = "\nUnder load (throughput in samples):\n\n";
  const auto rows = load_cells(report);
  for (size_t i = 0; i < rows.size(); ++i) {
    out += fmt::format("| {} |\n", fmt::join(rows[i], " | "));
    if (i == 0) out += "|--:|--:|--:|--:|--:|--:|--:|\n";
  }
  return out;
}

std::string load_html(const Report& report) {
  if (report.load.empty()) return "";
  std::string out = "<h2>Under load</h2><table>\n";
  const auto rows = load_cells(report);
  for (size_t i = 0; i < rows.size(); ++i) {
    const char* cell = i == 0 ? "th" : "td";
    out += "<tr>";
    for (const std::string& text : rows[i]) out += fmt::format("<{0}>{1}</{0}>", cell, text);
    out += "</tr>\n";
  }
  return out + "</table>\n";
}

// "kept in float: 12 nodes: reason (first, second, ...)", most frequent first.
std::vector<std::string> skip_lines(const Report& report) {
  std::map<std::string, std::vector<std::string>> by_reason;
  for (const PassSummary& pass : report.passes) {
    // What optimize leaves before another step is of no interest to whoever runs that step.
    if (pass.step == "optimize" && report.command != "optimize") continue;
    for (const auto& skip : pass.skipped) {
      by_reason[pass.name + ": " + skip.reason].push_back(skip.node);
    }
  }
  std::vector<const std::pair<const std::string, std::vector<std::string>>*> rows;
  for (const auto& row : by_reason) rows.push_back(&row);
  std::stable_sort(rows.begin(), rows.end(), [](const auto* a, const auto* b) {
    return a->second.size() > b->second.size();
  });
  std::vector<std::string> out;
  constexpr size_t kMost = 8;
  for (size_t i = 0; i < rows.size() && i < kMost; ++i) {
    const auto& nodes = rows[i]->second;
    if (nodes[0].empty()) {  // of the whole model
      out.push_back(rows[i]->first);
      continue;
    }
    out.push_back(fmt::format("{}: {} node{} ({}{})", rows[i]->first, nodes.size(),
                              nodes.size() == 1 ? "" : "s", nodes[0],
                              nodes.size() > 1 ? ", ..." : ""));
  }
  if (rows.size() > kMost) {
    out.push_back(
        fmt::format("and {} more reasons; --report x.json lists all", rows.size() - kMost));
  }
  return out;
}

std::vector<const LayerSimilarity*> worst_layers(const Report& report, size_t most) {
  std::vector<const LayerSimilarity*> rows;
  for (const LayerSimilarity& row : report.layers) {
    if (!std::isinf(row.sqnr_db)) rows.push_back(&row);
  }
  const auto worse = [](const LayerSimilarity* a, const LayerSimilarity* b) {
    if (std::isnan(a->sqnr_db) || std::isnan(b->sqnr_db)) {
      return std::isnan(a->sqnr_db) && !std::isnan(b->sqnr_db);
    }
    return a->sqnr_db < b->sqnr_db;
  };
  std::stable_sort(rows.begin(), rows.end(), worse);
  if (rows.size() > most) rows.resize(most);
  return rows;
}

// Columns of a terminal; characters beyond ASCII in names may shift a line, which is harmless.
std::string columns(const std::vector<Line>& lines) {
  size_t width[3] = {0, std::string_view("reference").size(), std::string_view("candidate").size()};
  for (const Line& line : lines) {
    width[0] = std::max(width[0], line.label.size());
    width[1] = std::max(width[1], line.reference.size());
    width[2] = std::max(width[2], line.candidate.size());
  }
  std::string out;
  const auto add = [&](const Line& line) {
    std::string row = fmt::format("{:<{}}  {:>{}}  {:>{}}  {}", line.label, width[0],
                                  line.reference, width[1], line.candidate, width[2], line.change);
    row.erase(row.find_last_not_of(' ') + 1);
    out += row + "\n";
  };
  add({"", "reference", "candidate", ""});
  for (const Line& line : lines) add(line);
  return out;
}

std::string data_line(const Report& report) {
  const std::string engine = report.engine == "compress" ? "" : "; engine: " + report.engine;
  if (!report.evaluation) return fmt::format("data: {}{}", report.data, engine);
  return fmt::format("data: {}; {} samples{}{}", report.data, report.evaluation->samples,
                     report.evaluation->labelled ? "" : ", no labels", engine);
}

std::string verdict(const Report& report) { return report.passed() ? "PASSED" : "FAILED"; }

std::string extension_of(std::string_view path) {
  const size_t dot = path.rfind('.');
  return dot == std::string_view::npos ? "" : std::string(path.substr(dot + 1));
}

}  // namespace

std::string escape_markdown(std::string_view text) {
  std::string out;
  for (const char c : printable(text)) {
    if (c == '|' || c == '<' || c == '*' || c == '_' || c == '`') out += '\\';
    out += c;
  }
  return out;
}

std::string escape_xml(std::string_view text) {
  std::string out;
  for (const char c : printable(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string human_bytes(uint64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes < 1000) return fmt::format("{} B", bytes);
  if (bytes < 1'000'000) return fmt::format("{:.1f} kB", value / 1e3);
  if (bytes < 1'000'000'000) return fmt::format("{:.2f} MB", value / 1e6);
  return fmt::format("{:.2f} GB", value / 1e9);
}

std::string to_table(const Report& report) {
  std::string out;
  if (report.candidate) {
    out += fmt::format("{} -> {}\n", printable(report.reference->path),
                       printable(report.candidate->path));
  }
  if (report.explanation) out += explanation_lines(*report.explanation);
  out += columns(lines_of(report));
  out += load_table(report);
  if (report.search) out += search_table(*report.search);
  if (report.sensitivity) out += sensitivity_table(*report.sensitivity);
  out += printable(data_line(report)) + "\n";
  const auto worst = worst_layers(report, 3);
  if (!worst.empty()) {
    out += "most distorted:";
    for (const LayerSimilarity* row : worst) {
      out += fmt::format(" {} ({}) {:.1f} dB{}", printable(row->name), row->op, row->sqnr_db,
                         row == worst.back() ? "\n" : ",");
    }
  }
  for (const std::string& line : skip_lines(report)) out += "left: " + printable(line) + "\n";
  for (const std::string& note : report.notes) out += "note: " + printable(note) + "\n";
  for (const GateResult& gate : report.gates) {
    out += fmt::format("gate: {} is {:.6g}: {}\n", gate.expression, gate.value,
                       gate.passed ? "passed" : "FAILED");
  }
  if (report.explanation) out += explanation_table(*report.explanation);
  if (!report.gates.empty()) out += verdict(report) + "\n";
  return out;
}

std::string to_markdown(const Report& report) {
  std::string out = fmt::format("### compress {}: {}\n\n", report.command,
                                report.gates.empty() ? "done" : verdict(report));
  if (report.reference && report.candidate) {
    out += fmt::format("`{}` -> `{}`\n\n", printable(report.reference->path),
                       printable(report.candidate->path));
  }
  if (report.explanation) {
    for (const std::string& line : report.explanation->why) {
      out += "- " + escape_markdown(line) + "\n";
    }
    out += "\n";
  }
  out += "| | reference | candidate | |\n|---|--:|--:|---|\n";
  for (const Line& line : lines_of(report)) {
    out += fmt::format("| {} | {} | {} | {} |\n", line.label, line.reference, line.candidate,
                       line.change);
  }
  out += load_markdown(report);
  if (report.search) out += search_markdown(*report.search);
  if (report.sensitivity) out += sensitivity_markdown(*report.sensitivity);
  out += "\n" + escape_markdown(data_line(report)) + "\n";
  if (!report.gates.empty()) {
    out += "\n| gate | value | |\n|---|--:|---|\n";
    for (const GateResult& gate : report.gates) {
      out += fmt::format("| `{}` | {:.6g} | {} |\n", gate.expression, gate.value,
                         gate.passed ? "passed" : "**FAILED**");
    }
  }
  const auto skipped = skip_lines(report);
  if (!skipped.empty() || !report.notes.empty()) out += "\n";
  for (const std::string& line : skipped) out += "- " + escape_markdown(line) + "\n";
  for (const std::string& note : report.notes) out += "- " + escape_markdown(note) + "\n";
  const auto worst = worst_layers(report, 10);
  if (!worst.empty()) {
    out +=
        "\n<details><summary>Most distorted layers</summary>\n\n| layer | op | SQNR |\n"
        "|---|---|--:|\n";
    for (const LayerSimilarity* row : worst) {
      out += fmt::format("| {} | {} | {:.1f} dB |\n", escape_markdown(row->name), row->op,
                         row->sqnr_db);
    }
    out += "\n</details>\n";
  }
  if (report.explanation) out += explanation_markdown(*report.explanation);
  out += fmt::format("\n{}, {}, {} threads; compress {}\n", report.machine.cpu, report.machine.isa,
                     report.machine.threads, report.version);
  return out;
}

std::string to_html(const Report& report) {
  std::string out =
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>compress "
      "report</title>"
      "<style>body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
      "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid "
      "#ccc;text-align:right}td:first-child,td:last-child{text-align:left}"
      ".bad{color:#b00;font-weight:bold}</style></head><body>\n";
  out += fmt::format("<h1>compress {}: {}</h1>\n", escape_xml(report.command),
                     report.gates.empty() ? "done" : verdict(report));
  if (report.reference && report.candidate) {
    out += fmt::format("<p>{} &rarr; {}</p>\n", escape_xml(report.reference->path),
                       escape_xml(report.candidate->path));
  }
  if (report.explanation) {
    out += "<ul>\n";
    for (const std::string& line : report.explanation->why) {
      out += fmt::format("<li>{}</li>\n", escape_xml(line));
    }
    out += "</ul>\n";
  }
  out += "<table><tr><th></th><th>reference</th><th>candidate</th><th></th></tr>\n";
  for (const Line& line : lines_of(report)) {
    out += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                       escape_xml(line.label), escape_xml(line.reference),
                       escape_xml(line.candidate), escape_xml(line.change));
  }
  out += "</table>\n" + load_html(report);
  out += training_html(report);
  if (report.search) out += search_html(*report.search);
  if (report.sensitivity) out += sensitivity_html(*report.sensitivity);
  out += fmt::format("<p>{}</p>\n", escape_xml(data_line(report)));
  if (!report.gates.empty()) out += "<h2>Gates</h2><table>\n";
  for (const GateResult& gate : report.gates) {
    out += fmt::format("<tr><td>{}</td><td>{:.6g}</td><td{}>{}</td></tr>\n",
                       escape_xml(gate.expression), gate.value, gate.passed ? "" : " class=\"bad\"",
                       gate.passed ? "passed" : "failed");
  }
  if (!report.gates.empty()) out += "</table>\n";
  if (!report.layers.empty()) {
    out += "<h2>Layers</h2><table><tr><th>layer</th><th>op</th><th>SQNR</th></tr>\n";
    for (const LayerSimilarity& row : report.layers) {
      out += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td></tr>\n", escape_xml(row.name),
                         escape_xml(row.op), number(row.sqnr_db, "dB"));
    }
    out += "</table>\n";
  }
  if (report.explanation) out += explanation_html(*report.explanation);
  if (!report.kernels.empty()) {
    out += "<h2>Kernels</h2><table><tr><th>node</th><th>op</th><th>ms</th><th>kernel</th></tr>\n";
    for (const KernelRow& row : report.kernels) {
      out += fmt::format("<tr><td>{}</td><td>{}</td><td>{:.3f}</td><td>{}</td></tr>\n",
                         escape_xml(row.node), escape_xml(row.op), row.ms, escape_xml(row.kernel));
    }
    out += "</table>\n";
  }
  out += "<ul>\n";
  for (const std::string& line : skip_lines(report)) {
    out += fmt::format("<li>{}</li>\n", escape_xml(line));
  }
  for (const std::string& note : report.notes) {
    out += fmt::format("<li>{}</li>\n", escape_xml(note));
  }
  out += fmt::format("</ul>\n<p>{}, {}, {} threads; compress {}</p>\n</body></html>\n",
                     escape_xml(report.machine.cpu), escape_xml(report.machine.isa),
                     report.machine.threads, escape_xml(report.version));
  return out;
}

std::string to_junit(const Report& report) {
  const auto failures = std::count_if(report.gates.begin(), report.gates.end(),
                                      [](const GateResult& gate) { return !gate.passed; });
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  const std::string totals = fmt::format("tests=\"{}\" failures=\"{}\" time=\"{:.3f}\"",
                                         report.gates.size(), failures, report.seconds);
  out += fmt::format("<testsuites {0}>\n<testsuite name=\"compress {1}\" {0}>\n", totals,
                     escape_xml(report.command));
  for (const GateResult& gate : report.gates) {
    out += fmt::format("<testcase classname=\"gate\" name=\"{}\"", escape_xml(gate.expression));
    if (gate.passed) {
      out += "/>\n";
    } else {
      out += fmt::format(">\n<failure message=\"value {:.6g}\"/>\n</testcase>\n", gate.value);
    }
  }
  return out + "</testsuite>\n</testsuites>\n";
}

void check_report_path(std::string_view path) {
  const std::string extension = extension_of(path);
  for (const char* known : {"json", "md", "html", "xml"}) {
    if (extension == known) return;
  }
  fail(ErrorCode::usage,
       "--report {}: the extension chooses the format; one of .json .md .html .xml", path);
}

std::string render(const Report& report, std::string_view path) {
  check_report_path(path);
  const std::string extension = extension_of(path);
  if (extension == "md") return to_markdown(report);
  if (extension == "html") return to_html(report);
  if (extension == "xml") return to_junit(report);
  // Names from a model may hold bytes that are no UTF-8; they are replaced, not refused.
  return to_json(report).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace compress
