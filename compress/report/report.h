// What a command found out, as data; docs/report.md describes the JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compress/recipe.h"
#include "compress/report/search.h"
#include "compress/report/tables.h"
#include "compress/verify/benchmark.h"
#include "compress/verify/evaluate.h"
#include "compress/verify/explain.h"
#include "compress/verify/generate.h"
#include "compress/verify/layers.h"
#include "compress/verify/load.h"
#include "compress/verify/metric.h"
#include "compress/verify/ranges.h"
#include "compress/verify/resources.h"

namespace compress {

struct MachineInfo {
  std::string cpu;
  std::string isa;
  int threads = 0;
  uint64_t memory_bytes = 0;
};

struct ModelSummary {
  std::string path;
  uint64_t bytes = 0;
  int64_t parameters = 0;
  int64_t nodes = 0;
  int opset = 0;
  // Zeros among the weights; none where they were never computed (--dry-run).
  std::optional<double> sparsity = 0;
};

struct PassSummary {
  std::string name;
  std::string step;
  double seconds = 0;
  bool changed = false;
  struct Skip {
    std::string node;
    std::string reason;
  };
  std::vector<Skip> skipped;
  Json details = Json::object();
};

struct SpeedRow {
  std::string device = "cpu";
  int threads = 0;
  int64_t batch = 1;
  std::string data;  // "none": seeded noise
  Benchmark benchmark;
};

// The candidate on another device than the CPU.
struct DeviceReport {
  std::string device;  // "cuda"
  std::string name;    // of the product
  std::string capability, driver;
  uint64_t memory_bytes = 0;
  int nodes_on_device = 0;
  int nodes_on_cpu = 0;
  std::vector<std::string> ops_on_cpu;
  // Its outputs there (as candidate) against those on the CPU (as reference).
  std::optional<Evaluation> against_cpu;
};

struct KernelRow {
  std::string node;
  std::string op;
  std::string device;
  std::string kernel;
  double ms = 0;
};

struct GateResult {
  std::string expression;
  double value = 0;
  bool passed = false;
};

struct Report {
  std::string command;
  std::string date;  // when it ended, in UTC: 2026-01-31T12:00:00Z
  std::string version;
  std::string build;
  Json recipe = nullptr;  // null where there is none
  uint64_t seed = 0;
  std::optional<bool> changed;  // of commands that write a model
  std::string note;             // why nothing changed
  MachineInfo machine;
  std::optional<ModelSummary> reference;
  std::optional<ModelSummary> candidate;
  std::vector<PassSummary> passes;
  std::string data = "none";  // description of what was evaluated on
  std::vector<std::string> notes;
  std::optional<Evaluation> evaluation;
  std::vector<LayerSimilarity> layers;
  std::vector<WeightSimilarity> weights;
  std::vector<ActivationRange> activations;  // quantized ones, where statistics were at hand
  std::vector<SpeedRow> speed;
  std::string engine = "compress";  // or "onnxruntime 1.32.0": what ran the models
  std::vector<LoadRow> load;
  std::optional<Generation> generation;
  std::optional<ResourceUse> reference_use;
  std::optional<ResourceUse> candidate_use;
  std::vector<DeviceReport> devices;
  std::vector<KernelRow> kernels;
  std::optional<Explanation> explanation;  // of the candidate
  std::optional<SensitivityReport> sensitivity;
  std::optional<SearchReport> search;
  std::vector<GateResult> gates;
  double seconds = 0;
  uint64_t peak_memory_bytes = 0;

  bool passed() const;
};

// Every metric that the report holds, under its name in the table.
Measurements measurements(const Report& report);

Json to_json(const Report& report);
Json devices_json(const Report& report);
std::string device_line(const DeviceReport& row);
Json explanation_json(const Explanation& explanation);
// "why: ..." lines, then a line a node that runs.
std::string explanation_lines(const Explanation& explanation);
std::string explanation_table(const Explanation& explanation);
// The same for Markdown and HTML: reasons, and the nodes behind a fold.
std::string explanation_markdown(const Explanation& explanation);
std::string explanation_html(const Explanation& explanation);

// The summary for a terminal.
std::string to_table(const Report& report);
// The same for a pull request or a job summary.
std::string to_markdown(const Report& report);
// One self-contained page.
std::string to_html(const Report& report);
// Loss curves of the passes that trained; "" where none did.
std::string training_html(const Report& report);
// Gates as test cases.
std::string to_junit(const Report& report);

// Text for the file by its extension: json, md, html, csv, xml. Fails (usage) for another.
std::string render(const Report& report, std::string_view path);
// Fails (usage) where render() would.
void check_report_path(std::string_view path);

// "1.83 MB", "412 B".
std::string human_bytes(uint64_t bytes);

}  // namespace compress
