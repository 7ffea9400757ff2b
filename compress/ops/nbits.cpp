// com.microsoft's MatMulNBits and GatherBlockQuantized: weights of 2, 4 or 8 bits in blocks. The
// layouts are ONNX Runtime's, low bits first.
#include <cmath>
#include <vector>

#include "compress/core/int4.h"
#include "compress/core/parallel.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/matmul_loops.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// Element i of an array of 2-, 4- or 8-bit codes without sign.
int code_at(const uint8_t* data, int64_t i, int bits) {
  return bits == 8 ? data[i] : get_packed(data, i, bits, false);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// --- MatMulNBits: A, B [N, blocks, bytes], scales, zero points, group index, bias ----------------

struct NBits {
  int64_t rows, n, k, block, blocks;
  int bits;
  int64_t zero_row;  // bytes of packed zero points for a row of B
  bool float_zero;   // zero points are of A's type, not packed codes
  bool integer;      // accuracy level 4: A becomes int8, by row and block
  int64_t block_bytes() const { return block * bits / 8; }
};

constexpr int64_t kSizeLimit = int64_t{1} << 31;

int64_t read_size(const NodeContext& c, std::string_view name) {
  const int64_t value = c.node().int_or(name, 0);
  if (value < 1 || value > kSizeLimit) c.invalid(fmt::format("{} is {}", name, value));
  return value;
}

void infer_nbits(NodeContext& c) {
  require_inputs(c, 3);
  if (!c.in(0).has_shape) return c.set_output(0, c.dtype(0));
  Shape out = c.shape(0);
  if (out.rank() < 1) c.invalid("A is a scalar");
  const int last = out.rank() - 1;
  if (out[last] >= 0 && out[last] != read_size(c, "K")) {
    c.invalid(fmt::format("A has shape {}, K is {}", out.to_string(), read_size(c, "K")));
  }
  out[last] = read_size(c, "N");
  c.set_output(0, c.dtype(0), out);
}

NBits read_nbits(const NodeContext& c) {
  NBits p;
  p.n = read_size(c, "N");
  p.k = read_size(c, "K");
  p.block = read_size(c, "block_size");
  // Up to 65,536 the products of int8 and 8-bit codes of a block stay inside int32.
  if (p.block < 16 || (p.block & (p.block - 1)) != 0 || p.block > (1 << 16)) {
    c.invalid(fmt::format("block_size is {}, a power of two from 16 is needed", p.block));
  }
  const int64_t bits = c.node().int_or("bits", 4);
  if (bits != 2 && bits != 4 && bits != 8) c.unsupported(fmt::format("bits is {}", bits));
  p.bits = static_cast<int>(bits);
  p.blocks = ceil_div(p.k, p.block);
  p.rows = c.shape(0).count(0, c.shape(0).rank() - 1);
  p.zero_row = ceil_div(p.blocks * p.bits, 8);
  p.float_zero = c.has_input(3) && c.dtype(3) != DType::uint8;
  p.integer = c.node().int_or("accuracy_level", 0) == 4;
  if (c.has_input(4)) c.unsupported("a group index");
  if (c.dtype(1) != DType::uint8) c.unsupported("B that is not uint8");
  if (c.dtype(2) != c.dtype(0)) c.unsupported("scales of another type than A");
  if (p.float_zero && c.dtype(3) != c.dtype(0)) c.unsupported("zero points of another type");
  const Shape wanted{p.n, p.blocks, p.block_bytes()};
  require_count(c, 1, wanted.count());
  require_count(c, 2, p.n * p.blocks);
  require_count(c, 3, p.n * (p.float_zero ? p.blocks : p.zero_row));
  require_count(c, 5, p.n);
  return p;
}

template <class T>
struct NBitsData {
  const uint8_t* codes;
  const T* scales;
  const uint8_t* packed_zero;
  const T* float_zero;

  const uint8_t* block(const NBits& p, int64_t n, int64_t b) const {
    return codes + (n * p.blocks + b) * p.block_bytes();
  }
  T zero(const NBits& p, int64_t n, int64_t b) const {
    if (float_zero) return float_zero[n * p.blocks + b];
    if (packed_zero) return static_cast<T>(code_at(packed_zero + n * p.zero_row, b, p.bits));
    return static_cast<T>(1 << (p.bits - 1));
  }
};

template <class T>
void dequantize_row(const NBits& p, const NBitsData<T>& w, int64_t n, T* out) {
  for (int64_t b = 0; b < p.blocks; ++b) {
    const uint8_t* codes = w.block(p, n, b);
    const T scale = w.scales[n * p.blocks + b];
    const T zero = w.zero(p, n, b);
    const int64_t count = std::min(p.block, p.k - b * p.block);
    T* row = out + b * p.block;
    for (int64_t i = 0; i < count; ++i) {
      row[i] = (static_cast<T>(code_at(codes, i, p.bits)) - zero) * scale;
    }
  }
}

template <class T>
void multiply_float(const NBits& p, const NBitsData<T>& w, const T* a, const T* bias, T* y) {
  parallel_for(0, p.n, 8, [&](int64_t from, int64_t to) {
    std::vector<T> row(static_cast<size_t>(p.k));
    for (int64_t n = from; n < to; ++n) {
      dequantize_row(p, w, n, row.data());
      for (int64_t m = 0; m < p.rows; ++m) {
        const T sum = matmul_loops::dot<T>(p.k, a + m * p.k, 1, row.data(), 1);
        y[m * p.n + n] = bias ? sum + bias[n] : sum;
      }
    }
  });
}

// A row of A as int8, each block with the scale |max| / 127. Tails of blocks are zero.
template <class T>
void quantize_row(const NBits& p, const T* a, int8_t* codes, T* scales) {
  for (int64_t b = 0; b < p.blocks; ++b) {
    const int64_t first = b * p.block;
    const int64_t count = std::min(p.block, p.k - first);
    T top = 0;
    for (int64_t i = 0; i < count; ++i) top = std::max(top, std::abs(a[first + i]));
    scales[b] = top / T{127};
    for (int64_t i = 0; i < p.block; ++i) {
      const T value = i < count && top > 0 ? std::nearbyint(a[first + i] / scales[b]) : T{0};
      codes[first + i] = static_cast<int8_t>(std::clamp(value, T{-127}, T{127}));
    }
  }
}

template <class T>
void multiply_integer(const NBits& p, const NBitsData<T>& w, const T* a, const T* bias,
                      std::byte* workspace, T* y) {
  const int64_t padded = p.blocks * p.block;
  T* scales = reinterpret_cast<T*>(workspace);
  auto* codes = reinterpret_cast<int8_t*>(scales + p.rows * p.blocks);
  parallel_for(0, p.rows, 1, [&](int64_t from, int64_t to) {
    for (int64_t m = from; m < to; ++m) {
      quantize_row(p, a + m * p.k, codes + m * padded, scales + m * p.blocks);
    }
  });
  parallel_for(0, p.n, 8, [&](int64_t from, int64_t to) {
    std::vector<int16_t> row(static_cast<size_t>(padded));
    for (int64_t n = from; n < to; ++n) {
      const uint8_t* packed = w.block(p, n, 0);
      for (int64_t i = 0; i < padded; ++i) {
        row[static_cast<size_t>(i)] = static_cast<int16_t>(code_at(packed, i, p.bits));
      }
      for (int64_t m = 0; m < p.rows; ++m) {
        T sum = 0;
        for (int64_t b = 0; b < p.blocks; ++b) {
          const int8_t* x = codes + m * padded + b * p.block;
          const int16_t* q = row.data() + b * p.block;
          int32_t product = 0;
          int32_t total = 0;
          for (int64_t i = 0; i < p.block; ++i) {
            product += x[i] * q[i];
            total += x[i];
          }
          const T shifted = static_cast<T>(product) - w.zero(p, n, b) * static_cast<T>(total);
          sum += shifted * (scales[m * p.blocks + b] * w.scales[n * p.blocks + b]);
        }
        y[m * p.n + n] = bias ? sum + bias[n] : sum;
      }
    }
  });
}

Kernel prepare_nbits(const NodeContext& c) {
  const NBits p = read_nbits(c);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    Kernel kernel{p.integer ? "matmul_nbits_s8_ref" : "matmul_nbits_ref",
                  [p](const KernelArgs& args) {
                    const bool has_zero = args.inputs.size() > 3 && args.inputs[3].data != nullptr;
                    const NBitsData<T> w{
                        args.inputs[1].as<const uint8_t>(), args.inputs[2].as<const T>(),
                        has_zero && !p.float_zero ? args.inputs[3].as<const uint8_t>() : nullptr,
                        has_zero && p.float_zero ? args.inputs[3].as<const T>() : nullptr};
                    const T* a = args.inputs[0].as<const T>();
                    const T* bias = data_or_null<T>(args, 5);
                    T* y = args.outputs[0].as<T>();
                    if (p.integer) return multiply_integer(p, w, a, bias, args.workspace, y);
                    multiply_float(p, w, a, bias, y);
                  }};
    if (p.integer) {
      const Shape blocks{p.rows, p.blocks};
      const Shape codes{blocks.count(), p.block};
      kernel.workspace_bytes =
          static_cast<size_t>(blocks.count()) * sizeof(T) + static_cast<size_t>(codes.count());
    }
    return kernel;
  });
}

