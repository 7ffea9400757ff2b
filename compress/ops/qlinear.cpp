// Integer products: QLinearConv, QLinearMatMul, and com.microsoft's QGemm, MatMulIntegerToFloat and
// DynamicQuantizeMatMul. Accumulators are exact; requantization as DESIGN.md 4 has it.
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/conv_loops.h"
#include "compress/ops/integer_loops.h"
#include "compress/ops/matmul_plan.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

const TensorView& view_or_none(const KernelArgs& args, int i) {
  static const TensorView none;
  return i >= 0 && static_cast<size_t>(i) < args.inputs.size() ? args.inputs[static_cast<size_t>(i)]
                                                               : none;
}

// Slots of a quantized operand; a zero point may be omitted.
struct QuantizedSlots {
  int scale;
  int zero;
};

void check_scalar_scale(const NodeContext& c, QuantizedSlots slots, DType dtype) {
  require_inputs(c, slots.scale + 1);
  require_count(c, slots.scale, 1);
  require_count(c, slots.zero, 1);
  if (c.dtype(slots.scale) != DType::float32) c.unsupported("scales that are not float32");
  if (c.has_input(slots.zero) && c.dtype(slots.zero) != dtype) {
    c.invalid("a zero point has another type");
  }
}

// One number, or one for each of `channels`.
void check_channel_scale(const NodeContext& c, QuantizedSlots slots, int64_t channels) {
  if (c.dtype(slots.scale) != DType::float32) c.unsupported("scales that are not float32");
  for (const int i : {slots.scale, slots.zero}) {
    if (c.has_input(i) && c.shape(i).count() != 1) require_count(c, i, channels);
  }
}

int64_t align64(int64_t words) { return (words + 15) / 16 * 16; }
size_t word_bytes(int64_t words) {
  return static_cast<size_t>(byte_size(DType::int32, static_cast<uint64_t>(words)));
}

// --- QLinearConv: x s z, w s z, y s z, bias ------------------------------------------------------

void infer_qlinear_conv(NodeContext& c) {
  require_inputs(c, 8);
  const DType dtype = c.dtype(7);
  if (!c.in(0).has_shape || !c.in(3).has_shape) return c.set_output(0, dtype);
  const ConvShape shape = read_conv(c, c.shape(0), c.shape(3));
  check_conv_bias(c, 8, c.shape(3)[0]);
  c.set_output(0, dtype, window_output(shape.window, shape.batch, c.shape(3)[0]));
}

struct ConvPlan {
  ConvShape shape;
  int64_t channels;
  int64_t plane;
  int64_t x_count;
  int64_t w_count;
  int64_t y_count;
  int64_t w_at() const { return align64(x_count); }
  int64_t acc_at() const { return w_at() + align64(w_count); }
  int64_t words() const { return acc_at() + y_count; }
};

template <class Y>
void qlinear_conv(const ConvPlan& p, const KernelArgs& args) {
  auto* x = reinterpret_cast<uint32_t*>(args.workspace);
  uint32_t* w = x + p.w_at();
  uint32_t* acc = x + p.acc_at();
  widen(args.inputs[0], 0, p.x_count, zero_point_at(args.inputs[2], 0), x);
  const int64_t filter = p.channels == 0 ? 0 : p.w_count / p.channels;
  for (int64_t m = 0; m < p.channels; ++m) {
    widen(args.inputs[3], m * filter, filter, zero_point_at(args.inputs[5], m), w + m * filter);
  }
  // The bias has scale x * w and zero point 0.
  const TensorView& bias = view_or_none(args, 8);
  conv_forward<uint32_t>(p.shape, x, w, static_cast<const uint32_t*>(bias.data), acc);
  const float x_scale = scale_at(args.inputs[1], 0);
  const float y_scale = scale_at(args.inputs[6], 0);
  const int32_t y_zero = zero_point_at(args.inputs[7], 0);
  Y* y = args.outputs[0].as<Y>();
  parallel_for(0, p.shape.batch * p.channels, 1, [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row) {
      const float m =
          requantize_factor(x_scale, scale_at(args.inputs[4], row % p.channels), y_scale);
      for (int64_t i = row * p.plane; i < (row + 1) * p.plane; ++i) {
        y[i] = round_to<Y>(static_cast<float>(static_cast<int32_t>(acc[i])) * m, y_zero);
      }
    }
  });
}

