#include "passes/prune/granularity.h"

#include <cctype>
#include <charconv>
#include <cmath>

#include "compress/error.h"
#include "passes/edit.h"

namespace compress {
namespace {

constexpr int64_t kMostNeighbours = 256;  // M of N:M
constexpr int64_t kLargestBlock = 4096;   // elements along a side

// "A<separator>B" as two numbers; nullopt for anything else.
std::optional<std::pair<int64_t, int64_t>> two_numbers(std::string_view text, char separator) {
  const size_t at = text.find(separator);
  if (at == std::string_view::npos) return {};
  int64_t numbers[2];
  const std::string_view parts[2] = {text.substr(0, at), text.substr(at + 1)};
  for (size_t i = 0; i < 2; ++i) {
    const char* end = parts[i].data() + parts[i].size();
    const auto [stop, error] = std::from_chars(parts[i].data(), end, numbers[i]);
    if (error != std::errc() || stop != end) return {};
  }
  return std::pair(numbers[0], numbers[1]);
}

// Axes in what the node reads.
std::optional<WeightAxes> axes_of(const Node& node, const Shape& shape) {
  const int rank = shape.rank();
  if (node.is("Conv") && rank >= 2) return WeightAxes{1, shape[1], 0};
  if (node.is("ConvTranspose") && rank >= 2) {
    const int64_t groups = std::max<int64_t>(1, node.int_or("group", 1));
    return WeightAxes{0, std::max<int64_t>(1, shape[0] / groups), 1};
  }
  if (node.is("Gemm") && rank == 2) {
    const int reduction = node.int_or("transB", 0) != 0 ? 1 : 0;
    return WeightAxes{reduction, shape[reduction], 1 - reduction};
  }
  if (node.is("MatMul") && rank == 1) return WeightAxes{0, shape[0], -1};
  if (node.is("MatMul") && rank >= 2) return WeightAxes{rank - 2, shape[rank - 2], rank - 1};
  if ((node.is("LSTM") || node.is("GRU")) && rank == 3) return WeightAxes{2, shape[2], 1};
  return {};
}

}  // namespace

Granularity read_granularity(const Options& options) {
  const std::string text = options.text("granularity");
  Granularity out;
  if (text == "element") return out;
  if (text == "channel" || text == "head") {
    out.unit = text == "head" ? PruneUnit::head : PruneUnit::channel;
    return out;
  }
  constexpr std::string_view kBlock = "block:";
  if (text.starts_with(kBlock)) {
    const auto sides = two_numbers(std::string_view(text).substr(kBlock.size()), 'x');
    if (!sides || std::min(sides->first, sides->second) < 1 ||
        std::max(sides->first, sides->second) > kLargestBlock) {
      fail(ErrorCode::usage,
           "--granularity '{}': write outputs by inputs, each from 1 to {}, as block:4x4", text,
           kLargestBlock);
    }
    out.unit = PruneUnit::block;
    out.rows = sides->first;
    out.columns = sides->second;
    return out;
  }
  const auto pair = two_numbers(text, ':');
  if (!pair) {
    fail(ErrorCode::usage,
         "--granularity '{}': there are element, N:M (as 2:4), block:RxC (as block:4x4), channel "
         "and head",
         text);
  }
  out.unit = PruneUnit::n_of_m;
  out.keep = pair->first;
  out.of = pair->second;
  if (out.keep < 1 || out.of <= out.keep || out.of > kMostNeighbours) {
    fail(ErrorCode::usage,
         "--granularity '{}': N of each M weights stay, so write 1 <= N < M <= {}, as 2:4", text,
         kMostNeighbours);
  }
  return out;
}

double read_sparsity(const Options& options, const Granularity& granularity) {
  constexpr double kDefault = 0.5;
  if (granularity.unit != PruneUnit::n_of_m) {
    return options.has("sparsity") ? options.number("sparsity") : kDefault;
  }
  const double implied =
      1 - static_cast<double>(granularity.keep) / static_cast<double>(granularity.of);
  constexpr double kWritten = 5e-4;  // 0.333 means 2:3
  if (options.has("sparsity") && std::fabs(options.number("sparsity") - implied) > kWritten) {
    fail(ErrorCode::usage,
         "--granularity {}:{} makes a sparsity of {:.4g}, --sparsity says {:.4g}; leave one out",
         granularity.keep, granularity.of, implied, options.number("sparsity"));
  }
  return implied;
}

std::optional<WeightAxes> weight_axes(const WeightRead& read) {
  const Graph& graph = *read.graph;
  const Node& node = graph.node(read.node);
  std::vector<const Node*> transposes;  // from the reader up
  ValueId id = operand(node, static_cast<size_t>(read.slot));
  while (id != read.value || read.graph != read.home) {
    const Value& value = graph.value(id);
    if (value.producer == kNoNode) return {};
    const Node& producer = graph.node(value.producer);
    const bool keeps = producer.is("Cast") || producer.is("Identity") ||
                       producer.is("QuantizeLinear") || producer.is("DequantizeLinear");
    if (producer.is("Transpose")) {
      transposes.push_back(&producer);
    } else if (!keeps) {
      return {};
    }
    id = operand(producer, 0);
  }
  // Down again, for the shape that the node reads, then back with its axes.
  Shape shape = read.home->value(read.value).constant.shape();
  std::vector<std::vector<int64_t>> orders;
  for (auto at = transposes.rbegin(); at != transposes.rend(); ++at) {
    std::vector<int64_t> order(static_cast<size_t>(shape.rank()));
    for (size_t i = 0; i < order.size(); ++i) order[i] = shape.rank() - 1 - static_cast<int>(i);
    order = (*at)->ints_or("perm", order);
    if (order.size() != static_cast<size_t>(shape.rank())) return {};
    Shape moved = shape;
    uint32_t seen = 0;
    for (int i = 0; i < shape.rank(); ++i) {
      const int64_t from = order[static_cast<size_t>(i)];
      if (from < 0 || from >= shape.rank()) return {};
      seen |= 1U << from;
      moved[i] = shape[static_cast<int>(from)];
    }
    if (seen + 1 != 1U << shape.rank()) return {};
    shape = moved;
    orders.push_back(std::move(order));
  }
  std::optional<WeightAxes> axes = axes_of(node, shape);
  if (!axes) return {};
  for (auto order = orders.rbegin(); order != orders.rend(); ++order) {
    axes->reduction = static_cast<int>((*order)[static_cast<size_t>(axes->reduction)]);
    if (axes->output >= 0) {
      axes->output = static_cast<int>((*order)[static_cast<size_t>(axes->output)]);
    }
  }
  return axes;
}

}  // namespace compress
