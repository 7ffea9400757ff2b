#include "compress/report/search.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>
#include <variant>

#include "compress/error.h"
#include "compress/report/report.h"

namespace compress {
namespace {

constexpr size_t kTableRows = 20;

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

std::vector<std::vector<std::string>> search_cells(const SearchReport& report) {
  std::vector<std::vector<std::string>> cells = {
      {"setting", "size", "time", report.metric + " drop", "agreement", ""}};
  for (const SearchPoint* point : shown(report)) {
    const bool ran = point->failure.empty();
    cells.push_back({point->label, ran ? human_bytes(point->bytes) : "",
                     point->latency > 0 ? fmt::format("x {:.2f}", point->latency) : "",
                     ran ? fmt::format("{:.4f}", point->drop) : "",
                     ran ? fmt::format("{:.4f}", point->agreement) : "", remark(*point)});
  }
  return cells;
}

std::vector<std::vector<std::string>> sensitivity_cells(const SensitivityReport& report,
                                                        size_t most) {
  std::vector<std::vector<std::string>> cells = {{"layer", "op", "precision", report.damage, "SQNR",
                                                  "agreement", report.metric + " drop", "saves"}};
  for (const SensitivityRow* row : ranked(report)) {
    if (cells.size() > most) break;
    cells.push_back({row->node, row->op, row->precision, fmt::format("{:.3g}", row->damage),
                     fmt::format("{:.1f} dB", row->sqnr_db), fmt::format("{:.4f}", row->agreement),
                     fmt::format("{:.4f}", row->drop),
                     human_bytes(static_cast<uint64_t>(std::max<int64_t>(row->bytes_saved, 0)))});
  }
  return cells;
}

std::string text_table(const std::vector<std::vector<std::string>>& cells) {
  std::vector<size_t> width(cells[0].size(), 0);
  for (const auto& row : cells) {
    for (size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], printable(row[i]).size());
  }
  std::string out;
  for (const auto& row : cells) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += fmt::format("  {:<{}}", printable(row[i]), width[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string markdown_table(const std::vector<std::vector<std::string>>& cells) {
  std::string out;
  for (size_t r = 0; r < cells.size(); ++r) {
    out += "|";
    for (const std::string& cell : cells[r]) out += " " + escape_markdown(cell) + " |";
    out += "\n";
    if (r > 0) continue;
    out += "|";
    for (size_t i = 0; i < cells[r].size(); ++i) out += "---|";
    out += "\n";
  }
  return out;
}

std::string html_table(const std::vector<std::vector<std::string>>& cells) {
  std::string out = "<table>\n";
  for (size_t r = 0; r < cells.size(); ++r) {
    const char* tag = r == 0 ? "th" : "td";
    out += "<tr>";
    for (const std::string& cell : cells[r]) {
      out += fmt::format("<{0}>{1}</{0}>", tag, escape_xml(cell));
    }
    out += "</tr>\n";
  }
  return out + "</table>\n";
}

constexpr const char* kSvgHead =
    "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" "
    "font-family=\"sans-serif\" font-size=\"12\">\n";

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
  if (!any) return text + "; nothing holds, so the model stays float32";
  text += fmt::format("; held-out drop {:.4f}", report.held_out_drop);
  if (report.held_out_looks > 1) {
    text += fmt::format(" ({} cheaper ones did not hold there)", report.held_out_looks - 1);
  }
  return text;
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
  return out + text_table(sensitivity_cells(report, kTableRows));
}

std::string search_table(const SearchReport& report) {
  return printable(search_summary(report)) + "\n" + text_table(search_cells(report));
}

std::string sensitivity_markdown(const SensitivityReport& report) {
  return fmt::format("\nOne layer at a time, {} samples:\n\n", report.samples) +
         markdown_table(sensitivity_cells(report, kTableRows));
}

std::string search_markdown(const SearchReport& report) {
  return "\n" + escape_markdown(search_summary(report)) + "\n\n" +
         markdown_table(search_cells(report));
}

std::string sensitivity_html(const SensitivityReport& report) {
  return "<h2>Sensitivity</h2>\n" + sensitivity_svg(report) +
         html_table(sensitivity_cells(report, report.rows.size() + 1));
}

std::string search_html(const SearchReport& report) {
  return fmt::format("<h2>Search</h2>\n<p>{}</p>\n", escape_xml(search_summary(report))) +
         search_svg(report) + html_table(search_cells(report));
}

// A bar a row, logarithmic: damages of layers differ by orders of magnitude.
std::string sensitivity_svg(const SensitivityReport& report) {
  const auto rows = ranked(report);
  constexpr size_t kBars = 60;
  const size_t count = std::min(rows.size(), kBars);
  constexpr int kLeft = 330, kWide = 420, kRow = 16;
  double least = HUGE_VAL, most = 0;
  for (const SensitivityRow* row : rows) {
    if (!(row->damage > 0) || std::isinf(row->damage)) continue;
    least = std::min(least, row->damage);
    most = std::max(most, row->damage);
  }
  const double low = std::log10(std::min(least, most)) - 0.3,
               high = std::log10(std::max(most, 1e-300));
  std::string out = fmt::format(kSvgHead, kLeft + kWide + 90, count * kRow + 24);
  for (size_t i = 0; i < count; ++i) {
    const SensitivityRow& row = *rows[i];
    const double part = row.damage > 0 && high > low
                            ? std::clamp((std::log10(row.damage) - low) / (high - low), 0.0, 1.0)
                            : 0;
    const size_t y = i * kRow + 14;
    std::string name =
        row.node.size() > 36 ? "..." + row.node.substr(row.node.size() - 33) : row.node;
    out += fmt::format(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"{}\" y=\"{}\" "
        "width=\"{:.1f}\" height=\"{}\" fill=\"#4477aa\"/><text x=\"{:.1f}\" "
        "y=\"{}\">{:.2g}</text>\n",
        kLeft - 6, y, escape_xml(name), kLeft, y - 11, part * kWide, kRow - 4,
        kLeft + part * kWide + 4, y, row.damage);
  }
  return out + "</svg>\n";
}

// Size (or time) against the drop: front, other trials, what was allowed.
std::string search_svg(const SearchReport& report) {
  constexpr double kWide = 560, kHigh = 320, kLeft = 70, kTop = 16;
  const bool by_size = report.minimize == "size";
  const auto cost = [&](const SearchPoint& p) {
    return by_size ? static_cast<double>(p.bytes) / 1e6 : p.latency;
  };
  std::vector<const SearchPoint*> points;
  double most_cost = 0, most_drop = 4 * std::max(report.max_drop, 1e-4), least_drop = 0;
  for (const SearchPoint& point : report.points) {
    if (!point.failure.empty() || !std::isfinite(point.drop)) continue;
    points.push_back(&point);
    most_cost = std::max(most_cost, cost(point));
    least_drop = std::max(std::min(least_drop, point.drop), -most_drop);
  }
  const auto x = [&](double value) {
    return kLeft + kWide * value / std::max(most_cost * 1.05, 1e-12);
  };
  // What lost far more than was allowed stands at the upper edge.
  const auto y = [&](double drop) {
    const double part =
        (std::clamp(drop, least_drop, most_drop) - least_drop) / (most_drop - least_drop);
    return kTop + kHigh * (1 - part);
  };
  std::string out = fmt::format(kSvgHead, kLeft + kWide + 20, kTop + kHigh + 44);
  out += fmt::format(
      "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#999\"/>\n"
      "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#b00\" "
      "stroke-dasharray=\"4\"/><text x=\"{}\" y=\"{:.1f}\" fill=\"#b00\">allowed {:.4g}</text>\n",
      kLeft, kTop, kWide, kHigh, kLeft, kLeft + kWide, y(report.max_drop), y(report.max_drop),
      kLeft + 4, y(report.max_drop) - 4, report.max_drop);
  for (const SearchPoint* point : points) {
    const char* color = point->chosen ? "#cc3311" : point->on_front ? "#4477aa" : "#bbbbbb";
    out += fmt::format(
        "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\"><title>{}: {:.4g}, drop "
        "{:.4f}</title></circle>\n",
        x(cost(*point)), y(point->drop), point->chosen ? 7 : 4, color, escape_xml(point->label),
        cost(*point), point->drop);
  }
  out += fmt::format(
      "<text x=\"{}\" y=\"{}\">0</text><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.4g} {}</text>"
      "<text x=\"4\" y=\"{}\">{:.3g}</text><text x=\"4\" y=\"{}\">{:.3g}</text>"
      "<text x=\"{}\" y=\"{}\">{} drop over {}</text>\n",
      kLeft, kTop + kHigh + 16, kLeft + kWide, kTop + kHigh + 16, most_cost * 1.05,
      by_size ? "MB" : "of the time", kTop + 10, most_drop, kTop + kHigh, least_drop, kLeft + 180,
      kTop + kHigh + 34, escape_xml(report.metric), by_size ? "size" : "time");
  return out + "</svg>\n";
}

}  // namespace compress