Kernel prepare_qlinear_conv(const NodeContext& c) {
  ConvPlan p;
  p.shape = read_conv(c, c.shape(0), c.shape(3));
  p.channels = c.shape(3)[0];
  p.plane = Window::product(p.shape.window.out);
  p.x_count = c.shape(0).count();
  p.w_count = c.shape(3).count();
  p.y_count = c.output_types[0].shape.count();
  by_byte(c, c.dtype(0), [](auto) {});
  by_byte(c, c.dtype(3), [](auto) {});
  check_scalar_scale(c, {1, 2}, c.dtype(0));
  check_scalar_scale(c, {6, 7}, c.output_types[0].dtype);
  if (c.dtype(5) != c.dtype(3)) c.invalid("w_zero_point has another type");
  check_channel_scale(c, {4, 5}, p.channels);
  require_count(c, 8, p.channels);
  if (c.has_input(8) && c.dtype(8) != DType::int32) c.invalid("the bias is not int32");
  return by_byte(c, c.output_types[0].dtype, [&]<class Y>(Y) {
    return Kernel{"qlinear_conv_ref", [p](const KernelArgs& args) { qlinear_conv<Y>(p, args); },
                  word_bytes(p.words())};
  });
}

// --- Matrix products -----------------------------------------------------------------------------

// Which inputs an integer product reads; -1: it has no such input.
struct ProductSlots {
  int a, a_scale, a_zero, b, b_scale, b_zero;
};

struct ProductPlan {
  MatMulPlan matmul;
  ProductSlots slots;
  int64_t operands;  // words
  int64_t acc_at() const { return align64(operands); }
  int64_t words() const { return acc_at() + matmul.out.count(); }
};

ProductPlan plan_product(const NodeContext& c, ProductSlots slots, bool transpose_a,
                         bool transpose_b) {
  ProductPlan p{plan_matmul(c, c.shape(slots.a), c.shape(slots.b), transpose_a, transpose_b), slots,
                c.shape(slots.a).count() + c.shape(slots.b).count()};
  check_integer_matmul(c, p.matmul, slots.a, slots.a_zero, slots.b, slots.b_zero);
  check_channel_scale(c, {slots.b_scale, -1}, p.matmul.n);
  return p;
}

uint32_t* accumulate(const ProductPlan& p, const TensorView& a, const TensorView& a_zero,
                     const KernelArgs& args) {
  uint32_t* acc = reinterpret_cast<uint32_t*>(args.workspace) + p.acc_at();
  integer_matmul(p.matmul, a, a_zero, view_or_none(args, p.slots.b),
                 view_or_none(args, p.slots.b_zero), args.workspace, acc);
  return acc;
}

// Calls body(first element of the row, its index in the matrix) for all rows of the result.
template <class Body>
void for_each_row(const MatMulPlan& matmul, Body&& body) {
  parallel_for(0, matmul.batch() * matmul.m, 8, [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row) body(row * matmul.n, row % matmul.m);
  });
}

template <class Y>
void requantize_rows(const ProductPlan& p, const KernelArgs& args, const uint32_t* acc, int y_scale,
                     int y_zero, const TensorView& bias, float alpha) {
  const float y_s = scale_at(view_or_none(args, y_scale), 0);
  const int32_t y_z = zero_point_at(view_or_none(args, y_zero), 0);
  Y* y = args.outputs[0].as<Y>();
  const auto* add = static_cast<const uint32_t*>(bias.data);
  const int64_t add_row = bias.shape.rank() == 2 && bias.shape[0] != 1 ? p.matmul.n : 0;
  for_each_row(p.matmul, [&](int64_t at, int64_t i) {
    const float a_s = scale_at(view_or_none(args, p.slots.a_scale), i) * alpha;
    for (int64_t j = 0; j < p.matmul.n; ++j) {
      const float m = requantize_factor(a_s, scale_at(view_or_none(args, p.slots.b_scale), j), y_s);
      const uint32_t sum = acc[at + j] + (add ? add[i * add_row + j] : 0);
      y[at + j] = round_to<Y>(static_cast<float>(static_cast<int32_t>(sum)) * m, y_z);
    }
  });
}

// QLinearMatMul: a s z, b s z, y s z.
void infer_qlinear_matmul(NodeContext& c) {
  require_inputs(c, 8);
  const DType dtype = c.dtype(7);
  if (!c.in(0).has_shape || !c.in(3).has_shape) return c.set_output(0, dtype);
  c.set_output(0, dtype, matmul_output(c, c.shape(0), c.shape(3)));
}

