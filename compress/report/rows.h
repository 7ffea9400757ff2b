// What the renderings of a report have in common: its numbers as text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "compress/report/report.h"
#include "compress/report/tables.h"

namespace compress {

// One line of the summary.
struct Line {
  std::string label;
  std::string reference;
  std::string candidate;
  std::string change;
  std::string reference_interval = {};
  std::string candidate_interval = {};
};
std::vector<Line> lines_of(const Report& report);

// The load test; empty where there was none.
Cells load_cells(const Report& report);
constexpr std::string_view kLoadAlign = "r";

struct SkipGroup {
  std::string pass;
  std::string reason;
  std::vector<std::string> nodes;  // empty: the whole model
};
// What passes left alone, by reason; most frequent first.
std::vector<SkipGroup> skip_groups(const Report& report);

// The most distorted first; those that are equal are left out.
std::vector<const LayerSimilarity*> worst_layers(const Report& report, size_t most);

std::string number(double value, std::string_view unit);
// "2.10x faster [2.05, 2.15]".
std::string speedup_text(const Benchmark& benchmark);
std::string data_line(const Report& report);
std::string verdict(const Report& report);  // "PASSED", "FAILED"

}  // namespace compress
