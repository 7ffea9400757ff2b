// Cast and CastLike between all numeric types.
#include <cmath>
#include <limits>

#include "compress/ops/families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

using CastTypes = Types<float, double, Half, BFloat16, bool, int8_t, int16_t, int32_t, int64_t,
                        uint8_t, uint16_t, uint32_t, uint64_t>;

template <class T>
constexpr bool kIsHalf = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;

// Truncates towards zero; out of range goes to the nearest value, NaN to 0 (ONNX leaves both open).
template <class To, class From>
To to_integer(From value) {
  using Limits = std::numeric_limits<To>;
  if (!(value > static_cast<From>(Limits::min()))) return value == value ? Limits::min() : To(0);
  if (value >= static_cast<From>(Limits::max())) return Limits::max();
  return static_cast<To>(value);
}

template <class To, class From>
To cast_one(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (kIsHalf<From>) {
    return cast_one<To>(to_float(value));
  } else if constexpr (std::is_same_v<To, Half>) {
    return to_half(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    return to_bfloat16(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, bool>) {
    return value != From(0);
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    return to_integer<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

void infer_to(NodeContext& context, DType to) {
  if (!context.in(0).has_shape) return context.set_output(0, to);
  context.set_output(0, to, context.shape(0));
}

void infer_cast(NodeContext& context) {
  require_inputs(context, 1, 1);
  const int64_t to = context.node().int_or("to", 0);
  if (to <= 0 || to > 255 || info(static_cast<DType>(to)).dtype == DType::undefined) {
    context.unsupported(fmt::format("casts to type {}", to));
  }
  infer_to(context, static_cast<DType>(to));
}

void infer_cast_like(NodeContext& context) {
  require_inputs(context, 2, 2);
  infer_to(context, context.dtype(1));
}

Kernel prepare_cast(const NodeContext& context) {
  // Unpacked sub-byte types come as int8 and uint8, so types are those of the context.
  return dispatch(CastTypes(), context, context.dtype(0), [&](auto from) {
    return dispatch(CastTypes(), context, context.output_types[0].dtype, [&](auto to) {
      using To = decltype(to);
      using From = decltype(from);
      return unary_kernel<To, From>(context, cast_one<To, From>);
    });
  });
}

constexpr OpDef kRows[] = {
    any_row("Cast", 6, infer_cast, prepare_cast),
    any_row("CastLike", 15, infer_cast_like, prepare_cast),
};

}  // namespace

constinit const std::span<const OpDef> kCastOps = kRows;

}  // namespace compress
