// What a search tried and what single layers cost, as data for reports.
#pragma once

#include <string>
#include <vector>

#include "compress/recipe.h"
#include "compress/verify/sensitivity.h"

namespace compress {

struct SensitivityReport {
  std::string damage;  // what the column is: "kl" or "noise"
  std::string metric;
  int64_t samples = 0;
  std::vector<SensitivityRow> rows;
};

// One setting that a search tried.
struct SearchPoint {
  std::string label;
  Json options = Json::object();  // of the step
  bool single = false;            // one setting for the whole model
  uint64_t bytes = 0;
  double latency = 0;  // over the reference's; 0: not measured
  double drop = 0;
  double damage = 0;
  double agreement = 0;
  bool holds = false;
  bool on_front = false;  // no other is smaller and loses less
  bool chosen = false;
  std::string failure = "";  // why it could not be built or run
};

struct SearchReport {
  std::string metric;
  bool relative = false;
  double max_drop = 0;
  std::string minimize;  // "size", "latency", "weights" (bytes are then those without zeros)
  int64_t search_samples = 0;
  int64_t held_out_samples = 0;
  double held_out_drop = 0;  // of what was chosen
  int64_t held_out_looks = 0;
  bool out_of_time = false;
  double seconds = 0;  // earlier runs of the same search included
  std::vector<SearchPoint> points;
};

// One row as JSON, by one table of fields each; numbers that are none are null. Read back they are
// what they were, except that those are infinite. Fail (invalid_model, by the JSON library) where a
// field is missing.
Json to_json(const SensitivityRow& row);
Json to_json(const SearchPoint& point);
SensitivityRow sensitivity_row(const Json& json);
SearchPoint search_point(const Json& json);

Json sensitivity_json(const SensitivityReport& report);
Json search_json(const SearchReport& report);
// Tables for a terminal, Markdown and HTML (with plots).
std::string sensitivity_table(const SensitivityReport& report);
std::string search_table(const SearchReport& report);
std::string sensitivity_markdown(const SensitivityReport& report);
std::string search_markdown(const SearchReport& report);
std::string sensitivity_html(const SensitivityReport& report);
std::string search_html(const SearchReport& report);
// The plots by themselves, as SVG documents.
std::string sensitivity_svg(const SensitivityReport& report);
std::string search_svg(const SearchReport& report);

}  // namespace compress
