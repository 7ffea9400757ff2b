#include "compress/report/plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "compress/error.h"
#include "compress/report/tables.h"

namespace compress {
namespace {

constexpr double kLeft = 46, kRight = 12, kTop = 24, kBottom = 34;
constexpr double kCharacter = 5.9;  // mean width at the font's size

double scaled(const Axis& axis, double value) { return axis.log ? std::log10(value) : value; }

// 0 at the low end, 1 at the high one.
double part(const Axis& axis, double value) {
  const double low = scaled(axis, axis.low), high = scaled(axis, axis.high);
  if (axis.log && !(value > 0)) return 0;
  return std::clamp((scaled(axis, value) - low) / (high - low), 0.0, 1.0);
}

void settle(Axis& axis) {
  if (!(axis.low <= axis.high)) {
    axis.low = axis.log ? 0.1 : 0;
    axis.high = 1;
  }
  if (axis.low == axis.high) {
    axis.high = axis.log ? axis.low * 10 : axis.low + std::max(std::fabs(axis.low) * 0.1, 1e-9);
  }
}

std::string tick_text(double value, double step) {
  if (std::fabs(value) < step * 1e-6) return "0";
  if (std::fabs(value) >= 1e5 || step < 1e-4) return fmt::format("{:.3g}", value);
  const int digits = std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
  return fmt::format("{:.{}f}", value, digits);
}

std::vector<std::pair<double, std::string>> linear_ticks(const Axis& axis, double most) {
  const double rough = (axis.high - axis.low) / most;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double lead = rough / power;
  double step = power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
  if (axis.whole) step = std::max(step, 1.0);
  std::vector<std::pair<double, std::string>> ticks;
  for (double k = std::ceil(axis.low / step - 1e-9); k * step <= axis.high + step * 1e-9; ++k) {
    ticks.emplace_back(k * step, tick_text(k * step, step));
  }
  return ticks;
}

std::vector<std::pair<double, std::string>> log_ticks(const Axis& axis, double most) {
  const double low = std::log10(axis.low), high = std::log10(axis.high);
  const bool few = high - low < 2;
  const double stride = std::max(1.0, std::ceil((high - low) / most));
  std::vector<std::pair<double, std::string>> ticks;
  for (double power = std::floor(low); power <= high + 1e-9; power += stride) {
    for (const double lead : {1.0, 2.0, 5.0}) {
      const double value = lead * std::pow(10, power);
      if (value < axis.low * 0.999 || value > axis.high * 1.001 || (lead > 1 && !few)) continue;
      ticks.emplace_back(value, fmt::format("{:.6g}", value));
    }
  }
  return ticks;
}

std::vector<std::pair<double, std::string>> ticks_of(const Axis& axis, double length,
                                                     double spacing) {
  if (!axis.ticks.empty()) return axis.ticks;
  const double most = std::max(2.0, length / spacing);
  // Within a few times its low end a logarithmic axis has too few powers to read.
  const bool narrow = axis.high < 6 * axis.low;
  return axis.log && !narrow ? log_ticks(axis, most) : linear_ticks(axis, most);
}

// Draws one plot; coordinates are those of the SVG.
class Drawing {
 public:
  explicit Drawing(const Plot& plot)
      : plot_(plot), right_(plot.width - kRight), bottom_(plot.height - kBottom) {}

  std::string drawn() {
    out_ = fmt::format(
        "<svg class=\"plot\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" "
        "viewBox=\"0 0 {} {}\" width=\"{}\">\n",
        plot_.width, plot_.height, plot_.width);
    if (plot_.band) add_band();
    add_axes();
    for (const PlotRule& rule : plot_.rules) add_rule(rule);
    for (const PlotSeries& series : plot_.series) add(series);
    add_legend();
    return out_ + "</svg>\n";
  }

 private:
  double x(double value) const { return kLeft + (right_ - kLeft) * part(plot_.x, value); }
  double y(double value) const { return bottom_ - (bottom_ - kTop) * part(plot_.y, value); }

