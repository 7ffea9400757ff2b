// What the tests of passes share: running recipes and comparing what models compute.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "compress/graph/builder.h"
#include "compress/runtime/session.h"
#include "passes/pass.h"

namespace compress::test {

inline Tensor random_tensor(const Shape& shape, uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  Tensor out = Tensor::allocate(DType::float32, shape);
  for (float& x : out.mutable_as<float>()) x = normal(generator);
  return out;
}

inline Tensor ints(std::initializer_list<int64_t> values) {
  return Tensor::from<int64_t>({static_cast<int64_t>(values.size())}, values);
}

inline PipelineResult run_step(Model& model, std::string step, Json options = Json::object(),
                               const PipelineOptions& pipeline = {}) {
  Recipe recipe;
  recipe.steps.push_back({std::move(step), std::move(options)});
  return run_pipeline(model, recipe, pipeline);
}

inline std::vector<Tensor> run(const Model& model, const std::vector<NamedTensor>& feed) {
  SessionOptions options;
  options.lower = false;
  Session session(model, options);
  return session.run(feed);
}

// max |a - b| / max(1e-3, max |b|) over all float outputs; other types must be equal.
inline double relative_error(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    REQUIRE(a[i].shape() == b[i].shape());
    REQUIRE(a[i].dtype() == b[i].dtype());
    if (!is_float(a[i].dtype())) {
      CHECK(same_content(a[i], b[i]));
      continue;
    }
    const std::vector<double> x = a[i].to_doubles();
    const std::vector<double> y = b[i].to_doubles();
    double largest = 1e-3;
    double error = 0;
    for (size_t k = 0; k < x.size(); ++k) {
      largest = std::max(largest, std::fabs(y[k]));
      error =
          std::isnan(x[k]) && std::isnan(y[k]) ? error : std::max(error, std::fabs(x[k] - y[k]));
      if (std::isnan(x[k]) != std::isnan(y[k])) error = HUGE_VAL;
    }
    worst = std::max(worst, error / largest);
  }
  return worst;
}

// Signal-to-quantization-noise ratio of the first output in dB.
inline double sqnr(const std::vector<Tensor>& reference, const std::vector<Tensor>& candidate) {
  const std::vector<double> r = reference[0].to_doubles();
  const std::vector<double> c = candidate[0].to_doubles();
  double signal = 0;
  double noise = 1e-30;
  for (size_t i = 0; i < r.size(); ++i) {
    signal += r[i] * r[i];
    noise += (r[i] - c[i]) * (r[i] - c[i]);
  }
  return 10 * std::log10(signal / noise);
}

inline int count_ops(const Graph& graph, std::string_view op) {
  int count = 0;
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    count += graph.node(id).alive && graph.node(id).op_type == op;
  }
  return count;
}

inline const Node& only_node(const Graph& graph, std::string_view op) {
  REQUIRE(count_ops(graph, op) == 1);
  NodeId found = kNoNode;
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    if (graph.node(id).alive && graph.node(id).op_type == op) found = id;
  }
  return graph.node(found);
}

// Bytes of all constants, bodies included, and a rough share for nodes: what a file would hold.
inline uint64_t model_bytes(const Graph& graph) {
  uint64_t bytes = 0;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (value.alive && value.is_constant() && info(value.constant.dtype()).bits > 0) {
      bytes += value.constant.bytes() + value.name.size() + 20;
    }
  }
  for (NodeId id = 0; id < graph.node_slots(); ++id) {
    const Node& node = graph.node(id);
    if (!node.alive) continue;
    bytes += 16 + node.name.size() + node.op_type.size();
    for (const ValueId in : node.inputs)
      bytes += in == kNoValue ? 2 : graph.value(in).name.size() + 2;
    for (const ValueId o : node.outputs)
      bytes += o == kNoValue ? 2 : graph.value(o).name.size() + 2;
    for (const Attribute& attribute : node.attributes) {
      bytes += attribute.name.size() + 12;
      if (const Tensor* tensor = std::get_if<Tensor>(&attribute.value)) bytes += tensor->bytes();
    }
    for (const Body& body : node.bodies) bytes += model_bytes(*body.graph);
  }
  return bytes;
}

// Statistics of the wanted values from runs over the feeds: calibration without a data set.
inline PipelineOptions with_statistics(std::vector<std::vector<NamedTensor>> feeds) {
  PipelineOptions options;
  options.statistics = [feeds = std::move(feeds)](
                           const Model& model, const StatisticsRequests& wanted, const Options&) {
    SessionOptions session_options;
    session_options.lower = false;
    for (const auto& [name, request] : wanted) session_options.observed.insert(name);
    Session session(model, session_options);
    StatisticsSet set;
    for (const auto& feed : feeds) {
      session.run(feed, [&](const std::string& value, const TensorView& content) {
        set.values[value].add(content, wanted.at(value));
      });
      ++set.samples;
    }
    return set;
  };
  return options;
}

// Statistics that quantization cannot correct biases from, for tests of what else wins accuracy.
inline PipelineOptions without_sums(PipelineOptions options) {
  options.statistics = [collect = std::move(options.statistics)](const Model& model,
                                                                 const StatisticsRequests& wanted,
                                                                 const Options& of_step) {
    StatisticsSet set = collect(model, wanted, of_step);
    for (auto& [name, statistics] : set.values) statistics.channel_count = 0;
    return set;
  };
  return options;
}

}  // namespace compress::test
