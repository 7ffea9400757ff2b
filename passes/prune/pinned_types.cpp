// Dimensions that do not depend on those that a model leaves open.
//
// Traced models compute shapes: Reshape(x, Concat(batch, length, 12, -1)) has heads of 32 whatever
// the batch and the length are, but only once these are numbers can inference tell. So it is done
// twice, with two numbers for each open dimension, and what comes out the same both times stays.
#include <array>
#include <map>

#include "compress/error.h"
#include "compress/ops/op.h"
#include "passes/prune/prune.h"

namespace compress {
namespace {

// Sizes of open dimensions, no two alike; small enough for tables of positions.
constexpr std::array<std::array<int64_t, 12>, 2> kSizes = {
    {{61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109},
     {113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179}}};

// Of every input that leaves something open; nothing where there are too many, or ranks are open.
std::map<std::string, Shape> sizes_of(const Graph& graph, size_t round) {
  std::map<std::string, Shape> out;
  std::map<int64_t, int64_t> symbols;
  size_t used = 0;
  for (const ValueId id : graph.inputs()) {
    const Value& value = graph.value(id);
    if (value.is_constant()) continue;
    if (!value.type.has_shape) return {};
    Shape shape = value.type.shape;
    for (int i = 0; i < shape.rank(); ++i) {
      if (shape[i] >= 0) continue;
      const bool named = shape[i] != kUnknownDim;
      if (const auto row = symbols.find(shape[i]); named && row != symbols.end()) {
        shape[i] = row->second;
        continue;
      }
      if (used == kSizes[round].size()) return {};
      const int64_t size = kSizes[round][used++];
      if (named) symbols[shape[i]] = size;
      shape[i] = size;
    }
    if (shape != value.type.shape) out[value.name] = shape;
  }
  return out;
}

}  // namespace

void pin_types(Model& model) {
  std::array<Model, 2> tries = {model, model};
  try {
    for (size_t round = 0; round < tries.size(); ++round) {
      const auto sizes = sizes_of(model.graph, round);
      if (sizes.empty()) return;
      infer_types(tries[round], sizes);
    }
  } catch (const Error&) {
    return;  // not every size does; what is known stays
  }
  Graph& graph = model.graph;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    const TypeInfo& a = tries[0].graph.value(id).type;
    const TypeInfo& b = tries[1].graph.value(id).type;
    const bool both = a.has_shape && b.has_shape && a.shape.rank() == b.shape.rank();
    const bool is_inner = value.alive && value.producer != kNoNode && !graph.is_output(id);
    if (!is_inner || !both) continue;
    TypeInfo type = value.type;
    if (!type.has_shape) {
      type = a;
      for (int i = 0; i < type.shape.rank(); ++i) type.shape[i] = kUnknownDim;
    }
    if (type.shape.rank() != a.shape.rank()) continue;
    for (int i = 0; i < type.shape.rank(); ++i) {
      if (type.shape[i] < 0 && a.shape[i] >= 0 && a.shape[i] == b.shape[i]) {
        type.shape[i] = a.shape[i];
      }
    }
    graph.set_type(id, type);
  }
}

}  // namespace compress
