// Work on rows, a block a row: softmax, normalization, attention, reduction; and the scale of
// dynamic quantization, which is a reduction of everything.
#include "compress/kernels/cuda/block_reduce.h"
#include "compress/kernels/cuda/launchers.h"

namespace compress::cuda {
namespace {

constexpr float kInfinity = INFINITY;

__device__ float finite_or_zero(float most) { return most == -kInfinity ? 0.0f : most; }

__global__ void __launch_bounds__(kBlock) softmax_kernel(const Rows p) {
  for (int32_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const float* x = p.x + row * p.count;
    float* out = p.out + row * p.count;
    float most = -kInfinity;
    for (int32_t i = threadIdx.x; i < p.count; i += kBlock) most = Most()(x[i], most);
    most = block_reduce(most, Most());
    float sum = 0;
    for (int32_t i = threadIdx.x; i < p.count; i += kBlock) sum += expf(x[i] - most);
    const float inverse = 1.0f / block_reduce(sum, Add());
    for (int32_t i = threadIdx.x; i < p.count; i += kBlock) out[i] = expf(x[i] - most) * inverse;
  }
}

__global__ void __launch_bounds__(kBlock) norm_kernel(const Rows p) {
  const bool centred = p.kind == RowKind::layer_norm;
  for (int32_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const float* x = p.x + row * p.count;
    float* out = p.out + row * p.count;
    float mean = 0;
    if (centred) {
      float sum = 0;
      for (int32_t i = threadIdx.x; i < p.count; i += kBlock) sum += x[i];
      mean = block_reduce(sum, Add()) / static_cast<float>(p.count);
    }
    float squares = 0;
    for (int32_t i = threadIdx.x; i < p.count; i += kBlock) {
      squares = fmaf(x[i] - mean, x[i] - mean, squares);
    }
    const float inverse =
        1.0f / sqrtf(block_reduce(squares, Add()) / static_cast<float>(p.count) + p.epsilon);
    for (int32_t i = threadIdx.x; i < p.count; i += kBlock) {
      float y = (x[i] - mean) * inverse;
      if (p.gain != nullptr) y *= p.gain[i];
      out[i] = p.bias != nullptr ? y + p.bias[i] : y;
    }
  }
}

// --- Attention -----------------------------------------------------------------------------------

// A block a query. Keys come in runs of kBlock, a thread a score; the largest score so far scales
// what has been summed (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax").
constexpr int kMaxValues = 4;  // of a row of V that one thread sums

__global__ void __launch_bounds__(kBlock) attention_kernel(const Attention p) {
  __shared__ float weights[kBlock];
  const int32_t row = blockIdx.x;
  const int32_t query = row % p.queries, head = row / p.queries % p.heads;
  const int32_t batch = row / (p.queries * p.heads);
  const float* q = p.query + batch * p.q[0] + head * p.q[1] + query * p.q[2];
  const float* k = p.key + batch * p.k[0] + head * p.k[1];
  const float* v = p.value + batch * p.v[0] + head * p.v[1];
  const float* mask = p.mask_data == nullptr
                          ? nullptr
                          : p.mask_data + batch * p.mask[0] + head * p.mask[1] + query * p.mask[2];
  float most = -kInfinity, total = 0;
  float sums[kMaxValues] = {};
  for (int32_t first = 0; first < p.keys; first += kBlock) {
    const int32_t key = first + threadIdx.x;
    float score = -kInfinity;
    if (key < p.keys) {
      score = 0;
      for (int32_t i = 0; i < p.size; ++i) score = fmaf(q[i], k[key * p.k[2] + i], score);
      score *= p.scale;
      if (mask != nullptr) score += mask[p.mask_repeats != 0 ? 0 : key];
    }
    const float larger = Most()(most, block_reduce(score, Most()));
    const float shift = finite_or_zero(larger);
    const float keep = expf(most - shift);
    most = larger;
    weights[threadIdx.x] = key < p.keys ? expf(score - shift) : 0.0f;
    total = total * keep + block_reduce(weights[threadIdx.x], Add());
    const int32_t here = p.keys - first < kBlock ? p.keys - first : kBlock;
    for (int own = 0; own < kMaxValues; ++own) {
      const int32_t column = threadIdx.x + static_cast<int32_t>(own) * kBlock;
      if (column >= p.value_size) break;
      float sum = sums[own] * keep;
      for (int32_t i = 0; i < here; ++i)
        sum = fmaf(weights[i], v[(first + i) * p.v[2] + column], sum);
      sums[own] = sum;
    }
    __syncthreads();  // before the next run writes its weights
  }
  float* out = p.out + batch * p.o[0] + head * p.o[1] + query * p.o[2];
  for (int own = 0; own < kMaxValues; ++own) {
    const int32_t column = threadIdx.x + static_cast<int32_t>(own) * kBlock;
    if (column < p.value_size) out[column] = sums[own] / total;
  }
}

// --- Reduction -----------------------------------------------------------------------------------

__device__ float joined(ReduceKind kind, float a, float b) {
  if (kind == ReduceKind::max) return Most()(a, b);
  if (kind == ReduceKind::min) return Least()(a, b);
  return a + b;
}

__global__ void __launch_bounds__(kBlock) reduce_kernel(const Reduce p) {
  const float start = p.kind == ReduceKind::max   ? -kInfinity
                      : p.kind == ReduceKind::min ? kInfinity
                                                  : 0.0f;
  for (int32_t o = blockIdx.x; o < p.outputs; o += gridDim.x) {
    const float* x = p.x + place_of(o, p.out_rank, p.out_dims, p.out_strides);
    float value = start;
    for (int32_t i = threadIdx.x; i < p.reduced; i += kBlock) {
      value =
          joined(p.kind, value, x[place_of(i, p.reduced_rank, p.reduced_dims, p.reduced_strides)]);
    }
    if (p.kind == ReduceKind::max) {
      value = block_reduce(value, Most());
    } else if (p.kind == ReduceKind::min) {
      value = block_reduce(value, Least());
    } else {
      value = block_reduce(value, Add());
      if (p.kind == ReduceKind::mean) value /= static_cast<float>(p.reduced);
    }
    if (threadIdx.x == 0) p.out[o] = value;
  }
}

// --- Dynamic quantization ------------------------------------------------------------------------

__global__ void __launch_bounds__(kBlock) extent_kernel(const DynamicQuantize p) {
  float least = 0, most = 0;
  for (int32_t i = thread_index(); i < p.count; i += thread_total()) {
    least = p.x[i] < least ? p.x[i] : least;
    most = p.x[i] > most ? p.x[i] : most;
  }
  least = block_reduce(least, Least());
  most = block_reduce(most, Most());
  if (threadIdx.x == 0) {
    p.partial[2 * blockIdx.x] = least;
    p.partial[2 * blockIdx.x + 1] = most;
  }
}

__global__ void __launch_bounds__(kBlock)
    dynamic_kernel(const DynamicQuantize p, int32_t partials) {
  float least = 0, most = 0;
  if (static_cast<int32_t>(threadIdx.x) < partials) {
    least = p.partial[2 * threadIdx.x];
    most = p.partial[2 * threadIdx.x + 1];
  }
  least = block_reduce(least, Least());
  most = block_reduce(most, Most());
  const float scale = most == least ? 1.0f : (most - least) / 255.0f;
  const float zero = -least / scale;
  const float clamped = zero > 0 ? (zero < 255 ? zero : 255.0f) : 0.0f;
  const auto zero_point = static_cast<int32_t>(rintf(clamped));
  if (thread_index() == 0) {
    *p.scale = scale;
    *p.zero_point = static_cast<uint8_t>(zero_point);
  }
  for (int32_t i = thread_index(); i < p.count; i += thread_total()) {
    p.out[i] = into_byte(p.x[i] / scale, static_cast<float>(-zero_point),
                         static_cast<float>(255 - zero_point), zero_point);
  }
}

unsigned row_blocks(const Context& context, int32_t rows) { return blocks_for(context, rows, 1); }

}  // namespace

int rows(Context* context, const Rows* p) {
  if (p->rows == 0 || p->count == 0) return 0;
  const dim3 grid(row_blocks(*context, p->rows));
  if (p->kind == RowKind::softmax) return launch(*context, softmax_kernel, grid, dim3(kBlock), *p);
  return launch(*context, norm_kernel, grid, dim3(kBlock), *p);
}

int attention(Context* context, const Attention* p) {
  const int32_t rows = p->batch * p->heads * p->queries;
  if (rows == 0) return 0;
  return launch(*context, attention_kernel, dim3(static_cast<unsigned>(rows)), dim3(kBlock), *p);
}

int reduce(Context* context, const Reduce* p) {
  if (p->outputs == 0) return 0;
  return launch(*context, reduce_kernel, dim3(row_blocks(*context, p->outputs)), dim3(kBlock), *p);
}

int dynamic_quantize(Context* context, const DynamicQuantize* p) {
  unsigned blocks = blocks_for(*context, p->count);
  if (blocks > kPartials) blocks = kPartials;
  if (const int status = launch(*context, extent_kernel, dim3(blocks), dim3(kBlock), *p)) {
    return status;
  }
  return launch(*context, dynamic_kernel, dim3(blocks), dim3(kBlock), *p,
                static_cast<int32_t>(blocks));
}

}  // namespace compress::cuda
