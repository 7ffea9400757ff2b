// Loss curves of the passes that train, for the HTML report.
#include <algorithm>
#include <cmath>
#include <limits>

#include "compress/error.h"
#include "compress/report/report.h"

namespace compress {
namespace {

constexpr double kWide = 560, kHigh = 260, kLeft = 70, kTop = 16;

struct Curve {
  const char* key;  // of an epoch's row
  const char* label;
  const char* color;
  std::vector<std::pair<double, double>> points = {};  // epoch, loss
};

struct Frame {
  double epochs = 1;
  double low = std::numeric_limits<double>::infinity();  // logarithms
  double high = -low;

  double x(double epoch) const { return kLeft + kWide * epoch / epochs; }
  double y(double loss) const {
    return kTop + kHigh * (high - std::log10(loss)) / std::max(high - low, 1e-9);
  }
};

void read_points(const Json& rows, Curve& curve, Frame& frame) {
  for (const Json& row : rows) {
    const Json loss = row.value(curve.key, Json());
    if (!loss.is_number() || !(loss.get<double>() > 0)) continue;
    const double epoch = row.value("epoch", 0.0), value = loss.get<double>();
    curve.points.emplace_back(epoch, value);
    frame.epochs = std::max(frame.epochs, epoch);
    frame.low = std::min(frame.low, std::log10(value));
    frame.high = std::max(frame.high, std::log10(value));
  }
}

std::string drawn(const Curve& curve, const Frame& frame) {
  std::string path, dots;
  for (const auto& [epoch, loss] : curve.points) {
    path += fmt::format("{:.1f},{:.1f} ", frame.x(epoch), frame.y(loss));
    dots += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" fill=\"{}\"><title>epoch {}: {:.4g}</title>"
        "</circle>",
        frame.x(epoch), frame.y(loss), curve.color, epoch, loss);
  }
  return fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\"/>{}\n", path, curve.color,
                     dots);
}

// Loss, logarithmic, over the epochs: as trained, and on what was held back.
std::string curves_svg(const Json& details) {
  Curve curves[] = {{"loss", "training", "#4477aa"}, {"validation_loss", "held back", "#cc3311"}};
  Frame frame;
  for (Curve& curve : curves) read_points(details["epochs"], curve, frame);
  if (!(frame.low <= frame.high)) return "";
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" "
      "font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#999\"/>\n",
      kLeft + kWide + 100, kTop + kHigh + 44, kLeft, kTop, kWide, kHigh);
  double legend = kTop + 12;
  for (const Curve& curve : curves) {
    if (curve.points.empty()) continue;
    out += drawn(curve, frame);
    out += fmt::format("<text x=\"{}\" y=\"{}\" fill=\"{}\">{}</text>\n", kLeft + kWide + 8, legend,
                       curve.color, curve.label);
    legend += 18;
  }
  const double best = details.value("best_epoch", 0.0);
  out += fmt::format(
      "<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\" stroke=\"#999\" "
      "stroke-dasharray=\"4\"/>\n"
      "<text x=\"4\" y=\"{3}\">{4:.3g}</text><text x=\"4\" y=\"{2}\">{5:.3g}</text>"
      "<text x=\"{6}\" y=\"{7}\">epoch 0 to {8}; kept: {9}</text>\n",
      frame.x(best), kTop, kTop + kHigh, kTop + 10, std::pow(10, frame.high),
      std::pow(10, frame.low), kLeft, kTop + kHigh + 18, frame.epochs, best);
  return out + "</svg>\n";
}

}  // namespace

std::string training_html(const Report& report) {
  std::string out;
  for (const PassSummary& pass : report.passes) {
    const auto epochs = pass.details.find("epochs");
    if (epochs == pass.details.end() || !epochs->is_array()) continue;
    const std::string svg = curves_svg(pass.details);
    if (!svg.empty()) out += fmt::format("<h2>Loss of {}</h2>\n", escape_xml(pass.step)) + svg;
  }
  return out;
}

}  // namespace compress
