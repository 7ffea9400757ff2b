#include "compress/verify/explain.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <chrono>
#include <functional>

#include "compress/error.h"

namespace compress {
namespace {

// Below this a layer takes about as long to start as to compute (some microseconds each).
constexpr int64_t kSmallLayer = 300'000;

bool is_linear(const std::string& op) {
  return op.find("QuantizeLinear") != std::string::npos ||
         op.find("DequantizeLinear") != std::string::npos;
}

std::string percent(double part, double whole) {
  const double share = whole > 0 ? 100 * part / whole : 0;
  if (share > 0 && share < 1) return "under 1 %";
  return fmt::format("{:.0f} %", share > 99 && share < 100 ? 99 : share);
}

std::string megabytes(uint64_t bytes) {
  return bytes < 1'000'000 ? fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3)
                           : fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

// "12 MatMul (it is not quantized), 3 Conv (...)": groups by operator and reason, heaviest first.
std::string groups(const std::vector<const OrtNode*>& nodes, size_t most) {
  struct Group {
    int64_t nodes = 0;
    int64_t weight = 0;
  };
  std::map<std::pair<std::string, std::string>, Group> rows;
  for (const OrtNode* node : nodes) {
    Group& row = rows[{node->op, node->reason}];
    ++row.nodes;
    row.weight += node->macs > 0 ? node->macs : static_cast<int64_t>(node->weight_bytes);
  }
  std::vector<std::pair<std::pair<std::string, std::string>, Group>> sorted(rows.begin(),
                                                                            rows.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.weight > b.second.weight; });
  std::string out;
  for (size_t i = 0; i < sorted.size() && i < most; ++i) {
    const auto& [key, group] = sorted[i];
    out += fmt::format("{}{} {}", i == 0 ? "" : ", ", group.nodes, key.first);
    if (!key.second.empty()) out += fmt::format(" ({})", key.second);
  }
  if (sorted.size() > most) out += ", ...";
  return out;
}

void count(Explanation& out) {
  for (const ExplainedNode& row : out.nodes) {
    const OrtNode& node = row.ort;
    out.macs += node.macs;
    if (node.runs == OrtRuns::integer) out.integer_macs += node.macs;
    if (node.runs == OrtRuns::packed) out.packed_macs += node.macs;
    if (node.runs == OrtRuns::floating || node.runs == OrtRuns::dequantized) {
      out.float_macs += node.macs;
    }
    if (node.runs == OrtRuns::dequantized) {
      out.dequantized_macs += node.macs;
      if (!is_linear(node.op)) out.dequantized_bytes += node.weight_bytes;
    }
    out.contradictions += !node.as_ruled;
  }
}

// Of the nodes that share a kernel, the one that its time is told of: the heaviest, or the first
// that does more than convert.
ExplainedNode* main_node(const std::vector<ExplainedNode*>& group) {
  ExplainedNode* best = nullptr;
  const auto weight = [](const ExplainedNode& row) -> int64_t {
    if (row.ort.macs > 0) return row.ort.macs;
    return is_linear(row.ort.op) || row.ort.op == "Cast" || row.ort.runs == OrtRuns::folded ? -1
                                                                                            : 0;
  };
  for (ExplainedNode* row : group) {
    if (best == nullptr || weight(*row) > weight(*best)) best = row;
  }
  return best;
}

void join_kernels(const std::vector<KernelRecord>& kernels, std::vector<ExplainedNode>& nodes) {
  // A name may occur in several bodies: the first takes the records.
  std::map<std::string, ExplainedNode*> by_name;
  for (ExplainedNode& row : nodes) by_name.emplace(row.ort.node, &row);
  for (size_t at = 0; at < kernels.size();) {
    std::vector<ExplainedNode*> group;
    const KernelRecord& kernel = kernels[at];
    do {
      const auto row = by_name.find(kernels[at].node);
      if (row != by_name.end()) group.push_back(row->second);
      ++at;
    } while (at < kernels.size() && kernels[at].fused);
    ExplainedNode* main = main_node(group);
    for (ExplainedNode* row : group) {
      const bool takes_time = row == main;
      if (!row->kernel.empty() && !takes_time) continue;
      row->kernel = kernel.kernel;
      row->device = kernel.device;
      row->fused = !takes_time;
      if (takes_time) row->ms += kernel.milliseconds;
    }
  }
}

class Why {
 public:
  Why(const Explanation& explanation, bool vnni) : of_(explanation), vnni_(vnni) {}

