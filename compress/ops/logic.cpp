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
  const std::string direction = context.node().string_or("direction", "");
  if (direction != "LEFT" && direction != "RIGHT")
    context.invalid("direction must be LEFT or RIGHT");
  const bool left = direction == "LEFT";
  return dispatch(Types<uint8_t, uint16_t, uint32_t, uint64_t>(), context, context.dtype(0),
                  [&](auto tag) {
                    using T = decltype(tag);
                    return binary_kernel<T, T, T>(context, [left](T a, T by) {
                      if (by >= sizeof(T) * 8) return T(0);  // C++ leaves it undefined
                      const auto wide = static_cast<uint64_t>(a);
                      return static_cast<T>(left ? wide << by : wide >> by);
                    });
                  });
}

constexpr OpDef kRows[] = {
    {.domain = "",
     .name = "And",
     .since_version = 7,
     .infer = infer_broadcast_bool,
     .prepare = prepare_comparison<std::logical_and<>, Types<bool>>},
    {.domain = "",
     .name = "Or",
     .since_version = 7,
     .infer = infer_broadcast_bool,
     .prepare = prepare_comparison<std::logical_or<>, Types<bool>>},
    {.domain = "",
     .name = "Xor",
     .since_version = 7,
     .infer = infer_broadcast_bool,
     .prepare = prepare_comparison<std::not_equal_to<>, Types<bool>>},
    {.domain = "", .name = "Not", .since_version = 1, .infer = infer_not, .prepare = prepare_not},
    {.domain = "",
     .name = "Equal",
     .since_version = 7,
     .infer = infer_broadcast_bool,
     .prepare = prepare_comparison<std::equal_to<>, Equatable>},
    {.domain = "",
     .name = "Greater",
     .since_version = 7,
     .infer = infer_broadcast_bool,
     .prepare = prepare_comparison<std::greater<>, Comparable>},
    {.domain = "",
     .name = "GreaterOrEqual",
     .since_version = 12,
     .infer = infer_broadcast_bool,
     .prepare = prepare_comparison<std::greater_equal<>, Comparable>},
    {.domain = "",
     .name = "Less",
     .since_version = 7,
     .infer = infer_broadcast_bool,
     .prepare = prepare_comparison<std::less<>, Comparable>},
    {.domain = "",
     .name = "LessOrEqual",
     .since_version = 12,
     .infer = infer_broadcast_bool,
     .prepare = prepare_comparison<std::less_equal<>, Comparable>},
    {.domain = "",
     .name = "BitShift",
     .since_version = 11,
     .infer = infer_broadcast,
     .prepare = prepare_bit_shift},
    {.domain = "",
     .name = "BitwiseAnd",
     .since_version = 18,
     .infer = infer_broadcast,
     .prepare = prepare_bitwise<std::bit_and<>>},
    {.domain = "",
     .name = "BitwiseOr",
     .since_version = 18,
     .infer = infer_broadcast,
     .prepare = prepare_bitwise<std::bit_or<>>},
    {.domain = "",
     .name = "BitwiseXor",
     .since_version = 18,
     .infer = infer_broadcast,
     .prepare = prepare_bitwise<std::bit_xor<>>},
    {.domain = "",
     .name = "BitwiseNot",
     .since_version = 18,
     .infer = infer_not,
     .prepare = prepare_bitwise_not},
};

}  // namespace

constinit const std::span<const OpDef> kLogicOps = kRows;

}  // namespace compress