Kernel prepare_qlinear_matmul(const NodeContext& c) {
  const ProductPlan p = plan_product(c, {0, 1, 2, 3, 4, 5}, false, false);
  check_channel_scale(c, {1, 2}, p.matmul.m);
  check_scalar_scale(c, {6, 7}, c.output_types[0].dtype);
  return by_byte(c, c.output_types[0].dtype, [&]<class Y>(Y) {
    return Kernel{"qlinear_matmul_ref",
                  [p](const KernelArgs& args) {
                    const uint32_t* acc = accumulate(p, args.inputs[0], args.inputs[2], args);
                    requantize_rows<Y>(p, args, acc, 6, 7, TensorView(), 1);
                  },
                  word_bytes(p.words())};
  });
}

// QGemm: A s z, B s z, C (int32), y_scale, y_zero_point; without y_scale the result is float.
bool flag(const NodeContext& c, std::string_view name) { return c.node().int_or(name, 0) != 0; }

void infer_qgemm(NodeContext& c) {
  require_inputs(c, 6);
  const DType dtype = c.has_input(8) ? c.dtype(8) : DType::float32;
  if (!known_rank(c, 0, 2) || !known_rank(c, 3, 2)) return c.set_output(0, dtype);
  c.set_output(0, dtype,
               matmul_output(c, c.shape(0), c.shape(3), flag(c, "transA"), flag(c, "transB")));
  check_gemm_bias(c, 6, c.output_types[0].shape);
}

void to_float_rows(const ProductPlan& p, const KernelArgs& args, const uint32_t* acc, float alpha,
                   const TensorView& add) {
  float* y = args.outputs[0].as<float>();
  const auto* bias = static_cast<const uint32_t*>(add.data);
  const int64_t bias_row = add.shape.rank() == 2 && add.shape[0] != 1 ? p.matmul.n : 0;
  for_each_row(p.matmul, [&](int64_t at, int64_t i) {
    const float a_s = scale_at(view_or_none(args, p.slots.a_scale), i) * alpha;
    for (int64_t j = 0; j < p.matmul.n; ++j) {
      const uint32_t sum = acc[at + j] + (bias ? bias[i * bias_row + j] : 0);
      y[at + j] = static_cast<float>(static_cast<int32_t>(sum)) *
                  (a_s * scale_at(view_or_none(args, p.slots.b_scale), j));
    }
  });
}

Kernel prepare_qgemm(const NodeContext& c) {
  const ProductPlan p = plan_product(c, {0, 1, 2, 3, 4, 5}, flag(c, "transA"), flag(c, "transB"));
  check_scalar_scale(c, {1, 2}, c.dtype(0));
  if (c.has_input(6)) {
    if (c.dtype(6) != DType::int32) c.invalid("C is not int32");
    const Shape& shape = c.shape(6);
    const bool fits = shape.rank() >= 1 && shape.rank() <= 2 &&
                      shape[shape.rank() - 1] == p.matmul.n &&
                      (shape.rank() == 1 || shape[0] == 1 || shape[0] == p.matmul.m);
    if (!fits) c.unsupported(fmt::format("C of shape {}", shape.to_string()));
  }
  const float alpha = c.node().float_or("alpha", 1);
  const bool is_float = c.output_types[0].dtype == DType::float32;
  if (!is_float) check_scalar_scale(c, {7, 8}, c.output_types[0].dtype);
  Kernel kernel{"qgemm_ref", nullptr, word_bytes(p.words())};
  if (is_float) {
    kernel.run = [p, alpha](const KernelArgs& args) {
      const uint32_t* acc = accumulate(p, args.inputs[0], args.inputs[2], args);
      to_float_rows(p, args, acc, alpha, view_or_none(args, 6));
    };
    return kernel;
  }
  return by_byte(c, c.output_types[0].dtype, [&]<class Y>(Y) {
    kernel.run = [p, alpha](const KernelArgs& args) {
      const uint32_t* acc = accumulate(p, args.inputs[0], args.inputs[2], args);
      requantize_rows<Y>(p, args, acc, 7, 8, view_or_none(args, 6), alpha);
    };
    return kernel;
  });
}

