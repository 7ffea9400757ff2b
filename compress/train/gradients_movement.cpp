// Derivatives of operators that move, join, cut and pick values.
#include "compress/train/gradient.h"

namespace compress::train {
namespace {

void reshape(Gradient& g) { g.give(0, g.like(g.dy(), g.in(0))); }

void transpose(Gradient& g) {
  const int rank = g.rank(g.in(0));
  std::vector<int64_t> reversed;
  for (int i = rank - 1; i >= 0; --i) reversed.push_back(i);
  const std::vector<int64_t> perm = g.node().ints_or("perm", reversed);
  std::vector<int64_t> back(perm.size());
  for (size_t i = 0; i < perm.size(); ++i) {
    back[static_cast<size_t>(perm[i])] = static_cast<int64_t>(i);
  }
  g.give(0, g.op("Transpose", {g.dy()}, {{"perm", back, ""}}));
}

std::string refuse_unknown_rank(const Gradient& g) {
  return g.rank(g.in(0)) < 0 ? "an input of unknown rank" : "";
}

void expand(Gradient& g) { g.give_broadcast(0, g.dy()); }

// The lengths of the parts along the axis, as one int64 tensor each.
ValueId length_of(const Gradient& g, ValueId id, int64_t axis) {
  const int64_t at[] = {axis};
  return g.op("Gather", {g.shape_of(id), g.ints(at)});
}

// Part i runs from the sum of the lengths before it to that with its own.
void concat(Gradient& g) {
  const int rank = g.rank(g.in(0));
  int64_t axis = g.node().int_or("axis", 1);
  if (axis < 0) axis += rank;
  const int64_t at[] = {axis};
  const int64_t zero[] = {0};
  ValueId start = g.ints(zero);
  for (size_t i = 0; i < g.node().inputs.size(); ++i) {
    const ValueId end = g.op("Add", {start, length_of(g, g.in(i), axis)});
    if (g.wants(i)) g.give(i, g.op("Slice", {g.dy(), start, end, g.ints(at)}));
    start = end;
  }
}

void split(Gradient& g) {
  std::vector<ValueId> parts;
  for (size_t i = 0; i < g.node().outputs.size(); ++i) {
    const ValueId dy = g.dy(i);
    parts.push_back(dy != kNoValue ? dy : g.op("Sub", {g.out(i), g.out(i)}));
  }
  g.give(0, g.op("Concat", parts, {{"axis", g.node().int_or("axis", 0), ""}}));
}

std::string refuse_split(const Gradient& g) {
  for (const ValueId out : g.node().outputs) {
    if (out == kNoValue) return "an output is left out";
  }
  return "";
}

// Operators whose outputs are each one input element, or none.
void move_by(Gradient& g, std::string_view type) {
  std::vector<ValueId> inputs = {g.dy(), g.shape_of(g.in(0))};
  for (size_t i = 1; i < g.node().inputs.size(); ++i) inputs.push_back(g.in(i));
  std::vector<Attribute> attributes = g.node().attributes;
  attributes.push_back({"of", g.node().op_type, ""});
  attributes.push_back({"of_opset", static_cast<int64_t>(g.opset()), ""});
  g.give(0, g.gradient_op(type, std::move(inputs), std::move(attributes)));
}

void move(Gradient& g) { move_by(g, "MoveGradient"); }

void resize(Gradient& g) {
  const bool nearest = g.node().string_or("mode", "nearest") == "nearest";
  move_by(g, nearest ? "MoveGradient" : "ResizeGradient");
}

std::string refuse_computed(const Gradient& g) {
  for (size_t i = 1; i < g.node().inputs.size(); ++i) {
    if (g.in(i) != kNoValue && g.constant(g.in(i)) == nullptr) return "its operands are computed";
  }
  return "";
}

std::string refuse_interpolation(const Gradient& g) {
  const bool crops =
      g.node().string_or("coordinate_transformation_mode", "") == "tf_crop_and_resize";
  if (crops) return "tf_crop_and_resize";
  return refuse_computed(g);
}

void reverse_sequence(Gradient& g) {
  g.give(0, g.op("ReverseSequence", {g.dy(), g.in(1)}, g.node().attributes));
}

ValueId zeros_like(const Gradient& g, ValueId id) {
  return g.op("Expand", {g.scalar(0), g.shape_of(id)});
}

void gather(Gradient& g) {
  g.give(0, g.gradient_op("GatherGradient", {g.dy(), g.in(1), g.shape_of(g.in(0))},
                          {{"axis", g.node().int_or("axis", 0), ""}}));
}

void gather_elements(Gradient& g) {
  g.give(0,
         g.op("ScatterElements", {zeros_like(g, g.in(0)), g.in(1), g.dy()},
              {{"axis", g.node().int_or("axis", 0), ""}, {"reduction", std::string("add"), ""}}));
}

// What is written over gets nothing; what is written gets what stands where it went.
void scatter_elements(Gradient& g) {
  const Attribute axis = {"axis", g.node().int_or("axis", 0), ""};
  if (g.wants(0)) {
    g.give(0, g.op("ScatterElements", {g.dy(), g.in(1), zeros_like(g, g.in(2))}, {axis}));
  }
  if (g.wants(2)) g.give(2, g.op("GatherElements", {g.dy(), g.in(1)}, {axis}));
}

void scatter_nd(Gradient& g) {
  if (g.wants(0)) g.give(0, g.op("ScatterND", {g.dy(), g.in(1), zeros_like(g, g.in(2))}));
  if (g.wants(2)) g.give(2, g.op("GatherND", {g.dy(), g.in(1)}));
}

std::string refuse_scatter(const Gradient& g) {
  const std::string reduction = g.node().string_or("reduction", "none");
  return reduction == "none" ? "" : "reduction " + reduction;
}

void gather_nd(Gradient& g) {
  g.give(0, g.op("ScatterND", {zeros_like(g, g.in(0)), g.in(1), g.dy()},
                 {{"reduction", std::string("add"), ""}}));
}

std::string refuse_gather_nd(const Gradient& g) {
  return g.node().int_or("batch_dims", 0) == 0 ? "" : "batch_dims";
}

void cumulative_sum(Gradient& g) {
  const int64_t reverse = g.node().int_or("reverse", 0) != 0;
  g.give(0,
         g.op("CumSum", {g.dy(), g.in(1)},
              {{"reverse", 1 - reverse, ""}, {"exclusive", g.node().int_or("exclusive", 0), ""}}));
}

constexpr GradientDef kRows[] = {
    {"", "Reshape", reshape},
    {"", "Flatten", reshape},
    {"", "Squeeze", reshape},
    {"", "Unsqueeze", reshape},
    {"", "Transpose", transpose, refuse_unknown_rank},
    {"", "Expand", expand},
    {"", "Concat", concat, refuse_unknown_rank},
    {"", "Split", split, refuse_split},
    {"", "Slice", move, refuse_computed},
    {"", "Pad", move, refuse_computed},
    {"", "Tile", move, refuse_computed},
    {"", "DepthToSpace", move},
    {"", "SpaceToDepth", move},
    {"", "ReverseSequence", reverse_sequence},
    {"", "Trilu", move, refuse_computed},
    {"", "Resize", resize, refuse_interpolation},
    {"", "Upsample", resize, refuse_interpolation},
    {"", "Gather", gather},
    {"", "GatherElements", gather_elements},
    {"", "GatherND", gather_nd, refuse_gather_nd},
    {"", "ScatterElements", scatter_elements, refuse_scatter},
    {"", "ScatterND", scatter_nd, refuse_scatter},
    {"", "CumSum", cumulative_sum},
};

}  // namespace

const std::span<const GradientDef> kMovementGradients = kRows;

}  // namespace compress::train
