// Reports of one model over time, side by side.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "compress/recipe.h"

namespace compress {

using Interval = std::pair<double, double>;

// What one report says of the candidate.
struct HistoryRow {
  std::string file;
  std::string date;
  std::string version;
  std::string reference;  // names without folders
  std::string candidate;
  uint64_t bytes = 0;
  std::string metric;  // headline_metric()
  std::optional<double> accuracy;
  std::optional<Interval> accuracy_interval;
  std::optional<double> latency_ms;
  std::optional<Interval> latency_interval;
  std::optional<double> speedup;
  std::optional<Interval> speedup_interval;
  int64_t gates = 0;
  int64_t gates_passed = 0;
  std::string measured_on;                // what latencies must share to be compared
  std::string evaluated_on;               // the same of accuracies
  std::vector<std::string> changes = {};  // against the row before: "latency worse"
};

struct History {
  std::string model;
  std::vector<HistoryRow> rows;
  std::vector<std::string> notes;  // what was not compared, and why
};

// Fails (usage) where the text is no report of two models.
HistoryRow read_history_row(std::string_view text, std::string_view what);
// By date where all have one. Fails (usage) where the reports are about different models.
History history_of(std::vector<HistoryRow> rows);

std::string to_table(const History& history);
// Text for the file by its extension: json, csv, md, html. Fails (usage) for another.
std::string render(const History& history, std::string_view path);
void check_history_path(std::string_view path);

}  // namespace compress