// MatMulIntegerToFloat: A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias (float).
void infer_matmul_to_float(NodeContext& c) {
  require_inputs(c, 2);
  if (!c.in(0).has_shape || !c.in(1).has_shape) return c.set_output(0, DType::float32);
  c.set_output(0, DType::float32, matmul_output(c, c.shape(0), c.shape(1)));
}

void add_bias(const MatMulPlan& matmul, const float* bias, float* y) {
  if (bias == nullptr) return;
  for_each_row(matmul, [&](int64_t at, int64_t) {
    for (int64_t j = 0; j < matmul.n; ++j) y[at + j] += bias[j];
  });
}

Kernel prepare_matmul_to_float(const NodeContext& c) {
  require_inputs(c, 4);
  const ProductPlan p = plan_product(c, {0, 2, 4, 1, 3, 5}, false, false);
  check_channel_scale(c, {2, -1}, p.matmul.m);
  require_count(c, 6, p.matmul.n);
  return {"matmul_integer_to_float_ref",
          [p](const KernelArgs& args) {
            const uint32_t* acc = accumulate(p, args.inputs[0], view_or_none(args, 4), args);
            to_float_rows(p, args, acc, 1, TensorView());
            add_bias(p.matmul, data_or_null<float>(args, 6), args.outputs[0].as<float>());
          },
          word_bytes(p.words())};
}

// DynamicQuantizeMatMul: A (float), B, b_scale, b_zero_point, bias (float).
Kernel prepare_dynamic_matmul(const NodeContext& c) {
  require_inputs(c, 3);
  if (c.dtype(0) != DType::float32) c.unsupported("A that is not float32");
  by_byte(c, c.dtype(1), [](auto) {});
  ProductPlan p{plan_matmul(c, c.shape(0), c.shape(1)),
                {0, -1, -1, 1, 2, 3},
                c.shape(0).count() + c.shape(1).count()};
  check_channel_scale(c, {2, 3}, p.matmul.n);
  if (c.has_input(3) && c.dtype(3) != c.dtype(1)) c.invalid("b_zero_point has another type");
  require_count(c, 4, p.matmul.n);
  const int64_t count = c.shape(0).count();
  const int64_t bytes_at = align64(p.words());
  return {"dynamic_quantize_matmul_ref",
          [=](const KernelArgs& args) {
            auto* a = reinterpret_cast<uint8_t*>(args.workspace) + bytes_at * 4;
            const float* x = args.inputs[0].as<const float>();
            DynamicScale dynamic = dynamic_scale(x, count);
            quantize_bytes(x, count, dynamic, a);
            const TensorView quantized{DType::uint8, args.inputs[0].shape, a};
            const TensorView zero{DType::uint8, Shape(), &dynamic.zero_point};
            const uint32_t* acc = accumulate(p, quantized, zero, args);
            float* y = args.outputs[0].as<float>();
            for_each_row(p.matmul, [&](int64_t at, int64_t) {
              for (int64_t j = 0; j < p.matmul.n; ++j) {
                y[at + j] = static_cast<float>(static_cast<int32_t>(acc[at + j])) *
                            (dynamic.scale * scale_at(args.inputs[2], j));
              }
            });
            add_bias(p.matmul, data_or_null<float>(args, 4), y);
          },
          word_bytes(bytes_at) + static_cast<size_t>(count)};
}

constexpr OpDef kRows[] = {
    {"",
     "QLinearConv",
     10,
     infer_qlinear_conv,
     prepare_qlinear_conv,
     {.weight_input = 3, .bias_input = 8, .channel_axis = 0}},
    {"",
     "QLinearMatMul",
     10,
     infer_qlinear_matmul,
     prepare_qlinear_matmul,
     {.weight_input = 3, .channel_axis = 1}},
    {"com.microsoft",
     "QGemm",
     1,
     infer_qgemm,
     prepare_qgemm,
     {.weight_input = 3, .bias_input = 6, .channel_axis = 1}},
    {"com.microsoft",
     "MatMulIntegerToFloat",
     1,
     infer_matmul_to_float,
     prepare_matmul_to_float,
     {.weight_input = 1, .bias_input = 6, .channel_axis = 1}},
    {"com.microsoft",
     "DynamicQuantizeMatMul",
     1,
     infer_matmul_to_float,
     prepare_dynamic_matmul,
     {.weight_input = 1, .bias_input = 4, .channel_axis = 1}},
};

}  // namespace

const std::span<const OpDef> kQLinearOps = kRows;

}  // namespace compress
