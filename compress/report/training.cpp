// Loss curves of the passes that train, for the HTML report.
#include "compress/error.h"
#include "compress/report/page.h"
#include "compress/report/plot.h"
#include "compress/report/report.h"

namespace compress {
namespace {

PlotSeries curve(const Json& rows, const char* key, const char* name, char tone) {
  PlotSeries out{name, tone, PlotSeries::Mark::line};
  for (const Json& row : rows) {
    const Json loss = row.value(key, Json());
    if (!loss.is_number() || !(loss.get<double>() > 0)) continue;
    const double epoch = row.value("epoch", 0.0), value = loss.get<double>();
    out.points.push_back({epoch, value, fmt::format("epoch {}: {:.4g}", epoch, value)});
  }
  return out;
}

// Loss, logarithmic, over the epochs: as trained, and on what was held back. "" without any.
std::string curves_svg(const Json& details) {
  const Json& rows = details["epochs"];
  Plot plot{
      empty_axis("epoch"),
      empty_axis("loss", true),
      {curve(rows, "loss", "training", 'a'), curve(rows, "validation_loss", "held back", 'b')}};
  plot.x.cover(0);
  plot.x.cover(1);
  bool any = false;
  for (const PlotSeries& series : plot.series) {
    for (const PlotPoint& point : series.points) {
      plot.x.cover(point.x);
      plot.y.cover(point.y);
      any = true;
    }
  }
  if (!any) return "";
  const double best = details.value("best_epoch", 0.0);
  plot.rules.push_back({true, best, fmt::format("kept: {}", best)});
  return to_svg(std::move(plot));
}

}  // namespace

std::string training_html(const Report& report) {
  std::vector<std::string> figures;
  for (const PassSummary& pass : report.passes) {
    const auto epochs = pass.details.find("epochs");
    if (epochs == pass.details.end() || !epochs->is_array()) continue;
    const std::string svg = curves_svg(pass.details);
    if (!svg.empty()) figures.push_back(html_figure("Loss of " + pass.step, svg));
  }
  return html_section("Training", html_figures(figures));
}

}  // namespace compress