  std::vector<std::string> lines() {
    const bool quantized = std::any_of(of_.nodes.begin(), of_.nodes.end(), [](const auto& row) {
      const OrtRuns runs = row.ort.runs;
      return runs == OrtRuns::integer || runs == OrtRuns::packed || runs == OrtRuns::dequantized ||
             is_linear(row.ort.op);
    });
    if (!quantized) {
      lines_.push_back("nothing in this model is quantized: all arithmetic is float");
      return lines_;
    }
    shares();
    dequantized();
    dynamic();
    overhead();
    slow();
    packed_rows();
    if (of_.integer_macs > 0 && !vnni_) {
      lines_.push_back(
          "this processor has no VNNI: integer layers gain at most about 2x over float (with VNNI "
          "about 4x), and ONNX Runtime adds pairs of uint8 x int8 products in 16 bits, which may "
          "saturate (--engine onnxruntime measures it)");
    }
    small();
    time_shares();
    return lines_;
  }

 private:
  template <class Test>
  std::vector<const OrtNode*> where(Test test) const {
    std::vector<const OrtNode*> out;
    for (const ExplainedNode& row : of_.nodes) {
      if (test(row.ort)) out.push_back(&row.ort);
    }
    return out;
  }

  void shares() {
    if (of_.macs == 0) return;
    const double all = static_cast<double>(of_.macs);
    if (of_.integer_macs == of_.macs) {
      lines_.push_back("ONNX Runtime computes all multiply-adds with integer kernels");
      return;
    }
    std::string line;
    const auto part = [&](int64_t macs, const char* how) {
      if (macs == 0) return;
      line += fmt::format("{}{} {}", line.empty() ? "" : ", ",
                          percent(static_cast<double>(macs), all), how);
    };
    part(of_.integer_macs, "with integer kernels");
    part(of_.packed_macs, "on packed weights");
    part(of_.float_macs, "in float");
    line = "ONNX Runtime computes the multiply-adds " + line;
    const auto stay = where([](const OrtNode& node) {
      return node.macs > 0 && (node.runs == OrtRuns::floating || node.runs == OrtRuns::dequantized);
    });
    if (!stay.empty()) line += ": " + groups(stay, 4);
    lines_.push_back(line);
  }

  void dequantized() {
    const auto nodes = where([](const OrtNode& node) {
      return node.runs == OrtRuns::dequantized && !is_linear(node.op) && node.weight_bytes > 0;
    });
    if (nodes.empty()) return;
    lines_.push_back(fmt::format("{} of weights are dequantized again on each run, for {}",
                                 megabytes(of_.dequantized_bytes), groups(nodes, 4)));
  }

  void dynamic() {
    const auto nodes =
        where([](const OrtNode& node) { return node.op == "DynamicQuantizeLinear"; });
    if (nodes.empty()) return;
    lines_.push_back(fmt::format(
        "activations are quantized on each run, {} times (DynamicQuantizeLinear reads its input "
        "twice); static quantization would have the ranges beforehand",
        nodes.size()));
  }

  void overhead() {
    const auto nodes = where([](const OrtNode& node) {
      return node.runs == OrtRuns::overhead && is_linear(node.op) &&
             node.op != "DynamicQuantizeLinear";
    });
    // One at each end of the integer part is what it takes.
    if (nodes.size() <= 3) return;
    lines_.push_back(
        fmt::format("{} nodes only convert between integer and float, around nodes that stay "
                    "float: {}",
                    nodes.size(), groups(nodes, 3)));
  }

  void slow() {
    const auto nodes = where([](const OrtNode& node) {
      return (node.runs == OrtRuns::integer || node.runs == OrtRuns::packed) &&
             !node.reason.empty();
    });
    if (!nodes.empty()) lines_.push_back("slower than they could be: " + groups(nodes, 4));
  }

