// Reshape and Flatten: where channels are after the elements were counted anew.
#include <algorithm>
#include <numeric>

#include "compress/error.h"
#include "passes/prune/channel_walk.h"

namespace compress {
namespace {

using Units = std::vector<ChannelUnit>;

constexpr int64_t kMostPositions = int64_t{1} << 22;

// Dimensions [in_from, in_to) of the input hold the same elements as [out_from, out_to) of the
// output, and those before and after them match likewise.
struct Piece {
  int in_from, in_to, out_from, out_to;
};

// The smallest such piece around an axis of the input, counted from the end; nullopt where a
// dimension that decides it is not known.
std::optional<Piece> piece_around(const Shape& in, const Shape& out, int axis) {
  int i = in.rank(), o = out.rank();
  while (i > 0) {
    const int in_to = i, out_to = o;
    int64_t in_count = 1, out_count = 1;
    do {
      const bool take_in = o == 0 || (i > 0 && in_count <= out_count);
      if (take_in && i == 0) return {};
      const int64_t dim = take_in ? in[--i] : out[--o];
      if (dim <= 0) return {};
      int64_t& count = take_in ? in_count : out_count;
      if (count > kMostPositions / dim) return {};
      count *= dim;
    } while (in_count != out_count);
    // Dimensions of 1 ahead of it belong to it as well: [1, 64] and [64, 1] are one piece.
    while (o > 0 && out[o - 1] == 1) --o;
    while (i > 0 && in[i - 1] == 1 && axis < i) --i;
    if (i <= axis) return Piece{i, in_to, o, out_to};
  }
  return {};
}

// The unit of each element of the piece.
Units spread(const Shape& in, const Piece& piece, const ChannelAxis& inputs) {
  const int64_t inner = in.count(inputs.axis + 1, piece.in_to);
  const int64_t outer = in.count(piece.in_from, inputs.axis);
  Units out;
  out.reserve(static_cast<size_t>(outer * inner) * inputs.units.size());
  for (int64_t o = 0; o < outer; ++o) {
    for (const ChannelUnit unit : inputs.units) {
      out.insert(out.end(), static_cast<size_t>(inner), unit);
    }
  }
  return out;
}

// The units along one axis of the output, if all elements at one position hold the same.
class Projection {
 public:
  Projection(const Shape& out, const Piece& piece, int axis)
      : size_(out[axis]), inner_(out.count(axis + 1, piece.out_to)) {}

  size_t position(size_t element) const {
    return element / static_cast<size_t>(inner_) % static_cast<size_t>(size_);
  }
  Units first(const Units& elements) const {
    Units units(static_cast<size_t>(size_));
    for (size_t i = elements.size(); i-- > 0;) units[position(i)] = elements[i];
    return units;
  }
  bool holds(const Units& elements, const ChannelUnits& sets) const {
    const Units units = first(elements);
    for (size_t i = 0; i < elements.size(); ++i) {
      if (sets.find(elements[i]) != sets.find(units[position(i)])) return false;
    }
    return true;
  }

 private:
  int64_t size_, inner_;
};

// The axis of the output that holds channels, tying what it mixes. -1: there is none.
int place(ChannelWalk& walk, const Shape& in, const Shape& out, const Piece& piece,
          const ChannelAxis& inputs, const Units& elements) {
  for (int axis = piece.out_from; axis < piece.out_to; ++axis) {
    if (out[axis] > 1 && Projection(out, piece, axis).holds(elements, walk.out.units)) return axis;
  }
  if (piece.in_to - piece.in_from != 1) return -1;
  // One axis becomes several: groups of channels, which a shuffle mixes, or heads with their
  // dimensions. Of groups each loses the same of its channels; heads go whole.
  const bool heads = inputs.axis == in.rank() - 1 && inputs.axis > 0;
  int axis = heads ? piece.out_from : piece.out_to - 1;
  while (out[axis] == 1 && axis + 1 < piece.out_to) ++axis;
  const Projection projection(out, piece, axis);
  const Units units = projection.first(elements);
  for (size_t i = 0; i < elements.size(); ++i) {
    walk.out.units.tie(elements[i], units[projection.position(i)]);
  }
  return axis;
}

}  // namespace

void reshape_channels(ChannelWalk& walk, NodeId id) {
  const Node& node = walk.graph.node(id);
  const ChannelAxis inputs = *walk.channels(node, 0);
  const std::optional<Shape> in = walk.shape(node, 0), out = walk.shape(node.outputs[0]);
  if (!in || !out) return walk.lock_inputs(id, "whose shape is computed");
  const std::optional<Piece> piece = piece_around(*in, *out, inputs.axis);
  if (!piece) return walk.lock_inputs(id, "whose shape is computed");
  const Units elements = spread(*in, *piece, inputs);
  const int axis = place(walk, *in, *out, *piece, inputs, elements);
  if (axis < 0) return walk.lock_inputs(id, "which mixes them");
  Units units = Projection(*out, *piece, axis).first(elements);
  if (node.is("Reshape") && !walk.set_dimension(id, axis, inputs.axis, units)) {
    return walk.lock_inputs(id, "whose shape is computed");
  }
  walk.set(node.outputs[0], axis, std::move(units));
}

}  // namespace compress