  void line(double x1, double y1, double x2, double y2, std::string_view style) {
    out_ +=
        fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>",
                    style, x1, y1, x2, y2);
  }
  void text(double x, double y, std::string_view anchor, std::string_view style,
            std::string_view content) {
    if (content.empty()) return;
    out_ += fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>",
                        style, x, y, anchor, escape_xml(content));
  }

  void add_band() {
    const double from = x(plot_.band->first), to = x(plot_.band->second);
    out_ += fmt::format(
        "<rect class=\"band\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>", from,
        kTop, std::max(to - from, 0.5), bottom_ - kTop);
  }

  void add_axes() {
    for (const auto& [value, label] : ticks_of(plot_.y, bottom_ - kTop, 36)) {
      line(kLeft, y(value), right_, y(value), "grid");
      text(kLeft - 6, y(value) + 3.5, "end", "tick", label);
    }
    double free_from = -1e9;
    for (const auto& [value, label] : ticks_of(plot_.x, right_ - kLeft, 62)) {
      const double half = static_cast<double>(label.size()) * kCharacter / 2;
      const double at = std::clamp(x(value), half, plot_.width - half);
      line(x(value), bottom_, x(value), bottom_ + 3, "axis");
      if (at - half < free_from) continue;
      text(at, bottom_ + 14, "middle", "tick", label);
      free_from = at + half + 6;
    }
    line(kLeft, bottom_, right_, bottom_, "axis");
    text(2, 11, "start", "label", plot_.y.label);
    text(right_, plot_.height - 5, "end", "label", plot_.x.label);
    out_ += "\n";
  }

  void add_rule(const PlotRule& rule) {
    const std::string style = fmt::format("rule s-{}", rule.tone);
    if (rule.vertical) {
      const double at = x(rule.at);
      line(at, kTop, at, bottom_, style);
      const bool left = at > (kLeft + right_) / 2;
      text(at + (left ? -4 : 4), kTop + 10, left ? "end" : "start", fmt::format("t-{}", rule.tone),
           rule.label);
    } else {
      line(kLeft, y(rule.at), right_, y(rule.at), style);
      const double above = y(rule.at) - 4 < kTop + 8 ? y(rule.at) + 12 : y(rule.at) - 4;
      text(right_, above, "end", fmt::format("t-{}", rule.tone), rule.label);
    }
  }

  void add(const PlotSeries& series) {
    using Mark = PlotSeries::Mark;
    if (series.mark == Mark::steps) return add_steps(series);
    if (series.mark == Mark::line) {
      std::string path;
      for (const PlotPoint& p : series.points)
        path += fmt::format("{:.1f},{:.1f} ", x(p.x), y(p.y));
      out_ += fmt::format("<polyline class=\"line s-{}\" points=\"{}\"/>", series.tone, path);
    }
    for (const PlotPoint& p : series.points) {
      if (series.mark == Mark::stems) {
        line(x(p.x), bottom_, x(p.x), y(p.y), fmt::format("stem s-{}", series.tone));
      }
      if (p.interval) {
        line(x(p.x), y(p.interval->first), x(p.x), y(p.interval->second),
             fmt::format("whisker s-{}", series.tone));
      }
      const double radius = p.large ? 5.5 : series.points.size() > 80 ? 1.8 : 3;
      out_ += fmt::format("<circle class=\"f-{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\">",
                          series.tone, x(p.x), y(p.y), radius);
      if (!p.title.empty()) out_ += fmt::format("<title>{}</title>", escape_xml(p.title));
      out_ += "</circle>";
    }
    out_ += "\n";
  }

