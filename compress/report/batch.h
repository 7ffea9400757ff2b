// What became of each model of a batch, and its renderings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "compress/recipe.h"

namespace compress {

enum class BatchStatus {
  done,
  kept,  // an earlier run's output, found whole
  gate_failed,
  failed,
};
std::string_view status_name(BatchStatus status);  // "done", "kept", "gate failed", "failed"

struct BatchRow {
  std::string model;
  std::string recipe;
  std::string output;
  BatchStatus status = BatchStatus::failed;
  std::string message;  // of a failure: its error; else what the run noted
  uint64_t input_bytes = 0;
  uint64_t output_bytes = 0;
  std::string metric;                          // headline_metric()
  std::optional<double> reference, candidate;  // its values
  std::optional<double> speedup;
  double seconds = 0;
  uint64_t peak_memory_bytes = 0;

  bool wrote() const { return status != BatchStatus::failed; }
};

struct BatchSummary {
  std::string version;
  std::vector<BatchRow> rows;
  double seconds = 0;
  uint64_t peak_memory_bytes = 0;  // of all workers together, as sampled

  int64_t count(BatchStatus status) const;
};

// The first that a report has of top1, perplexity, spearman, agreement, cosine; "": none.
std::string_view headline_metric(const Json& metrics);
// Takes from a run's JSON report what a row shows of it.
void read_report(const Json& report, BatchRow& row);

Json to_json(const BatchSummary& summary);
// Fails (usage) where the text is no summary; `what` names it.
BatchSummary read_summary(std::string_view text, std::string_view what);
// Rows of several shards, sorted by model and recipe. Fails (usage) where two tell of one output.
BatchSummary merge(const std::vector<BatchSummary>& parts);

std::string to_table(const BatchSummary& summary);
// Text for the file by its extension: json, csv, md, html, xml. Fails (usage) for another.
std::string render(const BatchSummary& summary, std::string_view path);
void check_summary_path(std::string_view path);

}  // namespace compress
