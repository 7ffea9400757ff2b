// Cast and CastLike between all numeric types; BitCast.
#include <algorithm>
#include <cmath>
#include <limits>

#include "compress/core/int4.h"
#include "compress/core/small_float.h"
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

DType target_of(const NodeContext& context) {
  const int64_t to = context.node().int_or("to", 0);
  if (to <= 0 || to > 255 || info(static_cast<DType>(to)).dtype == DType::undefined) {
    context.unsupported(fmt::format("casts to type {}", to));
  }
  return static_cast<DType>(to);
}

void infer_cast(NodeContext& context) {
  require_inputs(context, 1, 1);
  infer_to(context, target_of(context));
}

void infer_cast_like(NodeContext& context) {
  require_inputs(context, 2, 2);
  infer_to(context, context.dtype(1));
}

// --- Types below 8 bits and small floats: through whole elements, block by block ----------------

constexpr int64_t kBlock = 512;  // elements; a multiple of those of any packed byte

// The type whose elements stand for those of `dtype`. Integers of fewer bits than 8 keep the low
// bits of what they are given, which ONNX asks for from integers and its cases do from floats.
DType whole_type(DType dtype, bool reading) {
  if (is_small_float(dtype)) return reading ? DType::float32 : DType::float64;
  if (!is_sub_byte(dtype)) return dtype;
  if (!reading) return DType::int32;
  return info(dtype).is_signed ? DType::int8 : DType::uint8;
}

template <class T>
void load_block(const TensorView& from, int64_t at, int64_t n, T* out) {
  const DTypeInfo& row = info(from.dtype);
  const auto* bytes = static_cast<const uint8_t*>(from.data);
  if (row.dtype == dtype_of<T>()) {
    std::memcpy(out, static_cast<const T*>(from.data) + at, static_cast<size_t>(n) * sizeof(T));
  } else if constexpr (std::is_same_v<T, float>) {
    const auto& values = small_float_values(from.dtype);
    for (int64_t i = 0; i < n; ++i) {
      const int code = row.bits == 8 ? bytes[at + i] : get_packed(bytes, at + i, row.bits, false);
      out[i] = values[static_cast<size_t>(code)];
    }
  } else if constexpr (std::is_same_v<T, int8_t> || std::is_same_v<T, uint8_t>) {
    for (int64_t i = 0; i < n; ++i) {
      out[i] = static_cast<T>(get_packed(bytes, at + i, row.bits, row.is_signed));
    }
  }
}

template <class T>
void store_block(const T* in, int64_t at, int64_t n, SmallRounding rounding, const TensorView& to) {
  const DTypeInfo& row = info(to.dtype);
  auto* bytes = static_cast<uint8_t*>(to.data);
  if (row.dtype == dtype_of<T>()) {
    std::memcpy(static_cast<T*>(to.data) + at, in, static_cast<size_t>(n) * sizeof(T));
    return;
  }
  if constexpr (std::is_same_v<T, double> || std::is_same_v<T, int32_t>) {
    if (row.bits < 8) std::memset(bytes + at * row.bits / 8, 0, (n * row.bits + 7) / 8);
    for (int64_t i = 0; i < n; ++i) {
      int code = 0;
      if constexpr (std::is_same_v<T, double>) {
        code = to_small_float(to.dtype, in[i], rounding);
      } else {
        code = in[i];
      }
      if (row.bits == 8) {
        bytes[at + i] = static_cast<uint8_t>(code);
      } else {
        set_packed(bytes, at + i, row.bits, code);
      }
    }
  }
}

// Types that whole_type() gives for those that need this way; others are not instantiated.
template <class T>
constexpr bool kIsRead =
    std::is_same_v<T, float> || std::is_same_v<T, int8_t> || std::is_same_v<T, uint8_t>;
template <class T>
constexpr bool kIsWritten = std::is_same_v<T, double> || std::is_same_v<T, int32_t>;

template <class To, class From>
Kernel block_kernel(const NodeContext& context, SmallRounding rounding) {
  const int64_t count = context.shape(0).count();
  return {"", [=](const KernelArgs& args) {
            parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
              std::array<From, kBlock> from;
              std::array<To, kBlock> to;
              for (int64_t at = begin; at < end; at += kBlock) {
                const int64_t n = std::min(kBlock, end - at);
                load_block(args.inputs[0], at, n, from.data());
                for (int64_t i = 0; i < n; ++i) {
                  const auto k = static_cast<size_t>(i);
                  to[k] = cast_one<To>(from[k]);
                }
                store_block(to.data(), at, n, rounding, args.outputs[0]);
              }
            });
          }};
}

SmallRounding rounding_of(const NodeContext& context) {
  using Mode = SmallRounding::Mode;
  const std::string mode = context.node().string_or("round_mode", "up");
  if (mode != "up" && mode != "down" && mode != "nearest") {
    context.invalid(fmt::format("round_mode '{}'", printable(mode)));
  }
  return {context.node().int_or("saturate", 1) != 0, mode == "up"     ? Mode::up
                                                     : mode == "down" ? Mode::down
                                                                      : Mode::nearest};
}

Kernel prepare_cast(const NodeContext& context) {
  const DType from_type = context.dtype(0), to_type = context.output_types[0].dtype;
  const DType seen_from = whole_type(from_type, true), seen_to = whole_type(to_type, false);
  const SmallRounding rounding = rounding_of(context);
  return dispatch(CastTypes(), context, seen_from, [&](auto from) {
    return dispatch(CastTypes(), context, seen_to, [&](auto to) {
      using To = decltype(to);
      using From = decltype(from);
      if constexpr (kIsRead<From> || kIsWritten<To>) {
        if (seen_from != from_type || seen_to != to_type) {
          return block_kernel<To, From>(context, rounding);
        }
      }
      // A lambda: through a function pointer every element would be a call.
      return unary_kernel<To, From>(context, [](From value) { return cast_one<To>(value); });
    });
  });
}

// --- BitCast -------------------------------------------------------------------------------------

void infer_bit_cast(NodeContext& context) {
  require_inputs(context, 1, 1);
  const DType to = target_of(context);
  const int bits = info(to).bits, given = info(context.dtype(0)).bits;
  if (context.dtype(0) != DType::undefined && (bits != given || bits == 0)) {
    context.invalid(fmt::format("{} bits as {} of {} bits", given, info(to).name, bits));
  }
  infer_to(context, to);
}

Kernel prepare_bit_cast(const NodeContext& context) {
  // Bytes beside 0 and 1 are no bool; they become true.
  if (context.output_types[0].dtype == DType::boolean) {
    return unary_kernel<bool, uint8_t>(context, [](uint8_t byte) { return byte != 0; });
  }
  return copy_all_kernel(context);
}

constexpr OpDef cast_row(std::string_view name, int since, InferFn infer,
                         PrepareFn prepare = prepare_cast) {
  OpDef op = any_row(name, since, infer, prepare);
  op.packed_types = true;
  return op;
}

constexpr OpDef kRows[] = {
    cast_row("Cast", 6, infer_cast),
    cast_row("CastLike", 15, infer_cast_like),
    cast_row("BitCast", 26, infer_bit_cast, prepare_bit_cast),
};

}  // namespace

constinit const std::span<const OpDef> kCastOps = kRows;

}  // namespace compress
