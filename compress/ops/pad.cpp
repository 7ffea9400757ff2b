// Pad, in all modes; negative pads crop.
#include <algorithm>

#include "compress/ops/families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

// Elements added before and after each dimension; nullopt where operands are not known yet.
struct Pads {
  std::vector<int64_t> before, after;
};

std::optional<Pads> pads_of(const NodeContext& context) {
  const int rank = context.shape(0).rank();
  const char* attribute = context.node().attribute("paddings") != nullptr ? "paddings" : "pads";
  const auto given = context.ints(attribute, 1);
  std::vector<int64_t> all;
  for (int i = 0; i < rank; ++i) all.push_back(i);
  const auto axes = context.ints("", 3, all);
  if (!given || !axes) return std::nullopt;
  const std::vector<int> at = axes_of(context, *axes, rank);
  if (given->size() != 2 * at.size()) context.invalid("pads does not fit the input's rank");
  Pads pads{std::vector<int64_t>(all.size(), 0), std::vector<int64_t>(all.size(), 0)};
  for (size_t i = 0; i < at.size(); ++i) {
    pads.before[static_cast<size_t>(at[i])] = (*given)[i];
    pads.after[static_cast<size_t>(at[i])] = (*given)[i + at.size()];
  }
  return pads;
}

void infer_pad(NodeContext& context) {
  require_inputs(context, 1, 4);
  const TypeInfo& in = context.in(0);
  if (!in.has_shape) return context.set_output(0, in.dtype);
  const auto pads = pads_of(context);
  if (!pads) return context.set_output(0, in.dtype, unknown_shape(in.shape.rank()));
  Shape out = in.shape;
  for (int i = 0; i < out.rank(); ++i) {
    const int64_t before = pads->before[static_cast<size_t>(i)];
    const int64_t after = pads->after[static_cast<size_t>(i)];
    if (!known(out[i])) {
      if (before != 0 || after != 0) out[i] = kUnknownDim;
      continue;
    }
    if (__builtin_add_overflow(out[i], before, &out[i]) ||
        __builtin_add_overflow(out[i], after, &out[i])) {
      context.invalid("the output is too large");
    }
    if (out[i] < 0) context.invalid(fmt::format("crops more than dimension {} has", i));
  }
  context.set_output(0, in.dtype, out);
}

// The input's index for each index of a padded dimension; -1 where the constant stands.
std::vector<int64_t> sources(const NodeContext& context, const std::string& mode, int64_t dim,
                             int64_t before, int64_t size) {
  std::vector<int64_t> map(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) {
    int64_t at = i - before;
    if (at < 0 || at >= dim) {
      if (mode != "constant" && dim == 0) context.invalid("pads an empty dimension");
      if (mode == "constant") {
        at = -1;
      } else if (mode == "edge") {
        at = std::clamp<int64_t>(at, 0, dim - 1);
      } else if (mode == "wrap") {
        at = (at % dim + dim) % dim;
      } else {  // reflect: back and forth without repeating the ends
        const int64_t period = std::max<int64_t>(2 * (dim - 1), 1);
        at = (at % period + period) % period;
        if (at >= dim) at = period - at;
      }
    }
    map[static_cast<size_t>(i)] = at;
  }
  return map;
}

struct PadPlan {
  Shape out;
  Shape strides;                           // of the input
  std::vector<std::vector<int64_t>> maps;  // one a dimension
  int64_t left = 0, middle = 0;            // of the last dimension: where the input is in order

  template <class T>
  void run(const T* in, T fill, T* to) const {
    const int last = out.rank() - 1;
    const std::vector<int64_t>& map = maps.back();
    const int64_t row = out[last];
    const int64_t rows = out.count(0, last);
    if (row == 0) return;
    parallel_for(0, rows, kGrain / row + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        T* target = to + r * row;
        int64_t offset = 0;
        bool inside = true;
        int64_t rest = r;
        for (int d = last - 1; d >= 0; --d) {
          const int64_t at = maps[static_cast<size_t>(d)][static_cast<size_t>(rest % out[d])];
          rest /= out[d];
          inside &= at >= 0;
          offset += at * strides[d];
        }
        if (!inside) {
          std::fill_n(target, row, fill);
          continue;
        }
        const auto one = [&](int64_t i) {
          const int64_t at = map[static_cast<size_t>(i)];
          target[i] = at < 0 ? fill : in[offset + at];
        };
        for (int64_t i = 0; i < left; ++i) one(i);
        if (middle > 0)
          std::copy_n(in + offset + map[static_cast<size_t>(left)], middle, target + left);
        for (int64_t i = left + middle; i < row; ++i) one(i);
      }
    });
  }
};

PadPlan plan_pad(const NodeContext& context, const Pads& pads, const std::string& mode) {
  const Shape& in = context.shape(0);
  PadPlan plan{context.output_types[0].shape, strides_of(in), {}};
  for (int d = 0; d < in.rank(); ++d) {
    plan.maps.push_back(
        sources(context, mode, in[d], pads.before[static_cast<size_t>(d)], plan.out[d]));
  }
  const int last = in.rank() - 1;
  const int64_t before = pads.before.back();
  plan.left = std::clamp<int64_t>(before, 0, plan.out[last]);
  const int64_t first = std::max<int64_t>(-before, 0);
  plan.middle = std::max<int64_t>(0, std::min(in[last] - first, plan.out[last] - plan.left));
  return plan;
}

Kernel prepare_pad(const NodeContext& context) {
  const auto pads = pads_of(context);
  if (!pads) return prepare_at_run(context);
  const std::string mode = context.node().string_or("mode", "constant");
  if (mode != "constant" && mode != "reflect" && mode != "edge" && mode != "wrap") {
    context.invalid(fmt::format("mode '{}'", printable(mode)));
  }
  if (context.shape(0).rank() == 0) return copy_all_kernel(context);
  const bool fill_given = context.has_input(2);
  if (fill_given && context.dtype(2) != context.dtype(0))
    context.invalid("constant_value has another type");
  if (fill_given && context.shape(2).count() != 1)
    context.invalid("constant_value must hold one element");
  const float value = context.node().float_or("value", 0);
  using PadTypes = Types<float, double, bool, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t,
                         uint32_t, uint64_t>;
  return dispatch(PadTypes(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [plan = plan_pad(context, *pads, mode), fill_given,
                 value = static_cast<T>(value)](const KernelArgs& args) {
              const T fill = fill_given ? *static_cast<const T*>(args.inputs[2].data) : value;
              plan.run(static_cast<const T*>(args.inputs[0].data), fill,
                       static_cast<T*>(args.outputs[0].data));
            }};
  });
}

constexpr OpDef pad_row() {
  OpDef pad = row("Pad", 2, infer_pad, prepare_pad);
  pad.quant.shares_scale = true;
  return pad;
}

constexpr OpDef kRows[] = {pad_row()};

}  // namespace

constinit const std::span<const OpDef> kPadOps = kRows;

}  // namespace compress
