// Comparisons, boolean and bitwise operators.
#include <functional>

#include "compress/ops/families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

template <class F, class TypeList>
Kernel prepare_comparison(const NodeContext& context) {
  return dispatch(TypeList(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return binary_kernel<bool, T, T>(context, F());
  });
}

using Comparable = NumericTypes;
using Equatable = Types<bool, float, double, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t,
                        uint32_t, uint64_t>;

void infer_not(NodeContext& context) {
  require_inputs(context, 1, 1);
  infer_same(context);
}

Kernel prepare_not(const NodeContext& context) {
  return dispatch(Types<bool>(), context, context.dtype(0), [&](auto) {
    return unary_kernel<bool, bool>(context, [](bool x) { return !x; });
  });
}

template <class F>
Kernel prepare_bitwise(const NodeContext& context) {
  require_inputs(context, 2, 2);
  return dispatch(IntegerTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return binary_kernel<T, T, T>(context, [](T a, T b) { return static_cast<T>(F()(a, b)); });
  });
}

Kernel prepare_bitwise_not(const NodeContext& context) {
  return dispatch(IntegerTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    return unary_kernel<T, T>(context, [](T a) { return static_cast<T>(~a); });
  });
}

Kernel prepare_bit_shift(const NodeContext& context) {
  require_inputs(context, 2, 2);
  const std::string direction = context.node().string_or("direction", "");
  if (direction != "LEFT" && direction != "RIGHT")
    context.invalid("direction must be LEFT or RIGHT");
  const bool left = direction == "LEFT";
  return dispatch(IntegerTypes(), context, context.dtype(0), [&](auto tag) {
    using T = decltype(tag);
    using Bits = std::make_unsigned_t<T>;
    return binary_kernel<T, T, T>(context, [left](T a, T by) {
      // Beyond the width C++ leaves it undefined; a negative count is one, too.
      const bool gone = static_cast<Bits>(by) >= sizeof(T) * 8;
      if (left) return gone ? T(0) : static_cast<T>(static_cast<uint64_t>(a) << by);
      if (gone) return static_cast<T>(a < 0 ? -1 : 0);
      return static_cast<T>(a >> by);
    });
  });
}

constexpr OpDef kRows[] = {
    row("And", 7, infer_broadcast_bool, prepare_comparison<std::logical_and<>, Types<bool>>),
    row("Or", 7, infer_broadcast_bool, prepare_comparison<std::logical_or<>, Types<bool>>),
    row("Xor", 7, infer_broadcast_bool, prepare_comparison<std::not_equal_to<>, Types<bool>>),
    row("Not", 1, infer_not, prepare_not),
    row("Equal", 7, infer_broadcast_bool, prepare_comparison<std::equal_to<>, Equatable>),
    row("Greater", 7, infer_broadcast_bool, prepare_comparison<std::greater<>, Comparable>),
    row("GreaterOrEqual", 12, infer_broadcast_bool,
        prepare_comparison<std::greater_equal<>, Comparable>),
    row("Less", 7, infer_broadcast_bool, prepare_comparison<std::less<>, Comparable>),
    row("LessOrEqual", 12, infer_broadcast_bool, prepare_comparison<std::less_equal<>, Comparable>),
    row("BitShift", 11, infer_broadcast, prepare_bit_shift),
    row("BitwiseAnd", 18, infer_broadcast, prepare_bitwise<std::bit_and<>>),
    row("BitwiseOr", 18, infer_broadcast, prepare_bitwise<std::bit_or<>>),
    row("BitwiseXor", 18, infer_broadcast, prepare_bitwise<std::bit_xor<>>),
    row("BitwiseNot", 18, infer_not, prepare_bitwise_not),
};

}  // namespace

constinit const std::span<const OpDef> kLogicOps = kRows;

}  // namespace compress