  void add_steps(const PlotSeries& series) {
    std::string path;
    for (size_t i = 0; i < series.points.size(); ++i) {
      const PlotPoint& p = series.points[i];
      const double to = i + 1 < series.points.size() ? series.points[i + 1].x : plot_.x.high;
      path += fmt::format("L{:.1f} {:.1f}L{:.1f} {:.1f}", x(p.x), y(p.y), x(to), y(p.y));
    }
    if (path.empty()) return;
    out_ += fmt::format(
        "<path class=\"steps a-{0} s-{0}\" d=\"M{1:.1f} {2:.1f}{3}L{4:.1f} {2:.1f}Z\"/>\n",
        series.tone, x(series.points[0].x), bottom_, path, right_);
  }

  void add_legend() {
    std::string spans;
    for (const PlotSeries& series : plot_.series) {
      if (series.name.empty() || series.points.empty()) continue;
      spans +=
          fmt::format("{}<tspan class=\"t-{}\">&#9679; {}</tspan>",
                      spans.empty() ? "" : "&#160;&#160;", series.tone, escape_xml(series.name));
    }
    if (spans.empty()) return;
    out_ +=
        fmt::format("<text class=\"label\" x=\"{:.1f}\" y=\"11\" text-anchor=\"end\">{}</text>\n",
                    right_, spans);
  }

  const Plot& plot_;
  double right_;
  double bottom_;
  std::string out_;
};

double bar_part(double value, double low, double high, bool log) {
  if (!(value > 0) || !(high > 0)) return 0;
  if (!log) return value / high;
  const double floor = std::log10(low) - 0.3;
  return std::max(std::log10(value) - floor, 0.0) / std::max(std::log10(high) - floor, 1e-9);
}

}  // namespace

void Axis::cover(double value) {
  if (!std::isfinite(value) || (log && !(value > 0))) return;
  low = std::min(low, value);
  high = std::max(high, value);
}

Axis empty_axis(std::string label, bool log) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  return {std::move(label), kInfinity, -kInfinity, log, false};
}

std::string to_svg(Plot plot) {
  settle(plot.x);
  settle(plot.y);
  return Drawing(plot).drawn();
}