// --- GatherBlockQuantized: data, indices, scales, zero points ------------------------------------

struct Gather {
  int gather_axis;
  int quantize_axis;
  int64_t block;
  int bits;
  bool bytes;  // data is uint8; codes of 4 bits are packed along the last axis
  Shape data;  // in codes
  Shape out;
};

Gather read_gather(const NodeContext& c) {
  Gather g;
  g.data = c.shape(0);
  const int rank = g.data.rank();
  g.gather_axis = normalize_axis(c.node().int_or("gather_axis", 0), rank);
  g.quantize_axis = normalize_axis(c.node().int_or("quantize_axis", 1), rank);
  g.block = c.node().int_or("block_size", 128);
  g.bytes = c.dtype(0) == DType::uint8;
  const int64_t bits = g.bytes ? c.node().int_or("bits", 4) : info(c.dtype(0)).bits;
  if (bits != 2 && bits != 4 && bits != 8) c.unsupported(fmt::format("bits is {}", bits));
  g.bits = static_cast<int>(bits);
  if (g.block < 16 || (g.block & (g.block - 1)) != 0 || g.block > kSizeLimit) {
    c.invalid(fmt::format("block_size is {}, a power of two from 16 is needed", g.block));
  }
  if (g.bytes && (g.gather_axis != 0 || g.quantize_axis != rank - 1)) {
    c.invalid("uint8 data wants gather_axis 0 and the last axis quantized");
  }
  if (g.gather_axis == g.quantize_axis) c.unsupported("gather_axis equal to quantize_axis");
  if (g.bytes && g.bits < 8 && g.data[rank - 1] >= 0 &&
      __builtin_mul_overflow(g.data[rank - 1], int64_t{8 / g.bits}, &g.data[rank - 1])) {
    c.invalid("the last axis is too long");
  }
  for (int d = 0; d < g.gather_axis; ++d) g.out.push_back(g.data[d]);
  for (const int64_t dim : c.shape(1)) g.out.push_back(dim);
  for (int d = g.gather_axis + 1; d < rank; ++d) g.out.push_back(g.data[d]);
  return g;
}

