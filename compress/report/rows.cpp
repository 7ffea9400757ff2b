#include "compress/report/rows.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "compress/error.h"

namespace compress {
namespace {

std::string count(int64_t value) {
  if (value >= 10'000'000) return fmt::format("{:.1f} M", static_cast<double>(value) / 1e6);
  return fmt::format("{}", value);
}

std::string times(double reference, double candidate) {
  return reference > 0 ? fmt::format("x {:.3f}", candidate / reference) : "";
}

void add_models(const Report& report, std::vector<Line>& lines) {
  if (!report.reference) return;
  const ModelSummary& a = *report.reference;
  if (!report.candidate) {
    lines.push_back({"size", human_bytes(a.bytes), "", ""});
    lines.push_back({"parameters", count(a.parameters), "", ""});
    return;
  }
  const ModelSummary& b = *report.candidate;
  lines.push_back({"size", human_bytes(a.bytes), human_bytes(b.bytes),
                   times(static_cast<double>(a.bytes), static_cast<double>(b.bytes))});
  lines.push_back({"parameters", count(a.parameters), count(b.parameters), ""});
  lines.push_back({"nodes", count(a.nodes), count(b.nodes), ""});
  if (a.sparsity && b.sparsity && std::max(*a.sparsity, *b.sparsity) >= 5e-4) {
    lines.push_back({"weights that are zero", fmt::format("{:.1f} %", 100 * *a.sparsity),
                     fmt::format("{:.1f} %", 100 * *b.sparsity), ""});
  }
}

void add_intervals(const Evaluation& evaluation, std::string_view metric, Line& line) {
  const auto found = evaluation.intervals.find(metric);
  if (found == evaluation.intervals.end()) return;
  const auto text = [](const std::pair<double, double>& interval) {
    return fmt::format("{:.4f} to {:.4f}", interval.first, interval.second);
  };
  line.reference_interval = text(found->second.reference);
  line.candidate_interval = text(found->second.candidate);
  if (const auto& drop = found->second.drop) {
    line.change += fmt::format(" [{:+.2f}, {:+.2f}]", -100 * drop->second, -100 * drop->first);
  }
}

void add_quality(const Report& report, std::vector<Line>& lines) {
  if (!report.evaluation) return;
  for (const MetricDef& metric : all_metrics()) {
    if (const auto row = report.evaluation->accuracy.find(metric.name);
        row != report.evaluation->accuracy.end()) {
      const Measured& value = row->second;
      const double change = value.candidate - value.reference;
      lines.push_back({std::string(metric.name), number(value.reference, metric.unit),
                       number(value.candidate, metric.unit),
                       metric.unit == "fraction" ? fmt::format("{:+.2f} points", 100 * change)
                                                 : fmt::format("{:+.4f}", change)});
      add_intervals(*report.evaluation, metric.name, lines.back());
    } else if (const auto same = report.evaluation->similarity.find(metric.name);
               same != report.evaluation->similarity.end() && metric.name != "mse" &&
               metric.name != "psnr") {
      lines.push_back(
          {std::string(metric.name), "", number(same->second.candidate, metric.unit), ""});
    }
  }
}

void add_generation(const Generation& row, std::vector<Line>& lines) {
  const GenerationSide& a = row.reference;
  const GenerationSide& b = row.candidate;
  lines.push_back({fmt::format("first token after {}", row.prompt_tokens),
                   number(a.prompt_ms, "ms"), number(b.prompt_ms, "ms"),
                   fmt::format("{:.2f}x", row.prompt_speedup)});
  if (a.tokens.size() < 2) return;
  lines.push_back({fmt::format("tokens a second, {} more", a.tokens.size() - 1),
                   number(a.tokens_per_second, "1/s"), number(b.tokens_per_second, "1/s"),
                   fmt::format("{:.2f}x", row.speedup)});
  lines.push_back(
      {"same tokens", "", fmt::format("first {} of {}", row.same_tokens, a.tokens.size()), ""});
}

void add_cost(const Report& report, std::vector<Line>& lines) {
  for (const SpeedRow& row : report.speed) {
    const Benchmark& b = row.benchmark;
    const auto interval = [](const Timing& timing) {
      return fmt::format("{} to {}", number(timing.median_low_ms, "ms"),
                         number(timing.median_high_ms, "ms"));
    };
    const std::string where = fmt::format("{}, {} thread{}, batch {}", row.device, row.threads,
                                          row.threads == 1 ? "" : "s", row.batch);
    lines.push_back({"latency (" + where + ")", number(b.reference.median_ms, "ms"),
                     number(b.candidate.median_ms, "ms"), speedup_text(b), interval(b.reference),
                     interval(b.candidate)});
    lines.push_back(
        {"latency, 90 % / 99 %",
         fmt::format("{} / {}", number(b.reference.p90_ms, "ms"), number(b.reference.p99_ms, "ms")),
         fmt::format("{} / {}", number(b.candidate.p90_ms, "ms"), number(b.candidate.p99_ms, "ms")),
         ""});
    lines.push_back({"throughput", number(b.reference.throughput, "1/s"),
                     number(b.candidate.throughput, "1/s"), ""});
  }
  if (report.generation) add_generation(*report.generation, lines);
  if (report.reference_use && report.candidate_use) {
    const ResourceUse& a = *report.reference_use;
    const ResourceUse& b = *report.candidate_use;
    lines.push_back({"peak memory", human_bytes(a.peak_memory_bytes),
                     human_bytes(b.peak_memory_bytes),
                     times(static_cast<double>(a.peak_memory_bytes),
                           static_cast<double>(b.peak_memory_bytes))});
    lines.push_back({"processor use", fmt::format("{:.0f} %", a.cpu_percent),
                     fmt::format("{:.0f} %", b.cpu_percent), ""});
  }
}

}  // namespace

std::string number(double value, std::string_view unit) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? (unit == "dB" ? "exact" : "inf") : "-inf";
  if (unit == "bytes") return human_bytes(static_cast<uint64_t>(std::max(value, 0.0)));
  if (unit == "dB") return fmt::format("{:.1f} dB", value);
  if (unit == "ms") {
    const int digits = value < 0.1 ? 4 : value < 1 ? 3 : value < 100 ? 2 : 1;
    return fmt::format("{:.{}f} ms", value, digits);
  }
  if (unit == "1/s") return fmt::format("{:.{}f} /s", value, value < 100 ? 1 : 0);
  if (value != 0 && std::fabs(value) < 1e-3) return fmt::format("{:.2e}", value);
  return fmt::format("{:.4f}", value);
}

