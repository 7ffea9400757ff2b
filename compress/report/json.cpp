#include <cmath>
#include <limits>

#include "compress/report/report.h"

namespace compress {
namespace {

// JSON has no infinities: nlohmann writes null for them, and what is read back keeps its meaning
// where it matters ("metrics", which --baseline reads).
Json spelled(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

Json model_json(const ModelSummary& model) {
  return {{"path", model.path},
          {"bytes", model.bytes},
          {"parameters", model.parameters},
          {"nodes", model.nodes},
          {"opset", model.opset},
          {"sparsity", model.sparsity ? Json(*model.sparsity) : Json(nullptr)}};
}

Json timing_json(const Timing& timing) {
  return {{"median_ms", timing.median_ms},
          {"p90_ms", timing.p90_ms},
          {"p99_ms", timing.p99_ms},
          {"min_ms", timing.min_ms},
          {"median_ci", {timing.median_low_ms, timing.median_high_ms}},
          {"throughput", timing.throughput}};
}

Json use_json(const ResourceUse& use) {
  return {{"peak_memory_bytes", use.peak_memory_bytes}, {"cpu_percent", use.cpu_percent}};
}

Json passes_json(const std::vector<PassSummary>& passes) {
  Json out = Json::array();
  for (const PassSummary& pass : passes) {
    Json skipped = Json::array();
    for (const auto& skip : pass.skipped) {
      skipped.push_back({{"node", skip.node}, {"reason", skip.reason}});
    }
    Json row = {{"name", pass.name},
                {"step", pass.step},
                {"seconds", pass.seconds},
                {"changed", pass.changed},
                {"skipped", skipped}};
    if (!pass.details.empty()) row["details"] = pass.details;
    out.push_back(std::move(row));
  }
  return out;
}

Json intervals_json(const Evaluation& evaluation) {
  const auto pair = [](const std::pair<double, double>& interval) {
    return Json{interval.first, interval.second};
  };
  Json out = Json::object();
  for (const auto& [name, row] : evaluation.intervals) {
    out[name] = {{"reference", pair(row.reference)}, {"candidate", pair(row.candidate)}};
    if (row.drop) out[name]["drop"] = pair(*row.drop);
  }
  return out;
}

// Rows are labels, columns what was found.
Json matrix_json(const std::vector<int64_t>& counts, int64_t size) {
  Json rows = Json::array();
  for (int64_t r = 0; r < size; ++r) {
    rows.push_back(
        std::vector<int64_t>(counts.begin() + r * size, counts.begin() + (r + 1) * size));
  }
  return rows;
}

Json accuracy_json(const Evaluation& evaluation) {
  Json reference = Json::object(), candidate = Json::object(), drops = Json::object();
  for (const MetricDef& metric : all_metrics()) {
    const auto row = evaluation.accuracy.find(metric.name);
    if (row == evaluation.accuracy.end()) continue;
    const std::string name(metric.name);
    reference[name] = row->second.reference;
    candidate[name] = row->second.candidate;
    drops[name] = drop(metric, row->second);
  }
  Json out = {{"samples", evaluation.samples},
              {"labelled", evaluation.labelled},
              {"reference", reference},
              {"candidate", candidate},
              {"drop", drops}};
  if (!evaluation.intervals.empty()) out["intervals"] = intervals_json(evaluation);
  if (evaluation.confusion) {
    const Confusion& confusion = *evaluation.confusion;
    out["confusion"] = {{"reference", matrix_json(confusion.reference, confusion.classes)},
                        {"candidate", matrix_json(confusion.candidate, confusion.classes)}};
  }
  return out;
}

Json weight_json(const WeightSimilarity& row) {
  Json out = {{"name", row.name},
              {"node", row.node},
              {"op", row.op},
              {"dtype", row.dtype},
              {"sqnr_db", row.sqnr_db},
              {"elements", row.elements},
              {"reference_bytes", row.reference_bytes},
              {"candidate_bytes", row.candidate_bytes},
              {"reference_zeros", row.reference_zeros},
              {"candidate_zeros", row.candidate_zeros}};
  if (!row.reference_bins.counts.empty()) {
    out["histogram"] = {{"low", row.reference_bins.low},
                        {"high", row.reference_bins.high},
                        {"reference", row.reference_bins.counts},
                        {"candidate", row.candidate_bins.counts}};
  }
  return out;
}

Json activation_json(const ActivationRange& row) {
  Json out = {{"value", row.value}, {"min", row.min}, {"max", row.max}};
  if (row.chosen) out["covers"] = {row.chosen->first, row.chosen->second};
  if (!row.histogram.counts.empty()) out["histogram"] = row.histogram.counts;
  return out;
}

Json similarity_json(const Report& report) {
  Json outputs = Json::array(), layers = Json::array(), weights = Json::array();
  if (report.evaluation) {
    for (const OutputSimilarity& row : report.evaluation->outputs) {
      outputs.push_back({{"name", row.name},
                         {"sqnr_db", row.sqnr_db},
                         {"cosine", row.cosine},
                         {"max_abs_error", row.max_abs_error},
                         {"agreement", row.agreement},
                         {"mse", row.mse},
                         {"psnr_db", row.psnr_db},
                         {"kl", row.kl},
                         {"exact", row.max_abs_error == 0}});
    }
  }
  for (const LayerSimilarity& row : report.layers) {
    layers.push_back(
        {{"name", row.name}, {"op", row.op}, {"sqnr_db", row.sqnr_db}, {"value", row.value}});
  }
  for (const WeightSimilarity& row : report.weights) {
    weights.push_back(weight_json(row));
  }
  Json out = {{"outputs", outputs}, {"layers", layers}};
  if (!weights.empty()) out["weights"] = weights;
  return out;
}

Json speed_json(const SpeedRow& row) {
  return {{"device", row.device},
          {"threads", row.threads},
          {"batch", row.batch},
          {"data", row.data},
          {"runs", row.benchmark.runs},
          {"reference", timing_json(row.benchmark.reference)},
          {"candidate", timing_json(row.benchmark.candidate)},
          {"speedup", row.benchmark.speedup},
          {"speedup_ci", {row.benchmark.speedup_low, row.benchmark.speedup_high}}};
}

Json load_side_json(const LoadSide& side) {
  Json out = timing_json(side.timing);
  out["runs"] = side.runs;
  return out;
}

Json load_json(const LoadRow& row) {
  return {{"device", row.device},
          {"concurrency", row.concurrency},
          {"threads", row.threads},
          {"batch", row.batch},
          {"seconds", row.seconds},
          {"reference", load_side_json(row.reference)},
          {"candidate", load_side_json(row.candidate)},
          {"speedup", row.speedup}};
}

Json generation_side_json(const GenerationSide& side) {
  return {{"prompt_ms", side.prompt_ms},
          {"tokens_per_second", side.tokens_per_second},
          {"tokens", side.tokens}};
}

Json generation_json(const Generation& row) {
  return {{"prompt_tokens", row.prompt_tokens},
          {"rounds", row.rounds},
          {"reference", generation_side_json(row.reference)},
          {"candidate", generation_side_json(row.candidate)},
          {"prompt_speedup", row.prompt_speedup},
          {"speedup", row.speedup},
          {"same_tokens", row.same_tokens}};
}

}  // namespace

bool Report::passed() const {
  for (const GateResult& gate : gates) {
    if (!gate.passed) return false;
  }
  return true;
}

Measurements measurements(const Report& report) {
  Measurements out;
  if (report.evaluation) {
    out = report.evaluation->accuracy;
    out.insert(report.evaluation->similarity.begin(), report.evaluation->similarity.end());
  }
  if (report.reference && report.candidate) {
    const double ours = static_cast<double>(report.reference->bytes);
    const double theirs = static_cast<double>(report.candidate->bytes);
    out["size_bytes"] = {ours, theirs};
    out["size_ratio"] = {1, theirs / ours};
  }
  if (!report.speed.empty()) {
    const Benchmark& row = report.speed.front().benchmark;
    out["speedup"] = {1, row.speedup, std::pair(row.speedup_low, row.speedup_high)};
    out["latency_ms"] = {row.reference.median_ms, row.candidate.median_ms};
    out["throughput"] = {row.reference.throughput, row.candidate.throughput};
  }
  if (report.generation) {
    const Generation& row = *report.generation;
    out["prompt_ms"] = {row.reference.prompt_ms, row.candidate.prompt_ms};
    out["tokens_per_second"] = {row.reference.tokens_per_second, row.candidate.tokens_per_second};
  }
  if (report.reference_use && report.candidate_use) {
    out["peak_memory_bytes"] = {static_cast<double>(report.reference_use->peak_memory_bytes),
                                static_cast<double>(report.candidate_use->peak_memory_bytes)};
  }
  return out;
}

Json to_json(const Report& report) {
  Json json = {{"schema", "compress.report/1"},
               {"tool", {{"version", report.version}, {"build", report.build}}},
               {"command", report.command},
               {"date", report.date},
               {"recipe", report.recipe},
               {"seed", report.seed}};
  if (report.changed) json["changed"] = *report.changed;
  if (!report.note.empty()) json["note"] = report.note;
  json["machine"] = {{"cpu", report.machine.cpu},
                     {"isa", report.machine.isa},
                     {"threads", report.machine.threads},
                     {"memory_bytes", report.machine.memory_bytes}};
  if (report.reference) json["reference"] = model_json(*report.reference);
  if (report.candidate) {
    json["candidate"] = model_json(*report.candidate);
    if (report.reference && report.reference->bytes > 0) {
      json["candidate"]["size_ratio"] = static_cast<double>(report.candidate->bytes) /
                                        static_cast<double>(report.reference->bytes);
    }
  }
  json["passes"] = passes_json(report.passes);
  json["engine"] = report.engine;
  json["data"] = report.data;
  if (report.evaluation) json["accuracy"] = accuracy_json(*report.evaluation);
  json["similarity"] = similarity_json(report);
  if (!report.activations.empty()) {
    json["activations"] = Json::array();
    for (const ActivationRange& row : report.activations) {
      json["activations"].push_back(activation_json(row));
    }
  }
  json["speed"] = Json::array();
  for (const SpeedRow& row : report.speed) json["speed"].push_back(speed_json(row));
  if (!report.load.empty()) {
    json["load"] = Json::array();
    for (const LoadRow& row : report.load) json["load"].push_back(load_json(row));
  }
  if (report.generation) json["generation"] = generation_json(*report.generation);
  if (report.reference_use && report.candidate_use) {
    json["resources"] = {{"reference", use_json(*report.reference_use)},
                         {"candidate", use_json(*report.candidate_use)}};
  }
  if (!report.devices.empty()) json["devices"] = devices_json(report);
  json["kernels"] = Json::array();
  for (const KernelRow& row : report.kernels) {
    json["kernels"].push_back({{"node", row.node},
                               {"op", row.op},
                               {"device", row.device},
                               {"kernel", row.kernel},
                               {"ms", row.ms}});
  }
  if (report.explanation) json["explain"] = explanation_json(*report.explanation);
  if (report.sensitivity) json["sensitivity"] = sensitivity_json(*report.sensitivity);
  if (report.search) json["search"] = search_json(*report.search);
  json["metrics"] = Json::object();
  for (const auto& [name, value] : measurements(report)) {
    json["metrics"][name] = {{"reference", spelled(value.reference)},
                             {"candidate", spelled(value.candidate)}};
  }
  json["gates"] = Json::array();
  for (const GateResult& gate : report.gates) {
    json["gates"].push_back(
        {{"expression", gate.expression}, {"value", gate.value}, {"passed", gate.passed}});
  }
  json["notes"] = report.notes;
  json["result"] = report.passed() ? "passed" : "failed";
  json["seconds"] = report.seconds;
  json["peak_memory_bytes"] = report.peak_memory_bytes;
  return json;
}

}  // namespace compress
