// The proof: both models on the same data, side by side.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/console.h"
#include "cli/data.h"
#include "cli/progress.h"
#include "compress/report/report.h"

namespace compress {

// What `verify` alone offers.
struct VerifyExtras {
  bool explain = false;
  bool rules_only = false;       // --explain does not ask ONNX Runtime
  bool onnxruntime = false;      // the engine: Python's onnxruntime instead of our own
  double engine_timeout = 300;   // longest wait for one answer of it, seconds
  int concurrency = 0;           // clients at a time; 0: no load test unless there are batches
  std::vector<int64_t> batches;  // of the load test
  std::string profile;           // trace file
  int64_t generate = 0;          // tokens that both models generate after a prompt
  bool saturate = false;         // the candidate's sums of byte products, as on AVX2 without VNNI
};

// Gates and baseline, read and checked against what these flags and data can measure. Fails
// (usage).
struct GateSet {
  std::vector<Gate> gates;
  std::optional<Measurements> baseline;
};
GateSet read_gates(const CommonFlags& flags);
void check_measurable(const GateSet& gates, const CommonFlags& flags, SampleSource* evaluation,
                      const VerifyExtras& extras = {});

// Fails (usage) where a batch was asked for that a model or the data cannot take.
void check_batches(const Model& model, const std::vector<int64_t>& batches, JobData& data,
                   const CommonFlags& flags);

// Fills in everything of the report that comes from running the models. Both must have been read
// from files: their memory is measured in processes of their own.
void verify_models(const Model& reference, const Model& candidate, JobData& data,
                   const CommonFlags& flags, Progress& progress, Report& report,
                   const VerifyExtras& extras = {});

// Gates, report files, the table or JSON on standard output; the exit code.
int finish(Report& report, const GateSet& gates, const CommonFlags& flags);

constexpr uint64_t kMaxReportBytes = uint64_t{256} << 20;

}  // namespace compress
