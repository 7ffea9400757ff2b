#include "compress/verify/layers.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "compress/core/int4.h"
#include "compress/graph/label.h"
#include "compress/runtime/session.h"
#include "compress/verify/distortion.h"

namespace compress {
namespace {

// The value that readers of `id` see: behind Q and DQ where the value is quantized.
ValueId after_quantization(const Graph& graph, ValueId id) {
  for (const Use& use : graph.uses(id)) {
    const Node& quantize = graph.node(use.node);
    if (quantize.op_type != "QuantizeLinear" || use.slot != 0) continue;
    for (const Use& next : graph.uses(quantize.outputs[0])) {
      const Node& dequantize = graph.node(next.node);
      if (dequantize.op_type == "DequantizeLinear" && next.slot == 0) return dequantize.outputs[0];
    }
  }
  return id;
}

struct Pair {
  std::string node;
  std::string op;
  std::string reference;  // value names
  std::string candidate;
  Distortion distortion;
};

std::vector<Pair> pairs_of(const Graph& reference, const Graph& candidate) {
  std::vector<Pair> pairs;
  for (const NodeId id : reference.order()) {
    const Node& node = reference.node(id);
    for (const ValueId output : node.outputs) {
      if (output == kNoValue) continue;
      const Value& value = reference.value(output);
      const ValueId other = candidate.find_value(value.name);
      if (other == kNoValue || candidate.value(other).is_constant()) continue;
      // Integers and shapes are not distorted; where the type is unknown the content decides.
      if (value.type.dtype != DType::undefined && !is_float(value.type.dtype)) continue;
      const ValueId seen = after_quantization(candidate, other);
      pairs.push_back({node.name.empty() ? value.name : node.name,
                       node.op_type,
                       value.name,
                       candidate.value(seen).name,
                       {}});
    }
  }
  return pairs;
}

std::vector<float> stored_floats(const Tensor& tensor) {
  const TensorData data = tensor.read();
  return to_floats(data.view());
}

const Tensor* constant_named(const Graph& graph, const std::string& name) {
  const ValueId id = graph.find_value(name);
  if (id == kNoValue || !graph.value(id).is_constant()) return nullptr;
  return &graph.value(id).constant;
}

// (q - zero_point) * scale with scale per tensor, per slice of the one axis whose length it has, or
// per block; empty where the shapes do not tell.
std::vector<float> dequantized(const Tensor& quantized, const Tensor& scale,
                               const Tensor* zero_point) {
  std::vector<float> q = stored_floats(quantized);
  const std::vector<float> s = stored_floats(scale);
  const std::vector<float> z = zero_point ? stored_floats(*zero_point) : std::vector<float>();
  const Shape& shape = quantized.shape();
  const int64_t n = static_cast<int64_t>(s.size());
  int axis = 0;
  int64_t block = 1;
  if (scale.shape().rank() == shape.rank() && shape.rank() > 0 && n > 1) {
    int shrunk = -1;
    for (int i = 0; i < shape.rank(); ++i) {
      if (scale.shape()[i] != shape[i]) shrunk = shrunk < 0 ? i : kMaxRank;
    }
    if (shrunk == kMaxRank) return {};
    axis = shrunk < 0 ? shape.rank() - 1 : shrunk;
    if (scale.shape()[axis] == 0) return {};
    block = (shape[axis] + scale.shape()[axis] - 1) / scale.shape()[axis];
    const int64_t inner = shape.count(axis + 1, shape.rank());
    for (size_t i = 0; i < q.size(); ++i) {
      const int64_t at = static_cast<int64_t>(i);
      const int64_t outer = at / (inner * shape[axis]);
      const int64_t along = at / inner % shape[axis] / block;
      const size_t k =
          static_cast<size_t>((outer * scale.shape()[axis] + along) * inner + at % inner);
      if (k >= s.size()) return {};
      q[i] = (q[i] - (k < z.size() ? z[k] : 0)) * s[k];
    }
    return q;
  }
  int matches = 0;
  for (int i = 0; i < shape.rank() && n > 1; ++i) {
    if (shape[i] == n) {
      if (matches++ == 0) axis = i;
    }
  }
  if (n > 1 && matches == 0) return {};
  const int64_t inner = n > 1 ? shape.count(axis + 1, shape.rank()) : 1;
  for (size_t i = 0; i < q.size(); ++i) {
    const size_t k = n > 1 ? static_cast<size_t>(static_cast<int64_t>(i) / inner % n) : 0;
    q[i] = (q[i] - (k < z.size() ? z[k] : 0)) * s[k];
  }
  return q;
}

// MatMulNBits keeps [N, blocks, bytes]; the reference's weight is [K, N].
std::vector<float> dequantized_nbits(const Graph& graph, const Node& node, const Shape& like) {
  const Tensor* packed = graph.constant_input(node, 1);
  const Tensor* scales = graph.constant_input(node, 2);
  const Tensor* zeros = node.inputs.size() > 3 ? graph.constant_input(node, 3) : nullptr;
  if (packed == nullptr || scales == nullptr || like.rank() != 2) return {};
  const int64_t k_size = node.int_or("K", 0), n_size = node.int_or("N", 0);
  const int64_t bits = node.int_or("bits", 4), block = node.int_or("block_size", 32);
  if (k_size != like[0] || n_size != like[1] || block < 1 || (bits != 4 && bits != 8 && bits != 2))
    return {};
  const int64_t blocks = (k_size + block - 1) / block;
  const int64_t zero_bytes = (blocks * bits + 7) / 8;
  if (packed->dtype() != DType::uint8 || packed->count() != n_size * blocks * block * bits / 8 ||
      scales->count() != n_size * blocks ||
      (zeros != nullptr &&
       (zeros->dtype() != DType::uint8 || zeros->count() != n_size * zero_bytes)))
    return {};
  const TensorData data = packed->read();
  const uint8_t* bytes = data.as<uint8_t>().data();
  const std::vector<float> s = stored_floats(*scales);
  const TensorData zero_data = zeros ? zeros->read() : TensorData();
  const uint8_t* zero = zeros ? zero_data.as<uint8_t>().data() : nullptr;
  const auto element = [&](const uint8_t* base, int64_t i) {
    return bits == 8 ? base[i] : get_packed(base, i, static_cast<int>(bits), false);
  };
  std::vector<float> out(static_cast<size_t>(k_size * n_size));
  for (int64_t n = 0; n < n_size; ++n) {
    for (int64_t k = 0; k < k_size; ++k) {
      const int64_t b = k / block;
      const int z = zero ? element(zero + n * zero_bytes, b) : 1 << (bits - 1);
      const int q = element(bytes + n * blocks * block * bits / 8, k);
      out[static_cast<size_t>(k * n_size + n)] =
          static_cast<float>(q - z) * s[static_cast<size_t>(n * blocks + b)];
    }
  }
  return out;
}

struct StoredWeight {
  std::vector<float> floats;  // as the node that reads it sees them
  DType dtype = DType::undefined;
  uint64_t bytes = 0;  // with scales and zero points
};

uint64_t bytes_of(std::initializer_list<const Tensor*> tensors) {
  uint64_t sum = 0;
  for (const Tensor* tensor : tensors) sum += tensor == nullptr ? 0 : tensor->bytes();
  return sum;
}

// The candidate's version of the weight `name`.
StoredWeight stored_weight(const Graph& graph, const std::string& name, const Tensor& reference) {
  for (const char* suffix : {"", "_quantized", "_Q4", "_Q8", "_DQ_Q4", "_DQ_Q8"}) {
    const Tensor* stored = constant_named(graph, name + suffix);
    if (stored == nullptr) continue;
    if (stored->dtype() == reference.dtype()) {
      return {stored_floats(*stored), stored->dtype(), stored->bytes()};
    }
    const ValueId id = graph.find_value(name + suffix);
    for (const Use& use : graph.uses(id)) {
      const Node& node = graph.node(use.node);
      if (node.op_type == "MatMulNBits") {
        const int64_t bits = node.int_or("bits", 4);
        return {dequantized_nbits(graph, node, reference.shape()),
                bits == 4 ? DType::uint4 : DType::uint8,
                bytes_of({stored, graph.constant_input(node, 2), graph.constant_input(node, 3)})};
      }
      if (node.op_type == "DequantizeLinear" && graph.constant_input(node, 1) != nullptr) {
        const Tensor* scale = graph.constant_input(node, 1);
        const Tensor* zero = graph.constant_input(node, 2);
        return {dequantized(*stored, *scale, zero), stored->dtype(),
                bytes_of({stored, scale, zero})};
      }
    }
    for (const char* scale_suffix : {"_scale", "_scales"}) {
      if (const Tensor* scale = constant_named(graph, name + scale_suffix)) {
        const Tensor* zero = constant_named(graph, name + "_zero_point");
        return {dequantized(*stored, *scale, zero), stored->dtype(),
                bytes_of({stored, scale, zero})};
      }
    }
  }
  return {};
}

double share_of_zeros(std::span<const float> values) {
  const auto zeros = std::count(values.begin(), values.end(), 0.0f);
  return static_cast<double>(zeros) / static_cast<double>(values.size());
}

WeightSimilarity unchanged_weight(const std::string& name, const Tensor& tensor) {
  WeightSimilarity row;
  row.name = name;
  row.dtype = info(tensor.dtype()).name;
  row.sqnr_db = HUGE_VAL;
  row.elements = tensor.count();
  row.candidate_bytes = tensor.bytes();
  row.reference_zeros = row.candidate_zeros = share_of_zeros(stored_floats(tensor));
  return row;
}

WeightSimilarity compare_weight(const std::string& name, std::span<const float> ours,
                                const StoredWeight& theirs) {
  WeightSimilarity row;
  row.name = name;
  row.dtype = info(theirs.dtype).name;
  row.elements = static_cast<int64_t>(ours.size());
  row.candidate_bytes = theirs.bytes;
  row.reference_zeros = share_of_zeros(ours);
  row.candidate_zeros = share_of_zeros(theirs.floats);
  Distortion distortion;
  distortion.add(ours, theirs.floats);
  row.sqnr_db = distortion.sqnr_db();
  double low = HUGE_VAL, high = -HUGE_VAL;
  for (const std::span<const float> side : {ours, std::span<const float>(theirs.floats)}) {
    for (const float value : side) {
      if (!std::isfinite(value)) continue;
      low = std::min<double>(low, value);
      high = std::max<double>(high, value);
    }
  }
  if (low <= high) {
    row.reference_bins = bins_of(ours, low, high);
    row.candidate_bins = bins_of(theirs.floats, low, high);
  }
  return row;
}

}  // namespace

LayerComparison compare_layers(const Model& reference, const Model& candidate, SampleSource& data,
                               const std::vector<int64_t>& indices, const LayerOptions& options) {
  LayerComparison result;
  std::vector<Pair> pairs = pairs_of(reference.graph, candidate.graph);
  SessionOptions ours, theirs;
  ours.lower = theirs.lower = options.lower;
  std::multimap<std::string, Pair*> by_candidate;
  for (Pair& pair : pairs) {
    ours.observed.insert(pair.reference);
    theirs.observed.insert(pair.candidate);
    by_candidate.emplace(pair.candidate, &pair);
  }
  Session reference_session(reference, ours);
  Session candidate_session(candidate, theirs);
  for (const int64_t index : indices) {
    const Sample sample = data.get(index);
    std::map<std::string, std::vector<float>> kept;
    uint64_t bytes = 0;
    reference_session.run(sample.inputs, [&](const std::string& name, const TensorView& content) {
      if (!is_float(content.dtype)) return;
      const uint64_t size = static_cast<uint64_t>(content.count()) * sizeof(float);
      if (bytes + size > options.max_bytes) {
        result.truncated = true;
        return;
      }
      bytes += size;
      kept[name] = to_floats(content);
    });
    candidate_session.run(sample.inputs, [&](const std::string& name, const TensorView& content) {
      const auto [begin, end] = by_candidate.equal_range(name);
      for (auto row = begin; row != end; ++row) {
        const auto stored = kept.find(row->second->reference);
        if (stored == kept.end() || !is_comparable(content.dtype)) continue;
        if (static_cast<int64_t>(stored->second.size()) != content.count()) continue;
        row->second->distortion.add(stored->second, to_floats(content));
        kept.erase(stored);
      }
    });
    ++result.samples;
  }
  for (const Pair& pair : pairs) {
    if (pair.distortion.count() == 0) continue;
    result.layers.push_back({pair.node, pair.op, pair.reference, pair.distortion.sqnr_db()});
  }
  return result;
}

std::vector<WeightSimilarity> compare_weights(const Model& reference, const Model& candidate) {
  std::vector<WeightSimilarity> out;
  const Graph& graph = reference.graph;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive || !value.is_constant() || !is_float(value.constant.dtype())) continue;
    if (value.constant.count() < 2) continue;
    const Tensor* same = constant_named(candidate.graph, value.name);
    WeightSimilarity row;
    if (same != nullptr && same_content(*same, value.constant)) {
      row = unchanged_weight(value.name, value.constant);
    } else {
      const StoredWeight stored = stored_weight(candidate.graph, value.name, value.constant);
      if (static_cast<int64_t>(stored.floats.size()) != value.constant.count()) continue;
      row = compare_weight(value.name, stored_floats(value.constant), stored);
    }
    row.reference_bytes = value.constant.bytes();
    if (!graph.uses(id).empty()) {
      const Node& reader = graph.node(graph.uses(id)[0].node);
      row.node = label(graph, reader);
      row.op = reader.op_type;
    }
    out.push_back(std::move(row));
  }
  return out;
}

}  // namespace compress
