#include "cli/machine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <ctime>
#include <fstream>
#include <set>
#include <span>

#include "build_info.h"
#include "compress/core/mapped_pages.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/kernels/isa.h"
#include "formats/onnx.h"
#include "passes/weights.h"

namespace compress {
namespace {

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  std::string line;
  while (std::getline(info, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

int64_t parameters_of(const Graph& graph) {
  int64_t count = 0;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && value.is_constant()) count += value.constant.count();
  }
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    if (const Tensor* tensor = node.is("Constant") ? node.tensor_or_null("value") : nullptr) {
      count += tensor->count();
    }
    for (const Body& body : node.bodies) count += parameters_of(*body.graph);
  }
  return count;
}

int64_t count_equal(std::span<const std::byte> floats, float wanted) {
  constexpr int64_t kRun = 1 << 18;  // an int32 holds their number
  std::atomic<int64_t> total{0};
  parallel_for(0, static_cast<int64_t>(floats.size() / sizeof(float)), kRun,
               [&](int64_t begin, int64_t end) {
                 PagesBehind pages(floats.data() + begin * 4);
                 int64_t found = 0;
                 for (int64_t at = begin; at < end; at += kRun) {
                   const std::byte* const run = floats.data() + at * 4;
                   const int64_t count = std::min(kRun, end - at);
                   int32_t equal = 0;
                   for (int64_t i = 0; i < count; ++i) {
                     float x;
                     std::memcpy(&x, run + i * 4, sizeof x);
                     equal += x == wanted;
                   }
                   found += equal;
                   pages.reached(run + count * 4);
                 }
                 total += found;
               });
  drop_mapped_pages(floats);
  return total;
}

// Elements that are `wanted`; of weights in a file they are read where they lie, at any address.
int64_t count_equal(const Tensor& weights, float wanted) {
  if (weights.dtype() == DType::float32 && !weights.is_deferred()) {
    return count_equal(weights.stored_bytes(), wanted);
  }
  const TensorData data = convert(weights, DType::float32).read();
  return count_equal(data.bytes(), wanted);
}

}  // namespace

std::string program_version() { return COMPRESS_VERSION; }

std::string program_build() {
  const std::string_view commit = COMPRESS_COMMIT;
  return fmt::format("{}{}{}, {}", commit, commit.empty() ? "" : ", ", COMPRESS_BUILD_TYPE,
                     COMPRESS_COMPILER);
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

MachineInfo machine_info() {
  const uint64_t pages = static_cast<uint64_t>(std::max(sysconf(_SC_PHYS_PAGES), 0L));
  const uint64_t page = static_cast<uint64_t>(std::max(sysconf(_SC_PAGESIZE), 0L));
  return {cpu_name(), kernels::isa_choice().name, thread_count(), pages * page};
}

int64_t parameter_count(const Model& model) { return parameters_of(model.graph); }

namespace {

struct ZeroCount {
  int64_t weights = 0;
  int64_t zeros = 0;
  double zero_bytes = 0;
  bool all_read = true;  // false: some are deferred, and not counted
};

ZeroCount count_zeros(const Model& model) {
  Model copy = model;  // find_weights hands out graphs that may be edited
  adopt_constant_nodes(copy.graph);
  std::set<std::pair<const Graph*, ValueId>> seen;
  ZeroCount out;
  for (const WeightRead& read : find_weights(copy, false)) {
    if (!seen.emplace(read.home, read.value).second) continue;
    const Tensor& weights = read.home->value(read.value).constant;
    if (!is_float(weights.dtype()) && !is_integer(weights.dtype())) continue;
    if (weights.is_deferred()) {
      out.all_read = false;
      continue;
    }
    // Quantized weights are symmetric where this program made them: zero is stored as 0.
    double zero = 0;
    if (read.dequantize != kNoNode) {
      const Node& node = read.graph->node(read.dequantize);
      const Tensor* point = node.inputs.size() > 2 ? read.graph->constant_input(node, 2) : nullptr;
      if (point != nullptr && point->count() == 1) zero = static_cast<double>(point->to_int());
    }
    const int64_t zeros = count_equal(weights, static_cast<float>(zero));
    out.weights += weights.count();
    out.zeros += zeros;
    out.zero_bytes += static_cast<double>(zeros) * info(weights.dtype()).bits / 8;
  }
  return out;
}

}  // namespace

std::optional<double> weight_sparsity(const Model& model) {
  const ZeroCount count = count_zeros(model);
  if (!count.all_read) return {};
  if (count.weights == 0) return 0;
  return static_cast<double>(count.zeros) / static_cast<double>(count.weights);
}

uint64_t bytes_without_zeros(const Model& model) {
  return serialized_bytes(model) - static_cast<uint64_t>(count_zeros(model).zero_bytes);
}

ModelSummary summarize(const Model& model, const std::string& path) {
  return {path,          model.file_bytes,      parameter_count(model), model.graph.node_count(),
          model.opset(), weight_sparsity(model)};
}

}  // namespace compress
