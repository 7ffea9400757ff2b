// Where the number of channels is itself a number that the model computes with: shapes of Reshape
// and Expand, and Shape nodes.
#include <algorithm>

#include "compress/error.h"
#include "compress/graph/label.h"
#include "passes/prune/channel_walk.h"

namespace compress {
namespace {

using Units = std::vector<ChannelUnit>;

constexpr int kDeepestTrace = 32;  // nodes between a Shape and the Reshape that its numbers reach

// A number of a list of dimensions: in a constant that one node alone reads.
struct Written {
  NodeId node = kNoNode;  // the reader of the shape, or the Concat that makes it
  size_t slot = 0;
  size_t index = 0;  // in the constant
  int64_t value = 0;
};

std::optional<Written> written_number(const ChannelWalk& walk, NodeId id, size_t index) {
  const Graph& graph = walk.graph;
  const Node& node = graph.node(id);
  const auto in_constant = [&](NodeId holder, size_t slot, size_t at) -> std::optional<Written> {
    const Tensor* tensor = walk.constant(graph.node(holder), slot);
    if (tensor == nullptr || tensor->dtype() != DType::int64) return {};
    const std::vector<int64_t> values = tensor->to_ints();
    if (at >= values.size()) return {};
    return Written{holder, slot, at, values[at]};
  };
  if (walk.constant(node, 1) != nullptr) return in_constant(id, 1, index);
  const ValueId shape = operand(node, 1);
  const NodeId producer = shape == kNoValue ? kNoNode : graph.value(shape).producer;
  if (producer == kNoNode || !graph.node(producer).is("Concat") ||
      single_reader(graph, shape) != id) {
    return {};
  }
  const Node& pieces = graph.node(producer);
  for (size_t slot = 0; slot < pieces.inputs.size(); ++slot) {
    const std::optional<Shape> length = walk.shape(pieces, slot);
    if (!length || length->rank() != 1 || (*length)[0] < 0) return {};
    if (index < static_cast<size_t>((*length)[0])) return in_constant(producer, slot, index);
    index -= static_cast<size_t>((*length)[0]);
  }
  return {};
}

void write_number(Graph& graph, const Written& at, int64_t count) {
  const Node& node = graph.node(at.node);
  std::vector<int64_t> values = graph.constant_input(node, at.slot)->to_ints();
  if (values[at.index] == count) return;
  values[at.index] = count;
  const auto length = static_cast<int64_t>(values.size());
  graph.set_input(
      at.node, at.slot,
      graph.add_constant(node.name + "_shape", Tensor::from<int64_t>({length}, values)));
}

// The same in a list that is computed somehow: Where takes this number from a constant.
void write_over(Graph& graph, NodeId id, size_t index, size_t rank, int64_t count) {
  const Node& node = graph.node(id);
  const auto length = static_cast<int64_t>(rank);
  Tensor mask = Tensor::zeros(DType::boolean, {length});
  mask.mutable_data()[index] = std::byte{1};
  std::vector<int64_t> numbers(rank, 0);
  numbers[index] = count;
  const std::string name = node.name + "_shape";
  const ValueId computed = node.inputs[1];
  const NodeId where = graph.insert_before(
      id,
      {"Where",
       {graph.add_constant(name + "_mask", std::move(mask)),
        graph.add_constant(name + "_number", Tensor::from<int64_t>({length}, numbers)), computed},
       {name}});
  graph.set_input(id, 1, graph.node(where).outputs[0]);
}

// The position of number `index` of a list in what `reader` makes of it, -1 where it leaves that
// out; nullopt where it is anything but a choice of numbers.
std::optional<int64_t> moved(const ChannelWalk& walk, const Node& reader, int32_t slot,
                             int64_t index) {
  const std::optional<Shape> list = walk.shape(reader, static_cast<size_t>(slot));
  const std::optional<Shape> made = walk.shape(reader.outputs[0]);
  if (!list || !made || list->rank() > 1 || made->rank() > 1) return {};
  const int64_t size = list->rank() == 0 ? 1 : (*list)[0];
  if (reader.is("Cast") || reader.is("Identity") || reader.is("Squeeze") ||
      reader.is("Unsqueeze")) {
    return slot == 0 ? std::optional(index) : std::nullopt;
  }
  if (reader.is("Concat")) {
    int64_t at = index;
    for (size_t before = 0; before < static_cast<size_t>(slot); ++before) {
      const std::optional<Shape> length = walk.shape(reader, before);
      if (!length || length->rank() != 1 || (*length)[0] < 0) return {};
      at += (*length)[0];
    }
    return at;
  }
  if (reader.is("Gather") && slot == 0) {
    const Tensor* indices = walk.constant(reader, 1);
    if (indices == nullptr) return {};
    int64_t found = -1, at = 0;
    for (const int64_t i : indices->to_ints()) {
      if ((i < 0 ? i + size : i) == index) {
        if (found >= 0) return {};
        found = at;
      }
      ++at;
    }
    return found;
  }
  const auto starts = walk.ints(reader, "starts", 1), ends = walk.ints(reader, "ends", 2);
  const bool plain = reader.is("Slice") && slot == 0 && starts && ends && starts->size() == 1 &&
                     ends->size() == 1 && operand(reader, 4) == kNoValue;
  if (!plain) return {};
  const auto bounded = [&](int64_t bound) {
    return std::clamp<int64_t>(bound < 0 ? bound + size : bound, 0, size);
  };
  const int64_t from = bounded((*starts)[0]);
  return index >= from && index < bounded((*ends)[0]) ? index - from : -1;
}

// The shapes of Reshape and Expand in which number `index` of a list ends, by what is read of it
// alone; false where it ends elsewhere, too.
bool trace(const ChannelWalk& walk, ValueId list, int64_t index, int depth,
           std::vector<ShapeNumber>& ends) {
  if (depth == kDeepestTrace || walk.graph.is_output(list)) return false;
  for (const Use& use : walk.graph.uses(list)) {
    const Node& reader = walk.graph.node(use.node);
    if (!reader.domain.empty() || !reader.bodies.empty()) return false;
    if ((reader.is("Reshape") || reader.is("Expand")) && use.slot == 1) {
      ends.push_back({use.node, static_cast<int>(index)});
      continue;
    }
    if (reader.outputs.empty()) return false;
    const std::optional<int64_t> at = moved(walk, reader, use.slot, index);
    if (!at) return false;
    if (*at >= 0 && !trace(walk, reader.outputs[0], *at, depth + 1, ends)) return false;
  }
  return true;
}

}  // namespace

bool ChannelWalk::set_dimension(NodeId id, int axis, int64_t copied, const Units& units) {
  const Node& node = graph.node(id);
  const auto index = static_cast<size_t>(axis);
  shape_numbers_[id] = {axis, units};
  if (const std::optional<Written> at = written_number(*this, id, index)) {
    if (at->value == 0 && node.is("Reshape")) return axis == copied;
    if (at->value == 1 && node.is("Expand")) return true;
    if (at->value > 0) {
      edit([at = *at, units](Graph& graph, const KeptChannels& kept) {
        write_number(graph, at, kept.count(units));
      });
    }
    return true;
  }
  const std::optional<Shape> made = shape(node.outputs[0]);
  constexpr int kWhere = 9;  // the first opset with Where
  if (operand(node, 1) == kNoValue || constant(node, 1) != nullptr || !made ||
      model.opset() < kWhere) {
    return false;
  }
  edit([id, index, rank = static_cast<size_t>(made->rank()), units](Graph& graph,
                                                                    const KeptChannels& kept) {
    const int64_t count = kept.count(units);
    if (count != static_cast<int64_t>(units.size())) write_over(graph, id, index, rank, count);
  });
  return true;
}

// A dimension that the model asks for has to end as the same dimension of what loses the same.
void ChannelWalk::check_asked() {
  for (const auto& [units, ends] : asked_) {
    for (const ShapeNumber& end : ends) {
      const auto row = shape_numbers_.find(end.node);
      const bool same = row != shape_numbers_.end() && row->second.first == end.axis &&
                        std::equal(units.begin(), units.end(), row->second.second.begin(),
                                   row->second.second.end(), [&](ChannelUnit a, ChannelUnit b) {
                                     return out.units.find(a) == out.units.find(b);
                                   });
      if (same) continue;
      const Node& node = graph.node(end.node);
      lock(units, fmt::format("their number shapes {}", describe(graph, node)));
    }
  }
}

// Who asks for the number of channels holds it, unless it only becomes a shape of theirs again.
void shape_of_channels(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis* inputs = walk.channels(node, 0);
  std::vector<ShapeNumber> ends;
  if (node.attribute("start") != nullptr || node.attribute("end") != nullptr ||
      !trace(walk, node.outputs[0], inputs->axis, 0, ends)) {
    return walk.lock_inputs(id, "");
  }
  if (!ends.empty()) walk.ask(inputs->units, std::move(ends));
}

// Expand repeats along axes of one; channels stay where they are, counted from the last axis.
void expand_channels(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis inputs = *walk.channels(node, 0);
  const std::optional<Shape> in = walk.shape(node, 0), out = walk.shape(node.outputs[0]);
  if (!in || !out || inputs.units.size() == 1) return walk.lock_inputs(id, "");
  const int axis = inputs.axis + out->rank() - in->rank();
  if ((*out)[axis] != static_cast<int64_t>(inputs.units.size()) ||
      !walk.set_dimension(id, axis, -1, inputs.units)) {
    return walk.lock_inputs(id, "whose shape is computed");
  }
  walk.set(node.outputs[0], axis, inputs.units);
}

}  // namespace compress