void infer_gather(NodeContext& c) {
  require_inputs(c, 3);
  if (!c.in(0).has_shape || !c.in(1).has_shape) return c.set_output(0, c.dtype(2));
  c.set_output(0, c.dtype(2), read_gather(c).out);
}

template <class T>
struct GatherRun {
  Gather g;
  int64_t stride;  // of the quantized axis, in codes
  int64_t axis;
  int64_t blocks;
  int64_t zero_row;  // uint8 zero points: bytes of a row of blocks
  bool is_signed;
  const uint8_t* data;
  const T* scales;
  const uint8_t* zeros;

  T value(int64_t code) const {
    const int64_t outer = code / stride / axis;
    const int64_t block = code / stride % axis / g.block;
    const int64_t at = (outer * blocks + block) * stride + code % stride;
    return (static_cast<T>(load(data, code)) - static_cast<T>(zero(at))) * scales[at];
  }
  int load(const uint8_t* codes, int64_t i) const {
    return g.bits == 8 ? codes[i] : get_packed(codes, i, g.bits, is_signed);
  }
  int zero(int64_t at) const {
    if (zeros == nullptr) return g.bytes ? 1 << (g.bits - 1) : 0;
    if (!g.bytes) return load(zeros, at);
    return load(zeros + at / blocks * zero_row, at % blocks);
  }
};