  void packed_rows() {
    if (of_.packed_macs == 0) return;
    // Each weight is used once a row: multiply-adds by weights is the number of rows.
    uint64_t weights = 0;
    int64_t macs = 0;
    for (const ExplainedNode& row : of_.nodes) {
      if (row.ort.runs != OrtRuns::packed || row.ort.macs == 0) continue;
      weights += row.ort.weight_bytes;
      macs += row.ort.macs;
    }
    if (weights == 0) return;
    // Two weights a byte at 4 bits, one at 8: at least this many rows.
    const uint64_t rows = static_cast<uint64_t>(macs) / (2 * weights);
    if (rows < 8) return;
    lines_.push_back(fmt::format(
        "packed weights save memory traffic, which counts for a few rows at a time; here about {} "
        "rows share each weight, where dynamic int8 is faster",
        rows));
  }

  void small() {
    std::vector<int64_t> macs;
    for (const ExplainedNode& row : of_.nodes) {
      if (row.ort.macs > 0) macs.push_back(row.ort.macs);
    }
    if (macs.empty()) return;
    std::nth_element(macs.begin(), macs.begin() + static_cast<int64_t>(macs.size() / 2),
                     macs.end());
    const int64_t median = macs[macs.size() / 2];
    if (median >= kSmallLayer) return;
    lines_.push_back(
        fmt::format("its layers are small (half of the {} have less than {:.2f} million "
                    "multiply-adds at these input sizes): starting a kernel costs as much as what "
                    "integers save",
                    macs.size(), static_cast<double>(std::max<int64_t>(median, 10'000)) / 1e6));
  }

  void time_shares() {
    double all = 0, rest = 0;
    std::map<std::string, double> by_op;
    for (const ExplainedNode& row : of_.nodes) {
      all += row.ms;
      const OrtRuns runs = row.ort.runs;
      if (row.fused || runs == OrtRuns::integer || runs == OrtRuns::packed) continue;
      rest += row.ms;
      by_op[row.ort.op] += row.ms;
    }
    if (all <= 0 || rest < 0.1 * all) return;
    std::vector<std::pair<std::string, double>> rows(by_op.begin(), by_op.end());
    std::stable_sort(rows.begin(), rows.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    std::string list;
    for (size_t i = 0; i < rows.size() && i < 4; ++i) {
      if (rows[i].second < 0.02 * all) break;
      list += fmt::format("{}{} {}", list.empty() ? "" : ", ", rows[i].first,
                          percent(rows[i].second, all));
    }
    lines_.push_back(
        fmt::format("here, {} of the time goes to nodes that are no integer layers: {}",
                    percent(rest, all), list.empty() ? "many small ones" : list));
  }

  const Explanation& of_;
  bool vnni_;
  std::vector<std::string> lines_;
};

}  // namespace

bool has_vnni() {
#if defined(__x86_64__)
  // AVX-512 VNNI and AVX-VNNI; clang 14 has no name for the second one.
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 11)) != 0) return true;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4)) != 0;
#else
  return true;
#endif
}

std::vector<KernelRecord> profile_kernels(Session& session, std::span<const NamedTensor> feeds) {
  constexpr int kRuns = 5;
  constexpr double kSeconds = 3;
  session.run(feeds);
  session.profile(feeds);
  std::vector<KernelRecord> best = session.kernels();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 1; i < kRuns; ++i) {
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    if (taken.count() > kSeconds) break;
    session.profile(feeds);
    const std::vector<KernelRecord> next = session.kernels();
    for (size_t k = 0; k < best.size() && k < next.size(); ++k) {
      best[k].milliseconds = std::min(best[k].milliseconds, next[k].milliseconds);
    }
  }
  return best;
}

Explanation explain(const Model& model, const ExplainInput& input) {
  Explanation out;
  out.source = input.source;
  std::vector<OrtNode> rules = ort_rules(model, input.shapes);
  if (input.optimized != nullptr) apply_optimized(rules, model, *input.optimized);
  for (OrtNode& rule : rules) {
    ExplainedNode row;
    row.ort = std::move(rule);
    out.nodes.push_back(std::move(row));
  }
  join_kernels(input.kernels, out.nodes);
  count(out);
  out.why = Why(out, input.vnni).lines();
  return out;
}

}  // namespace compress
