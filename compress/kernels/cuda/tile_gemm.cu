// Matrix products and convolutions as one tiled kernel: a block of 256 threads makes 64 x 64
// results from tiles of 64 x 16 operands in shared memory, a thread 4 x 4 of them. What differs
// between problems is where operands come from and what follows a sum. Operands are floats, or
// words of four signed bytes. (Plain by design: it is right on every device; library calls come on
// top.)
#include "compress/kernels/cuda/device_code.h"
#include "compress/kernels/cuda/element_ops.h"
#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {
namespace {

constexpr int kTile = 64;   // rows and columns of results
constexpr int kDepth = 16;  // operands of each in one step
constexpr int kOwn = 4;     // rows and columns of one thread
constexpr int kSide = kTile / kOwn;

__device__ float mac(float a, float b, float sum) { return fmaf(a, b, sum); }
__device__ int32_t mac(int32_t a, int32_t b, int32_t sum) { return __dp4a(a, b, sum); }

// Problem: Operand, Sum, sizes m, n, k (in operands), a(m, k), b(k, n), store(m, n, sum); z is the
// batch or the group.
template <class Problem>
__global__ void __launch_bounds__(kBlock) tile_kernel(const Problem problem) {
  using Operand = typename Problem::Operand;
  __shared__ Operand a[kDepth][kTile + 1];
  __shared__ Operand b[kDepth][kTile + 1];
  const auto place = problem.at(blockIdx.z);
  const int32_t m0 = static_cast<int32_t>(blockIdx.x) * kTile;
  const int32_t n0 = static_cast<int32_t>(blockIdx.y) * kTile;
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / kSide * kOwn, column = thread % kSide * kOwn;
  typename Problem::Sum sums[kOwn][kOwn] = {};
  for (int32_t k0 = 0; k0 < problem.k; k0 += kDepth) {
    for (int i = thread; i < kTile * kDepth; i += kBlock) {
      const int k = i % kDepth, line = i / kDepth;
      const bool in_k = k0 + k < problem.k;
      a[k][line] = in_k && m0 + line < problem.m ? problem.a(place, m0 + line, k0 + k) : Operand{};
      if (!Problem::kColumnsFirst) {
        b[k][line] =
            in_k && n0 + line < problem.n ? problem.b(place, k0 + k, n0 + line) : Operand{};
      }
    }
    if (Problem::kColumnsFirst) {  // neighbours of B lie along n
      for (int i = thread; i < kTile * kDepth; i += kBlock) {
        const int line = i % kTile, k = i / kTile;
        const bool inside = k0 + k < problem.k && n0 + line < problem.n;
        b[k][line] = inside ? problem.b(place, k0 + k, n0 + line) : Operand{};
      }
    }
    __syncthreads();
    for (int k = 0; k < kDepth; ++k) {
      Operand left[kOwn], right[kOwn];
      for (int i = 0; i < kOwn; ++i) left[i] = a[k][row + i];
      for (int i = 0; i < kOwn; ++i) right[i] = b[k][column + i];
      for (int i = 0; i < kOwn; ++i) {
        for (int j = 0; j < kOwn; ++j) sums[i][j] = mac(left[i], right[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < kOwn; ++i) {
    for (int j = 0; j < kOwn; ++j) {
      const int32_t m = m0 + row + i, n = n0 + column + j;
      if (m < problem.m && n < problem.n) problem.store(place, m, n, sums[i][j]);
    }
  }
}

template <class Problem>
int launch_tiles(Context& context, const Problem& problem, int32_t layers) {
  if (problem.m == 0 || problem.n == 0 || layers == 0) return 0;
  const auto tiles = [](int32_t count) {
    return static_cast<unsigned>((count + kTile - 1) / kTile);
  };
  return launch(context, tile_kernel<Problem>,
                dim3(tiles(problem.m), tiles(problem.n), static_cast<unsigned>(layers)),
                dim3(kBlock), problem);
}

__device__ float finish(const AfterSum& after, float sum, int32_t column, int32_t at) {
  float y = after.alpha * sum;
  if (after.bias != nullptr) y += after.bias[column];
  if (after.residual != nullptr) y += after.residual[at];
  y = clip(y, after.lo, after.hi);
  return after.activation >= 0 ? element_op(after.activation, after.p, after.q, y, 0.0f) : y;
}

// `out` has bytes or floats.
__device__ void finish(const AfterSumS8& after, int32_t sum, int32_t column, void* out,
                       int32_t at) {
  const int32_t zero = after.x_zero != nullptr ? *after.x_zero : after.x_zero_point;
  const int32_t moved = (after.x_signed != 0 ? 0 : 128) - zero;
  // Modulo 2^32, as the CPU's kernels have it.
  uint32_t acc = static_cast<uint32_t>(sum) +
                 static_cast<uint32_t>(moved) * static_cast<uint32_t>(after.weight_sum[column]);
  if (after.bias != nullptr) acc += static_cast<uint32_t>(after.bias[column]);
  const float scale = after.scale[column] * (after.x_scale != nullptr ? *after.x_scale : 1.0f);
  const float scaled = static_cast<float>(static_cast<int32_t>(acc)) * scale;
  if (after.is_float != 0) {
    static_cast<float*>(out)[at] =
        scaled + (after.float_bias != nullptr ? after.float_bias[column] : -0.0f);
  } else {
    static_cast<uint8_t*>(out)[at] = into_byte(scaled, after.lo, after.hi, after.y_zero_point);
  }
}

// Four bytes as one word, moved to signed by `flip`; beyond `count` there are zeros.
__device__ int32_t word_of(const uint8_t* bytes, int32_t count, uint32_t flip) {
  uint32_t word = 0;
  for (int i = 0; i < 4; ++i) {
    if (i < count) word |= (bytes[i] ^ flip) << (8 * i);
  }
  return static_cast<int32_t>(word);
}

__device__ int32_t packed_word(const int8_t* weights, int32_t word) {
  return reinterpret_cast<const int32_t*>(weights)[word];
}

// --- Products ------------------------------------------------------------------------------------

struct ProductF32 {
  using Operand = float;
  using Sum = float;
  static constexpr bool kColumnsFirst = true;
  MatMulF32 p;
  int32_t m, n, k;

  struct Place {
    const float *a, *b;
    int32_t out;
  };
  __device__ Place at(int32_t batch) const {
    return {p.a + place_of(batch, p.batch_rank, p.batch_dims, p.a_batch),
            p.b + place_of(batch, p.batch_rank, p.batch_dims, p.b_batch), batch * m * n};
  }
  __device__ float a(const Place& at, int32_t i, int32_t j) const {
    return at.a[i * p.a_row + j * p.a_column];
  }
  __device__ float b(const Place& at, int32_t i, int32_t j) const {
    return at.b[i * p.b_row + j * p.b_column];
  }
  __device__ void store(const Place& at, int32_t i, int32_t j, float sum) const {
    const int32_t to = at.out + i * n + j;
    p.out[to] = finish(p.after, sum, j, to);
  }
};

struct ProductS8 {
  using Operand = int32_t;
  using Sum = int32_t;
  static constexpr bool kColumnsFirst = false;
  MatMulS8 p;
  int32_t m, n, k;  // k in words
  uint32_t flip;

  struct Place {};
  __device__ Place at(int32_t) const { return {}; }
  __device__ int32_t a(Place, int32_t i, int32_t j) const {
    return word_of(p.a + i * p.k + j * 4, p.k - j * 4, flip);
  }
  __device__ int32_t b(Place, int32_t i, int32_t j) const { return packed_word(p.w, j * k + i); }
  __device__ void store(Place, int32_t i, int32_t j, int32_t sum) const {
    finish(p.after, sum, j, p.out, i * n + j);
  }
};

// --- Convolutions --------------------------------------------------------------------------------

// Where tap `tap` of output pixel `pixel` reads, or -1 in the padding.
__device__ int32_t source_pixel(const ConvShape& s, int32_t pixel, int32_t tap) {
  const int32_t ow = pixel % s.out_w, oh = pixel / s.out_w % s.out_h;
  const int32_t image = pixel / (s.out_w * s.out_h);
  const int32_t y = oh * s.stride_h - s.pad_top + tap / s.kernel_w * s.dilation_h;
  const int32_t x = ow * s.stride_w - s.pad_left + tap % s.kernel_w * s.dilation_w;
  if (y < 0 || y >= s.in_h || x < 0 || x >= s.in_w) return -1;
  return (image * s.in_h + y) * s.in_w + x;
}

struct PatchesF32 {
  using Operand = float;
  using Sum = float;
  static constexpr bool kColumnsFirst = false;
  ConvF32 p;
  int32_t m, n, k;  // pixels, channels of a group, taps times channels in
  int32_t inner;    // channels in, of a group

  using Place = int32_t;  // the group
  __device__ Place at(int32_t group) const { return group; }
  __device__ float a(Place group, int32_t i, int32_t j) const {
    const int32_t from = source_pixel(p.shape, i, j / inner);
    return from < 0 ? 0.0f : p.x[from * p.shape.in_channels + group * inner + j % inner];
  }
  __device__ float b(Place group, int32_t i, int32_t j) const {
    return p.w[(group * n + j) * k + i];
  }
  __device__ void store(Place group, int32_t i, int32_t j, float sum) const {
    const int32_t channel = group * n + j, to = i * p.shape.out_channels + channel;
    p.out[to] = finish(p.after, sum, channel, to);
  }
};

struct PatchesS8 {
  using Operand = int32_t;
  using Sum = int32_t;
  static constexpr bool kColumnsFirst = false;
  ConvS8 p;
  int32_t m, n, k;       // k in words
  int32_t inner, words;  // channels in of a group, and words of them
  uint32_t flip;

  using Place = int32_t;
  __device__ Place at(int32_t group) const { return group; }
  __device__ int32_t a(Place group, int32_t i, int32_t j) const {
    const int32_t from = source_pixel(p.shape, i, j / words);
    const int32_t channel = j % words * 4;
    if (from < 0) {  // the padding holds the zero point; surplus channels meet weights of 0
      return static_cast<int32_t>(((p.after.x_zero_point & 255u) ^ flip) * 0x01010101u);
    }
    return word_of(p.x + from * p.shape.in_channels + group * inner + channel, inner - channel,
                   flip);
  }
  __device__ int32_t b(Place group, int32_t i, int32_t j) const {
    return packed_word(p.w, (group * n + j) * k + i);
  }
  __device__ void store(Place group, int32_t i, int32_t j, int32_t sum) const {
    const int32_t channel = group * n + j;
    finish(p.after, sum, channel, p.out, i * p.shape.out_channels + channel);
  }
};

// --- Depthwise -----------------------------------------------------------------------------------

__device__ float tap_sum(const ConvF32& p, int32_t from, int32_t in, int32_t out, int32_t tap,
                         int32_t, float sum) {
  if (from < 0) return sum;
  return fmaf(p.x[from * p.shape.in_channels + in],
              p.w[out * p.shape.kernel_h * p.shape.kernel_w + tap], sum);
}

__device__ int32_t tap_sum(const ConvS8& p, int32_t from, int32_t in, int32_t out, int32_t tap,
                           int32_t row_bytes, int32_t sum) {
  const int32_t byte = from < 0 ? p.after.x_zero_point
                                : widen(p.x[from * p.shape.in_channels + in], p.after.x_signed);
  const int32_t moved = byte - (p.after.x_signed != 0 ? 0 : 128);
  return sum + moved * p.w[(out * p.shape.kernel_h * p.shape.kernel_w + tap) * row_bytes];
}

__device__ void finish_tap(const ConvF32& p, float sum, int32_t channel, int32_t at) {
  p.out[at] = finish(p.after, sum, channel, at);
}
__device__ void finish_tap(const ConvS8& p, int32_t sum, int32_t channel, int32_t at) {
  finish(p.after, sum, channel, p.out, at);
}

// One input channel a group: a thread an output, neighbours in the channels.
template <class Conv, class Sum>
__global__ void __launch_bounds__(kBlock) depthwise_kernel(const Conv p, int32_t row_bytes) {
  const ConvShape& s = p.shape;
  const int32_t count = s.batch * s.out_h * s.out_w * s.out_channels;
  const int32_t multiplier = s.out_channels / s.groups;
  for (int32_t i = thread_index(); i < count; i += thread_total()) {
    const int32_t channel = i % s.out_channels, pixel = i / s.out_channels;
    Sum sum = 0;
    for (int32_t tap = 0; tap < s.kernel_h * s.kernel_w; ++tap) {
      const int32_t from = source_pixel(s, pixel, tap);
      sum = tap_sum(p, from, channel / multiplier, channel, tap, row_bytes, sum);
    }
    finish_tap(p, sum, channel, i);
  }
}

template <class Sum, class Conv>
int launch_depthwise(Context& context, const Conv& conv) {
  const ConvShape& s = conv.shape;
  const int32_t count = s.batch * s.out_h * s.out_w * s.out_channels;
  return launch(context, depthwise_kernel<Conv, Sum>, dim3(blocks_for(context, count)),
                dim3(kBlock), conv, int32_t{4});
}

int32_t words_of(int32_t bytes) { return (bytes + 3) / 4; }
uint32_t flip_of(const AfterSumS8& after) { return after.x_signed != 0 ? 0u : 128u; }

}  // namespace

int matmul_f32(Context* context, const MatMulF32* p) {
  int32_t batches = 1;
  for (int i = 0; i < p->batch_rank; ++i) batches *= p->batch_dims[i];
  return launch_tiles(*context, ProductF32{*p, p->m, p->n, p->k}, batches);
}

int matmul_s8(Context* context, const MatMulS8* p) {
  return launch_tiles(*context, ProductS8{*p, p->m, p->n, words_of(p->k), flip_of(p->after)}, 1);
}

int conv_f32(Context* context, const ConvF32* p) {
  const ConvShape& s = p->shape;
  const int32_t inner = s.in_channels / s.groups;
  if (inner == 1) return launch_depthwise<float>(*context, *p);
  return launch_tiles(*context,
                      PatchesF32{*p, s.batch * s.out_h * s.out_w, s.out_channels / s.groups,
                                 s.kernel_h * s.kernel_w * inner, inner},
                      s.groups);
}

int conv_s8(Context* context, const ConvS8* p) {
  const ConvShape& s = p->shape;
  const int32_t inner = s.in_channels / s.groups, words = words_of(inner);
  if (inner == 1) return launch_depthwise<int32_t>(*context, *p);
  return launch_tiles(*context,
                      PatchesS8{*p, s.batch * s.out_h * s.out_w, s.out_channels / s.groups,
                                s.kernel_h * s.kernel_w * words, inner, words, flip_of(p->after)},
                      s.groups);
}

}  // namespace compress::cuda