int64_t index_at(const TensorView& indices, int64_t i) {
  return indices.dtype == DType::int32 ? indices.as<const int32_t>()[i]
                                       : indices.as<const int64_t>()[i];
}

template <class T>
void gather(const GatherRun<T>& run, const TensorView& indices, const std::string& node, T* y) {
  const Gather& g = run.g;
  const int64_t rows = g.data[g.gather_axis];
  const int64_t inner = g.data.count(g.gather_axis + 1, g.data.rank());
  const int64_t count = indices.count();
  parallel_for(0, g.data.count(0, g.gather_axis) * count, 1, [&](int64_t from, int64_t to) {
    for (int64_t row = from; row < to; ++row) {
      int64_t index = index_at(indices, row % count);
      if (index < 0) index += rows;
      if (index < 0 || index >= rows) {
        fail(ErrorCode::invalid_model, "GatherBlockQuantized '{}': index {} of {} rows",
             printable(node), index, rows);
      }
      const int64_t first = (row / count * rows + index) * inner;
      for (int64_t i = 0; i < inner; ++i) y[row * inner + i] = run.value(first + i);
    }
  });
}

Kernel prepare_gather(const NodeContext& c) {
  const Gather g = read_gather(c);
  const DType dtype = c.dtype(0);
  if (dtype != DType::uint8 && dtype != DType::uint4 && dtype != DType::int4) {
    c.unsupported(fmt::format("data of type {}", info(dtype).name));
  }
  if (c.dtype(1) != DType::int32 && c.dtype(1) != DType::int64)
    c.invalid("indices are no integers");
  if (c.has_input(3) && c.dtype(3) != dtype) c.unsupported("zero points of another type than data");
  Shape wanted = g.data;
  wanted[g.quantize_axis] = ceil_div(g.data[g.quantize_axis], g.block);
  require_shape(c, 2, wanted);
  const int64_t blocks = wanted[g.quantize_axis];
  if (g.bytes) wanted[g.quantize_axis] = ceil_div(blocks * g.bits, 8);
  require_shape(c, 3, wanted);
  const std::string node = c.node().name;
  return by_float(c, c.dtype(2), [&]<class T>(T) {
    GatherRun<T> run{};
    run.g = g;
    run.stride = g.data.count(g.quantize_axis + 1, g.data.rank());
    run.axis = g.data[g.quantize_axis];
    run.blocks = blocks;
    run.zero_row = g.bytes ? wanted[g.quantize_axis] : 0;
    run.is_signed = info(dtype).is_signed;
    return Kernel{"gather_block_quantized_ref", [run, node](const KernelArgs& args) {
                    GatherRun<T> bound = run;
                    bound.data = static_cast<const uint8_t*>(args.inputs[0].data);
                    bound.scales = args.inputs[2].as<const T>();
                    bound.zeros = args.inputs.size() > 3
                                      ? static_cast<const uint8_t*>(args.inputs[3].data)
                                      : nullptr;
                    gather(bound, args.inputs[1], node, args.outputs[0].as<T>());
                  }};
  });
}

constexpr OpDef kRows[] = {
    {"com.microsoft", "MatMulNBits", 1, infer_nbits, prepare_nbits},
    {"com.microsoft", "GatherBlockQuantized", 1, infer_gather, prepare_gather, {}, false, true},
};

}  // namespace

const std::span<const OpDef> kNBitsOps = kRows;

}  // namespace compress
