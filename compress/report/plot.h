// Plots as inline SVG: axes with ticks and units, no script. Colours are classes, which the style
// of the page (page.h) gives for light, dark and paper.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace compress {

struct Axis {
  std::string label;  // with the unit
  double low = 0;
  double high = 0;
  bool log = false;
  bool whole = false;                                      // counts: no ticks between integers
  std::vector<std::pair<double, std::string>> ticks = {};  // empty: round numbers

  // What the axis shows grows to the value, where that can be shown.
  void cover(double value);
};
// An axis that shows nothing yet.
Axis empty_axis(std::string label, bool log = false);

struct PlotPoint {
  double x = 0;
  double y = 0;
  std::string title = "";  // seen by a pointer and by screen readers
  std::optional<std::pair<double, double>> interval = {};  // of y
  bool large = false;
};

struct PlotSeries {
  enum class Mark { line, dots, stems, steps };
  std::string name;  // "": not in the legend
  char tone = 'b';   // a: reference, b: candidate, c: a third; m: muted; x: bad
  Mark mark = Mark::dots;
  std::vector<PlotPoint> points = {};  // of steps: x is where the step begins
};

struct PlotRule {
  bool vertical = false;
  double at = 0;
  std::string label = "";
  char tone = 'm';
};

struct Plot {
  Axis x;
  Axis y;
  std::vector<PlotSeries> series;
  std::vector<PlotRule> rules = {};
  std::optional<std::pair<double, double>> band = {};  // a shaded part of x
  int width = 440;
  int height = 250;
};
std::string to_svg(Plot plot);

// A bar a row, `after` inside `before`; `log` for values that differ by orders of magnitude.
struct BarRow {
  std::string label;
  double before = 0;  // 0: none
  double after = 0;
  std::string text;
};
std::string bars_svg(const std::vector<BarRow>& rows, bool log = false);

// Counts [row, column]; shaded by the share of the row.
std::string matrix_svg(const std::vector<int64_t>& counts, int64_t size, std::string_view rows,
                       std::string_view columns);

// The style of plots, and a plot as a file of its own.
std::string_view plot_style();
std::string svg_document(const std::string& svg);

// "...end": the end of a path tells more than its beginning.
std::string shortened(const std::string& text, size_t width);

}  // namespace compress
