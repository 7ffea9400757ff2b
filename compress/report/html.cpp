// The report as one page that needs nothing else.
#include <algorithm>
#include <cmath>
#include <map>

#include "compress/error.h"
#include "compress/report/page.h"
#include "compress/report/plot.h"
#include "compress/report/rows.h"

namespace compress {
namespace {

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// --- What matters most ---------------------------------------------------------------------------

std::string heading(const Report& report) {
  std::vector<std::string> lines;
  std::string title = report.command;
  if (report.reference) title = base_name(report.reference->path);
  if (report.reference && report.candidate) {
    title += " → " + base_name(report.candidate->path);
    lines.push_back(report.reference->path + " → " + report.candidate->path);
  }
  lines.push_back(
      fmt::format("{}compress {}", report.date.empty() ? "" : report.date + ", ", report.version));
  if (!report.note.empty()) lines.push_back(report.note);
  return html_heading("compress " + report.command, title, lines);
}

std::optional<Tile> accuracy_tile(const Report& report) {
  if (!report.evaluation) return {};
  for (const char* name : {"top1", "perplexity", "spearman"}) {
    const auto row = report.evaluation->accuracy.find(name);
    if (row == report.evaluation->accuracy.end()) continue;
    const MetricDef& metric = find_metric(name);
    return Tile{name, number(row->second.candidate, metric.unit),
                "was " + number(row->second.reference, metric.unit)};
  }
  const auto row = report.evaluation->similarity.find("cosine");
  if (row == report.evaluation->similarity.end()) return {};
  return Tile{"cosine", number(row->second.candidate, ""), "to the reference's output"};
}

std::string tiles(const Report& report) {
  std::vector<Tile> tiles;
  if (report.reference && report.candidate && report.reference->bytes > 0) {
    tiles.push_back({"size", human_bytes(report.candidate->bytes),
                     fmt::format("x {:.3f} of {}",
                                 static_cast<double>(report.candidate->bytes) /
                                     static_cast<double>(report.reference->bytes),
                                 human_bytes(report.reference->bytes))});
  }
  if (const auto tile = accuracy_tile(report)) tiles.push_back(*tile);
  if (!report.speed.empty()) {
    const Benchmark& b = report.speed[0].benchmark;
    tiles.push_back(
        {"speed", fmt::format("{:.2f}x", b.speedup),
         fmt::format("{:.2f} to {:.2f}, {} was {}", b.speedup_low, b.speedup_high,
                     number(b.candidate.median_ms, "ms"), number(b.reference.median_ms, "ms"))});
  }
  if (!report.gates.empty()) {
    const auto failed = std::count_if(report.gates.begin(), report.gates.end(),
                                      [](const GateResult& gate) { return !gate.passed; });
    tiles.push_back({"gates", report.passed() ? "passed" : "failed",
                     fmt::format("{} of {}", static_cast<int64_t>(report.gates.size()) - failed,
                                 report.gates.size()),
                     failed > 0});
  }
  return tiles.empty() ? "" : html_tiles(tiles);
}

std::string with_interval(const std::string& value, const std::string& interval) {
  if (interval.empty()) return escape_xml(value);
  return escape_xml(value) + "<span class=\"ci\">" + escape_xml(interval) + "</span>";
}

std::string summary(const Report& report) {
  const std::vector<Line> lines = lines_of(report);
  if (lines.empty()) return "";
  const bool two = report.candidate.has_value();
  std::string out = fmt::format(
      "<div class=\"wide\"><table class=\"sum\">\n<thead><tr><th></th><th class=\"n\">{}</th><th "
      "class=\"n\">{}</th><th></th></tr></thead><tbody>\n",
      two ? "before" : "", two ? "after" : "");
  for (const Line& line : lines) {
    out += fmt::format(
        "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td></tr>\n",
        escape_xml(line.label), with_interval(line.reference, line.reference_interval),
        with_interval(line.candidate, line.candidate_interval), escape_xml(line.change));
  }
  out += "</tbody></table></div>\n" + html_paragraph(data_line(report));
  if (report.evaluation || !report.speed.empty()) {
    out += html_paragraph("Small figures and brackets are 95 % confidence intervals.");
  }
  return html_section(two ? "Before and after" : "Model", out);
}

std::string gates(const Report& report) {
  if (report.gates.empty()) return "";
  Cells cells = {{"gate", "value", ""}};
  std::set<size_t> bad;
  for (const GateResult& gate : report.gates) {
    if (!gate.passed) bad.insert(cells.size());
    cells.push_back(
        {gate.expression, fmt::format("{:.6g}", gate.value), gate.passed ? "passed" : "failed"});
  }
  return html_section("Gates", html_table(cells, "lrl", bad));
}

// --- Layers --------------------------------------------------------------------------------------

struct LayerSize {
  std::string name;
  uint64_t before = 0;
  uint64_t after = 0;
  double zeros_before = 0;  // elements
  double zeros_after = 0;
  int64_t elements = 0;
};

// Weights of one node together, in the model's order.
std::vector<LayerSize> layer_sizes(const Report& report) {
  std::vector<LayerSize> rows;
  std::map<std::string, size_t> at;
  for (const WeightSimilarity& weight : report.weights) {
    const std::string& name = weight.node.empty() ? weight.name : weight.node;
    const auto [found, is_new] = at.emplace(name, rows.size());
    if (is_new) rows.push_back({name});
    LayerSize& row = rows[found->second];
    row.before += weight.reference_bytes;
    row.after += weight.candidate_bytes;
    row.zeros_before += weight.reference_zeros * static_cast<double>(weight.elements);
    row.zeros_after += weight.candidate_zeros * static_cast<double>(weight.elements);
    row.elements += weight.elements;
  }
  return rows;
}

BarRow size_bar(std::string label, uint64_t before, uint64_t after) {
  const std::string text =
      before == after ? human_bytes(after) : human_bytes(before) + " → " + human_bytes(after);
  return {std::move(label), static_cast<double>(before), static_cast<double>(after), text};
}

constexpr size_t kMostBars = 16;

std::string size_figure(const Report& report, std::vector<LayerSize> rows) {
  std::stable_sort(rows.begin(), rows.end(),
                   [](const LayerSize& a, const LayerSize& b) { return a.before > b.before; });
  std::vector<BarRow> bars;
  LayerSize others;
  uint64_t before = 0, after = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    before += rows[i].before;
    after += rows[i].after;
    if (i < kMostBars) {
      bars.push_back(size_bar(rows[i].name, rows[i].before, rows[i].after));
    } else {
      others.before += rows[i].before;
      others.after += rows[i].after;
    }
  }
  if (rows.size() > kMostBars) {
    bars.push_back(size_bar(fmt::format("{} more layers", rows.size() - kMostBars), others.before,
                            others.after));
  }
  const uint64_t a = report.reference->bytes, b = report.candidate->bytes;
  bars.push_back(
      size_bar("everything else", a > before ? a - before : 0, b > after ? b - after : 0));
  return html_figure("Size by layer", bars_svg(bars), "weights with scales; pale: before");
}

std::string sparsity_figure(const std::vector<LayerSize>& rows) {
  std::vector<BarRow> bars;
  for (const LayerSize& row : rows) {
    const double count = static_cast<double>(row.elements);
    const double before = row.zeros_before / count, after = row.zeros_after / count;
    if (row.elements < 64 || std::max(before, after) < 5e-3) continue;
    bars.push_back(
        {row.name, before, after, fmt::format("{:.1f} % → {:.1f} %", 100 * before, 100 * after)});
  }
  std::stable_sort(bars.begin(), bars.end(),
                   [](const BarRow& a, const BarRow& b) { return a.after > b.after; });
  if (bars.empty()) return "";
  const size_t all = bars.size();
  bars.resize(std::min(all, kMostBars));
  return html_figure(
      "Sparsity by layer", bars_svg(bars),
      fmt::format(
          "weights that are zero; pale: before{}",
          all > bars.size() ? fmt::format("; the {} sparsest of {}", bars.size(), all) : ""));
}

// Weights or activations over their place in the model.
std::string sqnr_figure(const char* caption, const char* what,
                        const std::vector<std::pair<std::string, double>>& rows) {
  Plot plot{empty_axis(what), empty_axis("SQNR, dB"), {{"", 'b', PlotSeries::Mark::stems}}};
  plot.y.cover(0);
  double worst = HUGE_VAL;
  for (const auto& [name, sqnr] : rows) {
    if (std::isfinite(sqnr)) worst = std::min(worst, sqnr);
  }
  plot.x.whole = true;
  plot.x.cover(0.5);
  plot.x.cover(static_cast<double>(rows.size()) + 0.5);
  double at = 0;
  for (const auto& [name, sqnr] : rows) {
    ++at;
    // What is nearly exact stands at the upper edge.
    plot.y.cover(std::min(sqnr, std::max(80.0, worst)) * 1.05);
    if (!std::isfinite(sqnr)) continue;
    plot.series[0].points.push_back(
        {at, sqnr, fmt::format("{}: {:.1f} dB", name, sqnr), {}, sqnr == worst});
    if (sqnr == worst) plot.rules.push_back({false, sqnr, "least: " + shortened(name, 40), 'c'});
  }
  if (plot.series[0].points.empty()) return "";
  if (plot.rules.size() > 1) plot.rules.resize(1);
  return html_figure(caption, to_svg(std::move(plot)),
                     "signal over quantization noise; more is better");
}

std::string layers(const Report& report) {
  if (!report.reference || !report.candidate) return "";
  std::vector<std::string> figures;
  const std::vector<LayerSize> sizes = layer_sizes(report);
  if (!sizes.empty()) figures.push_back(size_figure(report, sizes));
  if (const std::string figure = sparsity_figure(sizes); !figure.empty()) figures.push_back(figure);
  std::vector<std::pair<std::string, double>> outputs, weights;
  for (const LayerSimilarity& row : report.layers) outputs.emplace_back(row.name, row.sqnr_db);
  for (const WeightSimilarity& row : report.weights) weights.emplace_back(row.name, row.sqnr_db);
  for (const std::string& figure :
       {sqnr_figure("Outputs of layers", "layer, in the model's order", outputs),
        sqnr_figure("Weights", "weight, in the model's order", weights)}) {
    if (!figure.empty()) figures.push_back(figure);
  }
  std::string out = html_figures(figures);
  Cells cells = {{"layer", "op", "SQNR of the output"}};
  for (const LayerSimilarity& row : report.layers) {
    cells.push_back({row.name, row.op, number(row.sqnr_db, "dB")});
  }
  if (cells.size() > 1) {
    out += html_details(fmt::format("All {} layers", cells.size() - 1), html_table(cells, "llr"));
  }
  cells = {{"weight", "stored as", "elements", "before", "after", "zeros", "SQNR"}};
  for (const WeightSimilarity& row : report.weights) {
    cells.push_back({row.name, row.dtype, std::to_string(row.elements),
                     human_bytes(row.reference_bytes), human_bytes(row.candidate_bytes),
                     fmt::format("{:.1f} %", 100 * row.candidate_zeros),
                     number(row.sqnr_db, "dB")});
  }
  if (cells.size() > 1) {
    out += html_details(fmt::format("All {} weights", cells.size() - 1), html_table(cells, "llr"));
  }
  return html_section("Layers", out);
}

// --- Distributions -------------------------------------------------------------------------------

constexpr size_t kMostHistograms = 12;

// Shares of the values in percent.
PlotSeries steps(const Bins& bins, const char* name, char tone, Plot& plot) {
  PlotSeries out{name, tone, PlotSeries::Mark::steps};
  double total = 0;
  for (const int64_t count : bins.counts) total += static_cast<double>(count);
  const double width = (bins.high - bins.low) / static_cast<double>(bins.counts.size());
  for (size_t i = 0; i < bins.counts.size(); ++i) {
    const double share = 100 * static_cast<double>(bins.counts[i]) / std::max(total, 1.0);
    out.points.push_back({bins.low + width * static_cast<double>(i), share});
    plot.y.cover(share);
  }
  plot.x.cover(bins.low);
  plot.x.cover(bins.high);
  return out;
}

Plot small_plot(const char* x, bool log) {
  Plot plot{empty_axis(x), empty_axis("% of values", log), {}};
  plot.width = 300;
  plot.height = 170;
  return plot;
}

std::string weight_histograms(const Report& report) {
  std::vector<const WeightSimilarity*> rows;
  for (const WeightSimilarity& row : report.weights) {
    if (!row.reference_bins.counts.empty() && row.elements >= 64) rows.push_back(&row);
  }
  std::stable_sort(rows.begin(), rows.end(), [](const auto* a, const auto* b) {
    return a->sqnr_db < b->sqnr_db || (std::isnan(a->sqnr_db) && !std::isnan(b->sqnr_db));
  });
  const size_t all = rows.size();
  rows.resize(std::min(all, kMostHistograms));
  std::vector<std::string> figures;
  for (const WeightSimilarity* row : rows) {
    Plot plot = small_plot("value", false);
    plot.y.cover(0);
    plot.series.push_back(steps(row->reference_bins, "before", 'a', plot));
    plot.series.push_back(steps(row->candidate_bins, "after", 'b', plot));
    figures.push_back(html_figure(shortened(row->name, 40), to_svg(std::move(plot)),
                                  fmt::format("{}, {:.1f} dB", row->dtype, row->sqnr_db)));
  }
  if (figures.empty()) return "";
  return html_section(
      "Weights before and after",
      (all > kMostHistograms
           ? html_paragraph(fmt::format("The {} most distorted of {}.", kMostHistograms, all))
           : "") +
          html_figures(figures, true));
}

// The share of the values beyond the range that the integers cover.
double clipped(const ActivationRange& row) {
  const Bins& bins = row.histogram;
  const double width = (bins.high - bins.low) / static_cast<double>(bins.counts.size());
  double all = 0, out = 0;
  for (size_t i = 0; i < bins.counts.size(); ++i) {
    const double middle = bins.low + width * (static_cast<double>(i) + 0.5);
    const double count = static_cast<double>(bins.counts[i]);
    all += count;
    if (middle < row.chosen->first || middle > row.chosen->second) out += count;
  }
  return all > 0 ? out / all : 0;
}

std::string activation_figure(const ActivationRange& row) {
  Plot plot = small_plot("value", true);
  plot.series.push_back(steps(row.histogram, "", 'b', plot));
  plot.x.cover(row.chosen->first);
  plot.x.cover(row.chosen->second);
  plot.band = row.chosen;
  for (const double end : {row.chosen->first, row.chosen->second}) {
    plot.rules.push_back({true, end, "", 'c'});
  }
  return html_figure(
      shortened(row.value, 40), to_svg(std::move(plot)),
      fmt::format("seen {:.3g} to {:.3g}, covered {:.3g} to {:.3g}, clipped {:.2g} %", row.min,
                  row.max, row.chosen->first, row.chosen->second, 100 * clipped(row)));
}

std::string activation_histograms(const Report& report) {
  std::vector<std::pair<double, const ActivationRange*>> rows;
  for (const ActivationRange& row : report.activations) {
    if (row.chosen && !row.histogram.counts.empty()) rows.emplace_back(clipped(row), &row);
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  const size_t all = rows.size();
  rows.resize(std::min(all, kMostHistograms));
  std::vector<std::string> figures;
  for (const auto& [share, row] : rows) figures.push_back(activation_figure(*row));
  if (figures.empty()) return "";
  std::string about = "Counts of calibration; the shaded range is what the integers cover.";
  if (all > kMostHistograms) {
    about += fmt::format(" The {} most clipped of {}.", kMostHistograms, all);
  }
  return html_section("Activations and their ranges",
                      html_paragraph(about) + html_figures(figures, true));
}

// --- The rest ------------------------------------------------------------------------------------

std::string confusion(const Report& report) {
  if (!report.evaluation || !report.evaluation->confusion) return "";
  const Confusion& counts = *report.evaluation->confusion;
  return html_section(
      "Confusion",
      html_figures(
          {html_figure("Before", matrix_svg(counts.reference, counts.classes, "label", "found")),
           html_figure("After", matrix_svg(counts.candidate, counts.classes, "label", "found"))}));
}

std::string kernels(const Report& report) {
  if (report.kernels.empty()) return "";
  Cells cells = {{"node", "op", "ms", "kernel"}};
  for (const KernelRow& row : report.kernels) {
    cells.push_back({row.node, row.op, fmt::format("{:.3f}", row.ms), row.kernel});
  }
  return html_section("Kernels",
                      html_details(fmt::format("{} nodes of the result", report.kernels.size()),
                                   html_table(cells, "llrl")));
}

std::string skipped(const Report& report) {
  std::string out;
  for (const SkipGroup& group : skip_groups(report)) {
    const std::string line = group.pass + ": " + group.reason;
    if (group.nodes.empty()) {
      out += html_paragraph(line);
    } else {
      out += html_details(fmt::format("{} ({} node{})", line, group.nodes.size(),
                                      group.nodes.size() == 1 ? "" : "s"),
                          html_list(group.nodes));
    }
  }
  return html_section("What was left, and why", out);
}

std::string recipe(const Report& report) {
  if (report.recipe.is_null()) return "";
  const std::string text = report.recipe.dump(2, ' ', false, Json::error_handler_t::replace);
  std::string lines;
  for (size_t from = 0; from <= text.size();) {
    const size_t to = std::min(text.find('\n', from), text.size());
    lines += escape_xml(std::string_view(text).substr(from, to - from)) + "\n";
    from = to + 1;
  }
  return html_section("Recipe",
                      html_paragraph("compress run MODEL --recipe FILE -o OUT repeats it.") +
                          html_details("Every option", "<pre>" + lines + "</pre>\n"));
}

std::string load(const Report& report) {
  if (report.load.empty()) return "";
  return html_section("Under load", html_paragraph("Throughput in samples.") +
                                        html_table(load_cells(report), kLoadAlign));
}

}  // namespace

std::string to_html(const Report& report) {
  std::string body = heading(report) + tiles(report);
  if (report.explanation) body += html_section("Why", html_list(report.explanation->why));
  body += summary(report) + gates(report) + html_section("Notes", html_list(report.notes));
  if (report.search) body += search_html(*report.search);
  if (report.sensitivity) body += sensitivity_html(*report.sensitivity);
  body += layers(report) + activation_histograms(report) + weight_histograms(report) +
          confusion(report) + training_html(report) + load(report);
  body += report.explanation ? explanation_html(*report.explanation) : kernels(report);
  body += skipped(report) + recipe(report);
  body += fmt::format("<footer>{}, {}, {} threads; compress {} ({})</footer>\n",
                      escape_xml(report.machine.cpu), escape_xml(report.machine.isa),
                      report.machine.threads, escape_xml(report.version), escape_xml(report.build));
  return html_page("compress " + report.command, body);
}

}  // namespace compress
