// Unique: the distinct elements of a tensor, or slices along an axis.
#include <algorithm>
#include <numeric>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

using UniqueTypes = Types<bool, Half, BFloat16, float, double, int8_t, int16_t, int32_t, int64_t,
                          uint8_t, uint16_t, uint32_t, uint64_t>;

// The tensor as [outer, count, inner]: slices are the middle index.
struct Slices {
  int64_t outer, count, inner;
  bool flat;  // the output has one dimension
  Shape shape;
  int axis;
};

bool has_axis(const NodeContext& context) { return context.node().attribute("axis") != nullptr; }

Slices slices_of(const NodeContext& context) {
  const Shape& x = context.shape(0);
  if (!has_axis(context)) return {1, x.count(), 1, true, x, 0};
  const int axis = axis_of(context, context.node().int_or("axis", 0), x.rank());
  return {x.count(0, axis), x[axis], x.count(axis + 1, x.rank()), false, x, axis};
}

void infer_unique(NodeContext& context) {
  require_inputs(context, 1, 1);
  for (int i = 1; i < 4; ++i) context.set_output(i, DType::int64, {kUnknownDim});
  if (!has_axis(context)) return context.set_output(0, context.dtype(0), {kUnknownDim});
  if (!context.in(0).has_shape) return context.set_output(0, context.dtype(0));
  Shape out = context.shape(0);
  out[axis_of(context, context.node().int_or("axis", 0), out.rank())] = kUnknownDim;
  context.set_output(0, context.dtype(0), out);
}

// A total order: NaN behind all numbers, and equal to itself.
template <class T>
int order_of(T a, T b) {
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>) {
    return order_of(to_float(a), to_float(b));
  } else {
    if (a < b) return -1;
    if (b < a) return 1;
    return static_cast<int>(a != a) - static_cast<int>(b != b);
  }
}

template <class T>
int compare_slices(const T* x, const Slices& slices, int64_t a, int64_t b) {
  for (int64_t o = 0; o < slices.outer; ++o) {
    const T* left = x + (o * slices.count + a) * slices.inner;
    const T* right = x + (o * slices.count + b) * slices.inner;
    for (int64_t i = 0; i < slices.inner; ++i) {
      const int order = order_of(left[i], right[i]);
      if (order != 0) return order;
    }
  }
  return 0;
}

struct Groups {
  std::vector<int64_t> first;   // slice of each group's first occurrence
  std::vector<int64_t> counts;  // members of each group
  std::vector<int64_t> group;   // of each slice
};

template <class T>
Groups group_slices(const T* x, const Slices& slices, bool sorted) {
  std::vector<int64_t> order(static_cast<size_t>(slices.count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return compare_slices(x, slices, a, b) < 0; });
  Groups groups;
  groups.group.resize(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    if (i == 0 || compare_slices(x, slices, order[i - 1], order[i]) != 0) {
      groups.first.push_back(order[i]);
      groups.counts.push_back(0);
    }
    ++groups.counts.back();
    groups.group[static_cast<size_t>(order[i])] = static_cast<int64_t>(groups.first.size()) - 1;
  }
  if (sorted) return groups;
  // By first occurrence.
  std::vector<size_t> by_first(groups.first.size());
  std::iota(by_first.begin(), by_first.end(), size_t{0});
  std::sort(by_first.begin(), by_first.end(),
            [&](size_t a, size_t b) { return groups.first[a] < groups.first[b]; });
  Groups result;
  std::vector<int64_t> place(by_first.size());
  for (size_t i = 0; i < by_first.size(); ++i) {
    result.first.push_back(groups.first[by_first[i]]);
    result.counts.push_back(groups.counts[by_first[i]]);
    place[by_first[i]] = static_cast<int64_t>(i);
  }
  for (const int64_t group : groups.group) {
    result.group.push_back(place[static_cast<size_t>(group)]);
  }
  return result;
}

template <class T>
void write_slices(const Slices& slices, const Groups& groups, const KernelArgs& args) {
  const T* x = static_cast<const T*>(args.inputs[0].data);
  const auto count = static_cast<int64_t>(groups.first.size());
  Shape shape{count};
  if (!slices.flat) {
    shape = slices.shape;
    shape[slices.axis] = count;
  }
  args.allocate(0, args.inputs[0].dtype, shape);
  T* y = static_cast<T*>(args.outputs[0].data);
  for (int64_t o = 0; o < slices.outer; ++o) {
    for (const int64_t at : groups.first) {
      y = std::copy_n(x + (o * slices.count + at) * slices.inner, slices.inner, y);
    }
  }
}

Kernel prepare_unique(const NodeContext& context) {
  const Slices slices = slices_of(context);
  const bool sorted = context.node().int_or("sorted", 1) != 0;
  return dispatch(UniqueTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [slices, sorted,
                 wanted = std::array<bool, 4>{context.has_output(0), context.has_output(1),
                                              context.has_output(2),
                                              context.has_output(3)}](const KernelArgs& args) {
              const T* x = static_cast<const T*>(args.inputs[0].data);
              const Groups groups = group_slices(x, slices, sorted);
              if (wanted[0]) write_slices<T>(slices, groups, args);
              const std::vector<int64_t>* lists[] = {nullptr, &groups.first, &groups.group,
                                                     &groups.counts};
              for (int i = 1; i < 4; ++i) {
                const auto slot = static_cast<size_t>(i);
                if (!wanted[slot]) continue;
                args.allocate(i, DType::int64, {static_cast<int64_t>(lists[i]->size())});
                std::copy(lists[i]->begin(), lists[i]->end(), args.outputs[slot].as<int64_t>());
              }
            }};
  });
}

constexpr OpDef kRows[] = {
    sizing_row(any_row("Unique", 11, infer_unique, prepare_unique)),
};

}  // namespace

constinit const std::span<const OpDef> kUniqueOps = kRows;

}  // namespace compress