std::string bars_svg(const std::vector<BarRow>& rows, bool log) {
  constexpr double kWide = 440, kNames = 168, kValues = 112, kRow = 19;
  double low = HUGE_VAL, high = 0;
  for (const BarRow& row : rows) {
    for (const double value : {row.before, row.after}) {
      if (!(value > 0) || std::isinf(value)) continue;
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  const double room = kWide - kNames - kValues;
  std::string out = fmt::format(
      "<svg class=\"plot\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {0} "
      "{1}\" width=\"{0}\">\n",
      kWide, static_cast<double>(rows.size()) * kRow + 4);
  for (size_t i = 0; i < rows.size(); ++i) {
    const BarRow& row = rows[i];
    const double top = static_cast<double>(i) * kRow + 2;
    const double before = room * bar_part(row.before, low, high, log);
    const double after = room * bar_part(row.after, low, high, log);
    out += fmt::format(
        "<text class=\"label\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{}<title>{}"
        "</title></text>",
        kNames - 8, top + 12, escape_xml(shortened(row.label, 27)), escape_xml(row.label));
    if (before > 0) {
      out +=
          fmt::format("<rect class=\"f-pale\" x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"13\"/>",
                      kNames, top + 2, before);
    }
    out += fmt::format(
        "<rect class=\"f-b\" x=\"{}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\"/>"
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{}\">{}</text>\n",
        kNames, before > 0 ? top + 5 : top + 2, after, before > 0 ? 7 : 13,
        kNames + std::max(before, after) + 6, top + 12, escape_xml(row.text));
  }
  return out + "</svg>\n";
}

std::string matrix_svg(const std::vector<int64_t>& counts, int64_t size, std::string_view rows,
                       std::string_view columns) {
  constexpr double kWide = 440, kEdge = 34;
  const double n = static_cast<double>(size), cell = (kWide - kEdge - 4) / n;
  std::string out = fmt::format(
      "<svg class=\"plot\" xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" viewBox=\"0 0 {0} "
      "{0}\" width=\"{0}\">\n<text class=\"label\" x=\"2\" y=\"11\">{1} &#8595; "
      "&#160;{2} &#8594;</text>\n",
      kWide, escape_xml(rows), escape_xml(columns));
  const int64_t stride = size <= 20 ? 1 : 5;
  for (int64_t r = 0; r < size; ++r) {
    const auto row = counts.begin() + r * size;
    int64_t total = 0;
    for (int64_t c = 0; c < size; ++c) total += row[c];
    const double top = kEdge + cell * static_cast<double>(r);
    if (r % stride == 0) {
      out += fmt::format(
          "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>"
          "<text class=\"tick\" x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
          kEdge - 6, top + cell / 2 + 3.5, r, top + cell / 2, kEdge - 6, r);
    }
    for (int64_t c = 0; c < size; ++c) {
      const double share = total > 0 ? static_cast<double>(row[c]) / static_cast<double>(total) : 0;
      const double left = kEdge + cell * static_cast<double>(c);
      out += fmt::format(
          "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" "
          "fill-opacity=\"{:.3f}\"><title>label {}, found {}: {}</title></rect>",
          r == c ? "f-b" : "f-x", left, top, cell - 1, cell - 1,
          row[c] == 0 ? 0.03 : 0.12 + 0.75 * std::sqrt(share), r, c, row[c]);
      if (size <= 12 && row[c] > 0) {
        out += fmt::format(
            "<text class=\"cell\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>",
            left + cell / 2, top + cell / 2 + 3.5, row[c]);
      }
    }
    out += "\n";
  }
  return out + "</svg>\n";
}

std::string_view plot_style() {
  return ":root{--paper:#fff;--ink:#1c2024;--mute:#5f6873;--line:#e2e5e9;--a:#8b95a1;--b:#1768ac;"
         "--c:#b35c00;--x:#b3261e;--good:#1b7340;--pale:#d3d9e0}"
         "@media(prefers-color-scheme:dark){:root{--paper:#14171a;--ink:#e4e7ea;--mute:#9aa4af;"
         "--line:#2b3138;--a:#7f8a96;--b:#62aef0;--c:#f0a04b;--x:#ff8a7f;--good:#6bcb94;"
         "--pale:#3a424b}}"
         "@media print{:root{--paper:#fff;--ink:#000;--mute:#444;--line:#ccc;--a:#888;--b:#1768ac;"
         "--c:#b35c00;--x:#b3261e;--good:#1b7340;--pale:#d3d9e0}}"
         ".plot{font:11px system-ui,sans-serif;font-variant-numeric:tabular-nums;max-width:100%;"
         "height:auto;display:block}"
         ".plot .tick,.plot .label{fill:var(--mute)}.plot .cell{fill:var(--ink)}"
         ".grid{stroke:var(--line)}.axis{stroke:var(--mute)}.band{fill:var(--b);fill-opacity:.09}"
         ".line{fill:none;stroke-width:1.5}.stem{stroke-opacity:.35}.whisker{stroke-width:1.5}"
         ".rule{stroke-dasharray:4 "
         "3}.steps{fill-opacity:.22;stroke-width:1}.f-pale{fill:var(--pale)}"
         ".s-a{stroke:var(--a)}.s-b{stroke:var(--b)}.s-c{stroke:var(--c)}.s-m{stroke:var(--mute)}"
         ".s-x{stroke:var(--x)}.f-a,.a-a,.t-a{fill:var(--a)}.f-b,.a-b,.t-b{fill:var(--b)}"
         ".f-c,.a-c,.t-c{fill:var(--c)}.f-m,.t-m{fill:var(--mute)}.f-x,.t-x{fill:var(--x)}\n";
}

std::string svg_document(const std::string& svg) {
  const size_t at = svg.find('>') + 1;
  return svg.substr(0, at) + "<style>" + std::string(plot_style()) + "</style>" + svg.substr(at);
}

std::string shortened(const std::string& text, size_t width) {
  if (text.size() <= width) return text;
  return "..." + text.substr(text.size() - (width - 3));
}

}  // namespace compress