std::vector<Line> lines_of(const Report& report) {
  std::vector<Line> lines;
  add_models(report, lines);
  add_quality(report, lines);
  add_cost(report, lines);
  return lines;
}

Cells load_cells(const Report& report) {
  if (report.load.empty()) return {};
  Cells rows = {{"clients", "batch", "reference p50 / p90 / p99", "throughput",
                 "candidate p50 / p90 / p99", "throughput", "gain"}};
  const auto times_of = [](const LoadSide& side) {
    return fmt::format("{:.2f} / {:.2f} / {:.2f} ms", side.timing.median_ms, side.timing.p90_ms,
                       side.timing.p99_ms);
  };
  for (const LoadRow& row : report.load) {
    rows.push_back(
        {fmt::format("{} x {} thread{}", row.concurrency, row.threads, row.threads == 1 ? "" : "s"),
         std::to_string(row.batch), times_of(row.reference),
         number(row.reference.timing.throughput, "1/s"), times_of(row.candidate),
         number(row.candidate.timing.throughput, "1/s"), fmt::format("{:.2f}x", row.speedup)});
  }
  return rows;
}

std::vector<SkipGroup> skip_groups(const Report& report) {
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> by_reason;
  for (const PassSummary& pass : report.passes) {
    // What optimize leaves before another step is of no interest to whoever runs that step.
    if (pass.step == "optimize" && report.command != "optimize") continue;
    for (const auto& skip : pass.skipped) {
      std::vector<std::string>& nodes = by_reason[{pass.name, skip.reason}];
      if (!skip.node.empty()) nodes.push_back(skip.node);
    }
  }
  std::vector<SkipGroup> groups;
  for (auto& [key, nodes] : by_reason) groups.push_back({key.first, key.second, std::move(nodes)});
  std::stable_sort(groups.begin(), groups.end(), [](const SkipGroup& a, const SkipGroup& b) {
    return a.nodes.size() > b.nodes.size();
  });
  return groups;
}

std::vector<const LayerSimilarity*> worst_layers(const Report& report, size_t most) {
  std::vector<const LayerSimilarity*> rows;
  for (const LayerSimilarity& row : report.layers) {
    if (!std::isinf(row.sqnr_db)) rows.push_back(&row);
  }
  const auto worse = [](const LayerSimilarity* a, const LayerSimilarity* b) {
    if (std::isnan(a->sqnr_db) || std::isnan(b->sqnr_db)) {
      return std::isnan(a->sqnr_db) && !std::isnan(b->sqnr_db);
    }
    return a->sqnr_db < b->sqnr_db;
  };
  std::stable_sort(rows.begin(), rows.end(), worse);
  if (rows.size() > most) rows.resize(most);
  return rows;
}

std::string speedup_text(const Benchmark& b) {
  if (b.speedup < 1) {
    return fmt::format("{:.2f}x slower [{:.2f}, {:.2f}]", 1 / b.speedup, 1 / b.speedup_high,
                       1 / b.speedup_low);
  }
  return fmt::format("{:.2f}x faster [{:.2f}, {:.2f}]", b.speedup, b.speedup_low, b.speedup_high);
}

std::string data_line(const Report& report) {
  const std::string engine = report.engine == "compress" ? "" : "; engine: " + report.engine;
  if (!report.evaluation) return fmt::format("data: {}{}", report.data, engine);
  return fmt::format("data: {}; {} samples{}{}", report.data, report.evaluation->samples,
                     report.evaluation->labelled ? "" : ", no labels", engine);
}

std::string verdict(const Report& report) { return report.passed() ? "PASSED" : "FAILED"; }

std::string human_bytes(uint64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes < 1000) return fmt::format("{} B", bytes);
  if (bytes < 1'000'000) return fmt::format("{:.1f} kB", value / 1e3);
  if (bytes < 1'000'000'000) return fmt::format("{:.2f} MB", value / 1e6);
  return fmt::format("{:.2f} GB", value / 1e9);
}

}  // namespace compress
