#include "compress/report/search.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>
#include <variant>

#include "compress/error.h"
#include "compress/report/page.h"
#include "compress/report/plot.h"
#include "compress/report/report.h"
#include "compress/report/tables.h"

namespace compress {
namespace {

constexpr size_t kTableRows = 20;
constexpr std::string_view kSensitivityAlign = "lllr";
constexpr std::string_view kSearchAlign = "lrrrrl";

// The most harmful first.
std::vector<const SensitivityRow*> ranked(const SensitivityReport& report) {
  std::vector<const SensitivityRow*> rows;
  for (const SensitivityRow& row : report.rows) rows.push_back(&row);
  std::stable_sort(rows.begin(), rows.end(), [](const SensitivityRow* a, const SensitivityRow* b) {
    if (std::isnan(a->damage) || std::isnan(b->damage))
      return std::isnan(a->damage) && !std::isnan(b->damage);
    return a->damage > b->damage;
  });
  return rows;
}

// What is of interest of a search: the front, and what holds among single settings.
std::vector<const SearchPoint*> shown(const SearchReport& report) {
  std::vector<const SearchPoint*> rows;
  for (const SearchPoint& point : report.points) {
    if (point.on_front || point.chosen || point.single) rows.push_back(&point);
  }
  std::stable_sort(rows.begin(), rows.end(), [](const SearchPoint* a, const SearchPoint* b) {
    return a->failure.empty() != b->failure.empty() ? a->failure.empty() : a->bytes < b->bytes;
  });
  return rows;
}

std::string remark(const SearchPoint& point) {
  if (!point.failure.empty()) return point.failure;
  std::string text = point.holds ? "holds" : "";
  if (point.on_front) text += text.empty() ? "front" : ", front";
  if (point.chosen) text += ", chosen";
  return text;
}

Cells search_cells(const SearchReport& report) {
  Cells cells = {{"setting", report.minimize == "weights" ? "without zeros" : "size", "time",
                  report.metric + " drop", "agreement", ""}};
  for (const SearchPoint* point : shown(report)) {
    const bool ran = point->failure.empty();
    cells.push_back({point->label, ran ? human_bytes(point->bytes) : "",
                     point->latency > 0 ? fmt::format("x {:.2f}", point->latency) : "",
                     ran ? fmt::format("{:.4f}", point->drop) : "",
                     ran ? fmt::format("{:.4f}", point->agreement) : "", remark(*point)});
  }
  return cells;
}

Cells sensitivity_cells(const SensitivityReport& report, size_t most) {
  Cells cells = {{"layer", "op", "precision", report.damage, "SQNR", "agreement",
                  report.metric + " drop", "saves"}};
  for (const SensitivityRow* row : ranked(report)) {
    if (cells.size() > most) break;
    cells.push_back({row->node, row->op, row->precision, fmt::format("{:.3g}", row->damage),
                     fmt::format("{:.1f} dB", row->sqnr_db), fmt::format("{:.4f}", row->agreement),
                     fmt::format("{:.4f}", row->drop),
                     human_bytes(static_cast<uint64_t>(std::max<int64_t>(row->bytes_saved, 0)))});
  }
  return cells;
}

std::string search_summary(const SearchReport& report) {
  std::string text = fmt::format(
      "search: {} tried in {:.0f} s for the least {} with {} drop <= {:.4g}{}; {} samples to "
      "search "
      "on, {} held out",
      report.points.size(), report.seconds, report.minimize, report.metric, report.max_drop,
      report.relative ? " of its value" : "", report.search_samples, report.held_out_samples);
  if (report.out_of_time) text += "; the budget ended it";
  const bool any = std::any_of(report.points.begin(), report.points.end(),
                               [](const SearchPoint& point) { return point.chosen; });
  if (!any) return text + "; nothing holds, so the model stays as it was";
  text += fmt::format("; held-out drop {:.4f}", report.held_out_drop);
  if (report.held_out_looks > 1) {
    text += fmt::format(" ({} cheaper ones did not hold there)", report.held_out_looks - 1);
  }
  return text;
}

// A bar a row, logarithmic: damages of layers differ by orders of magnitude.
std::string sensitivity_plot(const SensitivityReport& report) {
  constexpr size_t kBars = 40;
  std::vector<BarRow> bars;
  for (const SensitivityRow* row : ranked(report)) {
    if (bars.size() == kBars) break;
    bars.push_back({row->node, 0, row->damage, fmt::format("{:.2g}", row->damage)});
  }
  return bars_svg(bars, true);
}

// Size (or time) against the drop: the front, other trials, what was allowed.
std::string search_plot(const SearchReport& report) {
  using Mark = PlotSeries::Mark;
  const bool by_size = report.minimize != "latency";
  Plot plot{empty_axis(report.minimize == "weights" ? "size without zeros, MB"
                       : by_size                    ? "size, MB"
                                                    : "time, of the reference's"),
            empty_axis(report.metric + " drop"),
            {{"tried", 'm', Mark::dots}, {"front", 'b', Mark::line}, {"chosen", 'c', Mark::dots}},
            {{false, report.max_drop, fmt::format("allowed {:.4g}", report.max_drop), 'x'}}};
  // What lost far more than was allowed stands at the upper edge.
  const double most = 4 * std::max(report.max_drop, 1e-4);
  plot.x.cover(0);
  plot.y.cover(0);
  plot.y.cover(report.max_drop * 1.2);
  for (const SearchPoint& point : report.points) {
    if (!point.failure.empty() || !std::isfinite(point.drop)) continue;
    const double cost = by_size ? static_cast<double>(point.bytes) / 1e6 : point.latency;
    const double drop = std::clamp(point.drop, -most, most);
    plot.x.cover(cost * 1.04);
    plot.y.cover(drop);
    PlotPoint shown{cost, drop,
                    fmt::format("{}: {:.4g}, drop {:.4f}", point.label, cost, point.drop)};
    if (point.on_front) plot.series[1].points.push_back(shown);
    if (!point.on_front && !point.chosen) plot.series[0].points.push_back(shown);
    shown.large = true;
    if (point.chosen) plot.series[2].points.push_back(shown);
  }
  std::vector<PlotPoint>& front = plot.series[1].points;
  std::stable_sort(front.begin(), front.end(),
                   [](const PlotPoint& a, const PlotPoint& b) { return a.x < b.x; });
  return to_svg(std::move(plot));
}

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

template <class Row>
struct Field {
  const char* name;
  std::variant<std::string Row::*, Json Row::*, bool Row::*, int64_t Row::*, uint64_t Row::*,
               double Row::*>
      member;
};

constexpr Field<SensitivityRow> kSensitivityFields[] = {
    {"node", &SensitivityRow::node},
    {"op", &SensitivityRow::op},
    {"precision", &SensitivityRow::precision},
    {"weights", &SensitivityRow::weights},
    {"bytes_saved", &SensitivityRow::bytes_saved},
    {"damage", &SensitivityRow::damage},
    {"sqnr_db", &SensitivityRow::sqnr_db},
    {"agreement", &SensitivityRow::agreement},
    {"drop", &SensitivityRow::drop},
};

constexpr Field<SearchPoint> kPointFields[] = {
    {"label", &SearchPoint::label},           {"options", &SearchPoint::options},
    {"single", &SearchPoint::single},         {"bytes", &SearchPoint::bytes},
    {"latency_ratio", &SearchPoint::latency}, {"drop", &SearchPoint::drop},
    {"damage", &SearchPoint::damage},         {"agreement", &SearchPoint::agreement},
    {"holds", &SearchPoint::holds},           {"on_front", &SearchPoint::on_front},
    {"chosen", &SearchPoint::chosen},         {"failure", &SearchPoint::failure},
};

template <class Row, size_t N>
Json write_fields(const Row& row, const Field<Row> (&fields)[N]) {
  Json out = Json::object();
  for (const Field<Row>& field : fields) {
    out[field.name] = std::visit(
        [&](auto member) -> Json {
          using T = std::decay_t<decltype(row.*member)>;
          if constexpr (std::is_same_v<T, double>) return finite(row.*member);
          return row.*member;
        },
        field.member);
  }
  return out;
}

template <class Row, size_t N>
Row read_fields(const Json& json, const Field<Row> (&fields)[N]) {
  Row row;
  for (const Field<Row>& field : fields) {
    const Json& value = json.at(field.name);
    std::visit(
        [&](auto member) {
          using T = std::decay_t<decltype(row.*member)>;
          if constexpr (std::is_same_v<T, Json>) {
            row.*member = value;
          } else if constexpr (std::is_same_v<T, double>) {
            row.*member = value.is_null() ? HUGE_VAL : value.template get<double>();
          } else {
            row.*member = value.template get<T>();
          }
        },
        field.member);
  }
  return row;
}

}  // namespace

Json to_json(const SensitivityRow& row) { return write_fields(row, kSensitivityFields); }
Json to_json(const SearchPoint& point) { return write_fields(point, kPointFields); }
SensitivityRow sensitivity_row(const Json& json) { return read_fields(json, kSensitivityFields); }
SearchPoint search_point(const Json& json) { return read_fields(json, kPointFields); }

Json sensitivity_json(const SensitivityReport& report) {
  Json rows = Json::array();
  for (const SensitivityRow& row : report.rows) rows.push_back(to_json(row));
  return {{"damage", report.damage},
          {"metric", report.metric},
          {"samples", report.samples},
          {"rows", std::move(rows)}};
}

Json search_json(const SearchReport& report) {
  Json points = Json::array();
  for (const SearchPoint& point : report.points) {
    Json row = to_json(point);
    if (point.latency <= 0) row.erase("latency_ratio");
    if (point.failure.empty()) row.erase("failure");
    points.push_back(std::move(row));
  }
  return {{"metric", report.metric},
          {"relative", report.relative},
          {"max_drop", report.max_drop},
          {"minimize", report.minimize},
          {"search_samples", report.search_samples},
          {"held_out_samples", report.held_out_samples},
          {"held_out_drop", finite(report.held_out_drop)},
          {"held_out_looks", report.held_out_looks},
          {"out_of_time", report.out_of_time},
          {"seconds", report.seconds},
          {"trials", std::move(points)}};
}

std::string sensitivity_table(const SensitivityReport& report) {
  std::string out =
      fmt::format("one layer at a time, {} samples; the most harmful first\n", report.samples);
  return out + text_table(sensitivity_cells(report, kTableRows), kSensitivityAlign, 2);
}

std::string search_table(const SearchReport& report) {
  return printable(search_summary(report)) + "\n" +
         text_table(search_cells(report), kSearchAlign, 2);
}

std::string sensitivity_markdown(const SensitivityReport& report) {
  return fmt::format("\nOne layer at a time, {} samples:\n\n", report.samples) +
         markdown_table(sensitivity_cells(report, kTableRows), kSensitivityAlign);
}

std::string search_markdown(const SearchReport& report) {
  return "\n" + escape_markdown(search_summary(report)) + "\n\n" +
         markdown_table(search_cells(report), kSearchAlign);
}

std::string sensitivity_html(const SensitivityReport& report) {
  const std::string note =
      fmt::format("{} when this layer alone is changed, on a logarithmic scale; {} samples",
                  report.damage, report.samples);
  return html_section(
      "Sensitivity",
      html_figures({html_figure("Damage by layer", sensitivity_plot(report), note)}) +
          html_details("All layers", html_table(sensitivity_cells(report, report.rows.size() + 1),
                                                kSensitivityAlign)));
}

std::string search_html(const SearchReport& report) {
  return html_section("Search",
                      html_paragraph(search_summary(report)) +
                          html_figures({html_figure("What was tried", search_plot(report))}) +
                          html_table(search_cells(report), kSearchAlign));
}

std::string sensitivity_svg(const SensitivityReport& report) {
  return svg_document(sensitivity_plot(report));
}

std::string search_svg(const SearchReport& report) { return svg_document(search_plot(report)); }

}  // namespace compress
