// Derivatives of reductions and of softmax.
#include <algorithm>
#include <optional>

#include "compress/train/gradient.h"

namespace compress::train {
namespace {

// The axes of a reduction, empty for all; nullopt where they are computed.
std::optional<std::vector<int64_t>> axes_of(const Gradient& g) {
  if (g.in(1) != kNoValue) {
    const Tensor* axes = g.constant(g.in(1));
    if (axes == nullptr) return std::nullopt;
    return axes->to_ints();
  }
  return g.node().ints_or("axes", {});
}

bool reduces_nothing(const Gradient& g) {
  const auto axes = axes_of(g);
  return axes && axes->empty() && g.node().int_or("noop_with_empty_axes", 0) != 0;
}

std::vector<int64_t> reduced_axes(const Gradient& g) {
  std::vector<int64_t> axes = axes_of(g).value();
  if (!axes.empty() || reduces_nothing(g)) return axes;
  for (int i = 0; i < g.rank(g.in(0)); ++i) axes.push_back(i);
  return axes;
}

// A result with the reduced axes put back as 1, so that it broadcasts against the input.
ValueId with_axes(const Gradient& g, ValueId id) {
  if (g.node().int_or("keepdims", 1) != 0 || reduces_nothing(g)) return id;
  const std::vector<int64_t> axes = reduced_axes(g);
  if (axes.empty()) return id;
  return g.op("Unsqueeze", {id, g.ints(axes)});
}

std::string refuse(const Gradient& g) {
  if (g.rank(g.in(0)) < 0) return "an input of unknown rank";
  return axes_of(g) ? "" : "its axes are computed";
}

void reduce_sum(Gradient& g) {
  g.give(0, g.op("Expand", {with_axes(g, g.dy()), g.shape_of(g.in(0))}));
}

// Elements of the input over those of the output.
ValueId count_of(const Gradient& g) {
  const auto size = [&](ValueId id) { return g.as_float(g.op("Size", {id})); };
  return g.op("Div", {size(g.in(0)), size(g.out(0))});
}

void reduce_mean(Gradient& g) {
  const ValueId share = g.op("Div", {with_axes(g, g.dy()), count_of(g)});
  g.give(0, g.op("Expand", {share, g.shape_of(g.in(0))}));
}

// Equal extremes share alike.
void reduce_extreme(Gradient& g) {
  const ValueId chosen = g.as_float(g.op("Equal", {g.in(0), with_axes(g, g.out(0))}));
  const std::vector<int64_t> axes = reduced_axes(g);
  const ValueId ties = axes.empty() ? chosen : g.op("ReduceSum", {chosen, g.ints(axes)});
  g.give(0, g.op("Mul", {chosen, g.op("Div", {with_axes(g, g.dy()), ties})}));
}

void reduce_l2(Gradient& g) {
  const ValueId ratio = g.op("Div", {with_axes(g, g.dy()), with_axes(g, g.out(0))});
  g.give(0, g.op("Mul", {g.in(0), ratio}));
}

void reduce_l1(Gradient& g) {
  g.give(0, g.op("Mul", {g.op("Sign", {g.in(0)}), with_axes(g, g.dy())}));
}

void reduce_sum_square(Gradient& g) {
  const ValueId twice = g.op("Mul", {g.in(0), g.scalar(2)});
  g.give(0, g.op("Mul", {twice, with_axes(g, g.dy())}));
}

void reduce_log_sum_exp(Gradient& g) {
  const ValueId share = g.op("Exp", {g.op("Sub", {g.in(0), with_axes(g, g.out(0))})});
  g.give(0, g.op("Mul", {share, with_axes(g, g.dy())}));
}

// --- Softmax -------------------------------------------------------------------------------------

// Up to opset 12 all axes from `axis` on are one; the gradient is taken over a matrix then.
struct Rows {
  ValueId y, dy;
  int64_t axis;
  bool joined;
};

Rows rows_of(const Gradient& g) {
  if (g.opset() >= 13) return {g.out(0), g.dy(), g.node().int_or("axis", -1), false};
  const int64_t axis = g.node().int_or("axis", 1);
  const auto matrix = [&](ValueId id) { return g.op("Flatten", {id}, {{"axis", axis, ""}}); };
  return {matrix(g.out(0)), matrix(g.dy()), 1, true};
}

void finish(Gradient& g, const Rows& rows, ValueId dx) {
  g.give(0, rows.joined ? g.like(dx, g.in(0)) : dx);
}

ValueId row_sum(const Gradient& g, const Rows& rows, ValueId id) {
  const int64_t axis[] = {rows.axis};
  return g.op("ReduceSum", {id, g.ints(axis)});
}

// dx = y (dy - sum(y dy))
void softmax(Gradient& g) {
  const Rows rows = rows_of(g);
  const ValueId sum = row_sum(g, rows, g.op("Mul", {rows.y, rows.dy}));
  finish(g, rows, g.op("Mul", {rows.y, g.op("Sub", {rows.dy, sum})}));
}

// dx = dy - exp(y) sum(dy)
void log_softmax(Gradient& g) {
  const Rows rows = rows_of(g);
  const ValueId share = g.op("Mul", {g.op("Exp", {rows.y}), row_sum(g, rows, rows.dy)});
  finish(g, rows, g.op("Sub", {rows.dy, share}));
}

constexpr GradientDef kRows[] = {
    {"", "ReduceSum", reduce_sum, refuse},
    {"", "ReduceMean", reduce_mean, refuse},
    {"", "ReduceMax", reduce_extreme, refuse},
    {"", "ReduceMin", reduce_extreme, refuse},
    {"", "ReduceL1", reduce_l1, refuse},
    {"", "ReduceL2", reduce_l2, refuse},
    {"", "ReduceSumSquare", reduce_sum_square, refuse},
    {"", "ReduceLogSumExp", reduce_log_sum_exp, refuse},
    {"", "Softmax", softmax},
    {"", "LogSoftmax", log_softmax},
};

}  // namespace

const std::span<const GradientDef> kReductionGradients = kRows;

}  // namespace compress::train
