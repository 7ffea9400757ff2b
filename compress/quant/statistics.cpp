#include "compress/quant/statistics.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>

#include "compress/core/parallel.h"
#include "compress/error.h"

namespace compress {
namespace {

// Elements that one task takes at a time: small enough for the first-level cache, so that the
// passes over a chunk read memory once.
constexpr int64_t kChunk = 2048;
// Elements that are worth a thread's start.
constexpr int64_t kTask = 16 * kChunk;
// Vectors of the oldest x86-64; a loop over floats would have to keep the order of its minima.
constexpr size_t kLanes = 4;
constexpr size_t kVectors = 4;  // at a time, since each waits for its last result
typedef float Floats __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t Ints __attribute__((vector_size(kLanes * sizeof(int32_t))));
constexpr int32_t kInfinityBits = 0x7F800000;

// |x| as an integer of the same order; signed, which SSE2 can compare.
int32_t magnitude_bits(float x) { return std::bit_cast<int32_t>(x) & 0x7FFFFFFF; }
bool is_finite(float x) { return magnitude_bits(x) < kInfinityBits; }

struct Extent {
  float min = std::numeric_limits<float>::infinity();
  float max = -std::numeric_limits<float>::infinity();
  int64_t count = 0;  // finite elements
  bool finite = true;

  void merge(const Extent& other) {
    min = std::min(min, other.min);
    max = std::max(max, other.max);
    count += other.count;
    finite = finite && other.finite;
  }
};

Extent extent_of_each(std::span<const float> values) {
  Extent extent;
  for (const float x : values) {
    if (!is_finite(x)) {
      extent.finite = false;
      continue;
    }
    extent.min = std::min(extent.min, x);
    extent.max = std::max(extent.max, x);
    ++extent.count;
  }
  return extent;
}

Extent extent_of(std::span<const float> values) {
  std::array<Floats, kVectors> low, high;
  std::array<Ints, kVectors> largest;
  low.fill(Floats{} + values.front());
  high = low;
  largest.fill(Ints{});
  size_t i = 0;
  for (; i + kVectors * kLanes <= values.size(); i += kVectors * kLanes) {
    for (size_t k = 0; k < kVectors; ++k) {
      Floats x;
      Ints bits;
      std::memcpy(&x, &values[i + k * kLanes], sizeof x);
      std::memcpy(&bits, &values[i + k * kLanes], sizeof bits);
      bits &= 0x7FFFFFFF;
      low[k] = x < low[k] ? x : low[k];
      high[k] = x > high[k] ? x : high[k];
      largest[k] = bits > largest[k] ? bits : largest[k];
    }
  }
  int32_t most = magnitude_bits(values.front());
  for (size_t lane = 0; lane < kVectors * kLanes; ++lane) {
    most = std::max(most, largest[lane / kLanes][lane % kLanes]);
  }
  if (most >= kInfinityBits) return extent_of_each(values);
  Extent extent = extent_of_each(values.subspan(i));
  for (size_t lane = 0; lane < kVectors * kLanes; ++lane) {
    extent.min = std::min(extent.min, low[lane / kLanes][lane % kLanes]);
    extent.max = std::max(extent.max, high[lane / kLanes][lane % kLanes]);
  }
  extent.count += static_cast<int64_t>(i);
  return extent;
}

// Over all values, in parallel: minima, maxima and counts do not depend on the order.
Extent parallel_extent(std::span<const float> values) {
  Extent total;
  std::mutex guard;
  parallel_for(0, static_cast<int64_t>(values.size()), kTask, [&](int64_t begin, int64_t end) {
    Extent mine;
    for (int64_t i = begin; i < end; i += kChunk) {
      const auto size = static_cast<size_t>(std::min(kChunk, end - i));
      mine.merge(extent_of(values.subspan(static_cast<size_t>(i), size)));
    }
    const std::lock_guard lock(guard);
    total.merge(mine);
  });
  return total;
}

// Bin numbers of values: floor(x / width) + kBins / 2, exactly, so that merged bins hold what a
// coarser histogram would have counted.
struct Binning {
  // x * 2^(10 - exponent) in two steps: the whole power may lie outside of float32's range.
  float first, second;

  explicit Binning(int exponent) {
    const int shift = std::countr_zero(static_cast<unsigned>(Histogram::kBins)) - 1 - exponent;
    first = std::ldexp(1.0f, shift / 2);
    second = std::ldexp(1.0f, shift - shift / 2);
  }
  int32_t operator()(float x) const {
    const float scaled = x * first * second;
    const int32_t toward_zero = static_cast<int32_t>(scaled);
    // A negative value that underflowed lies below zero all the same.
    const bool below = (static_cast<float>(toward_zero) > scaled) | ((scaled == 0) & (x < 0));
    return toward_zero - below + Histogram::kBins / 2;
  }
};

// Several counters a bin, since equal neighbours (zeros after Relu) would wait for each other.
using Counters = std::array<std::array<uint32_t, Histogram::kBins>, 4>;

bool all_finite(std::span<const float> values) {
  int32_t largest = 0;
  for (const float x : values) {
    const int32_t bits = magnitude_bits(x);
    largest = bits > largest ? bits : largest;
  }
  return largest < kInfinityBits;
}

void count_chunk(std::span<const float> values, const Binning& bin, Counters& counters) {
  if (!all_finite(values)) {
    for (const float x : values) {
      if (is_finite(x)) ++counters[0][static_cast<size_t>(bin(x))];
    }
    return;
  }
  std::array<int32_t, kChunk> bins;
  const size_t size = values.size();
  for (size_t i = 0; i < size; ++i) bins[i] = bin(values[i]);
  size_t i = 0;
  for (; i + 4 <= size; i += 4) {
    for (size_t k = 0; k < 4; ++k) ++counters[k][static_cast<size_t>(bins[i + k])];
  }
  for (; i < size; ++i) ++counters[0][static_cast<size_t>(bins[i])];
}

// A tensor as [outer, channels, inner].
struct Channels {
  int64_t outer, channels, inner;

  Channels(const Shape& shape, int axis) {
    const int rank = shape.rank();
    if (axis < 0) axis += rank;
    if (axis < 0 || axis >= rank) {
      fail(ErrorCode::internal, "channel axis {} of a tensor of shape {}", axis, shape.to_string());
    }
    outer = shape.count(0, axis);
    channels = shape[axis];
    inner = shape.count(axis + 1, rank);
  }
  // Channels that are worth a task.
  int64_t grain() const {
    return std::max<int64_t>(1, kTask / std::max<int64_t>(1, outer * inner));
  }

  template <class T>
  void resize(std::vector<T>& per_channel) const {
    if (per_channel.empty()) per_channel.assign(static_cast<size_t>(channels), T{});
    if (per_channel.size() != static_cast<size_t>(channels)) {
      fail(ErrorCode::unsupported, "the number of channels changes between runs ({} and {})",
           per_channel.size(), channels);
    }
  }
};

// Largest |x| of each channel; what is not finite counts as 0.
void add_channel_absmax(const TensorView& values, int axis, std::vector<float>& absmax) {
  const Channels view(values.shape, axis);
  view.resize(absmax);
  const int64_t outer = view.outer, channels = view.channels, inner = view.inner;
  const float* data = values.as<const float>();
  const auto bits_of = [](float x) {
    const int32_t bits = magnitude_bits(x);
    return bits < kInfinityBits ? bits : 0;
  };
  const auto raise = [&](int64_t channel, int32_t bits) {
    float& slot = absmax[static_cast<size_t>(channel)];
    slot = std::max(slot, std::bit_cast<float>(bits));
  };
  // Each task owns its channels.
  parallel_for(0, channels, view.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t o = 0; o < outer; ++o) {
      const float* slice = data + o * channels * inner;
      for (int64_t c = begin; c < end; ++c) {
        int32_t largest = 0;
        for (int64_t i = 0; i < inner; ++i) {
          largest = std::max(largest, bits_of(slice[c * inner + i]));
        }
        raise(c, largest);
      }
    }
  });
}

// In float over runs short enough not to lose bits, lane by lane.
double sum_of(std::span<const float> values) {
  constexpr size_t kRun = 64 * kVectors * kLanes;
  double sum = 0;
  while (!values.empty()) {
    const auto run = values.first(std::min(kRun, values.size()));
    std::array<Floats, kVectors> parts{};
    size_t i = 0;
    for (; i + kVectors * kLanes <= run.size(); i += kVectors * kLanes) {
      for (size_t k = 0; k < kVectors; ++k) {
        Floats x;
        std::memcpy(&x, &run[i + k * kLanes], sizeof x);
        parts[k] += x;
      }
    }
    for (; i < run.size(); ++i) sum += double{run[i]};
    for (size_t lane = 0; lane < kVectors * kLanes; ++lane) {
      sum += double{parts[lane / kLanes][lane % kLanes]};
    }
    values = values.subspan(run.size());
  }
  return sum;
}

// Each task owns channels and adds in the tensor's order, so sums do not depend on the threads.
void add_channel_sum(const TensorView& values, int axis, std::vector<double>& sums,
                     int64_t& elements) {
  const Channels view(values.shape, axis);
  view.resize(sums);
  const float* data = values.as<const float>();
  parallel_for(0, view.channels, view.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t o = 0; o < view.outer; ++o) {
      const float* slice = data + o * view.channels * view.inner;
      for (int64_t c = begin; c < end; ++c) {
        double& sum = sums[static_cast<size_t>(c)];
        if (view.inner == 1) {
          sum += double{slice[c]};
        } else {
          sum += sum_of({slice + c * view.inner, static_cast<size_t>(view.inner)});
        }
      }
    }
  });
  elements += view.outer * view.inner;
}

// gram += X'X with X the tensor as rows of its last axis. Each task owns rows of the result and
// adds samples in order, so the sum does not depend on the threads.
void add_gram(const TensorView& values, std::vector<double>& gram, int64_t& rows_seen) {
  const int rank = values.shape.rank();
  if (rank == 0) fail(ErrorCode::internal, "X'X of a scalar");
  const int64_t k = values.shape[rank - 1];
  const int64_t rows = values.shape.count(0, rank - 1);
  const auto size = static_cast<size_t>(k) * static_cast<size_t>(k);
  if (gram.empty()) gram.assign(size, 0.0);
  if (gram.size() != size) {
    fail(ErrorCode::unsupported, "the last axis changes between runs (now {})", k);
  }
  const float* x = values.as<const float>();
  parallel_for(0, k, 8, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = x + r * k;
      for (int64_t i = begin; i < end; ++i) {
        const double xi = row[i];
        if (xi == 0) continue;
        double* out = gram.data() + i * k;
        for (int64_t j = 0; j < k; ++j) out[j] += xi * row[j];
      }
    }
  });
  rows_seen += rows;
}

template <class T, class Combine>
void merge_parts(std::vector<T>& into, const std::vector<T>& other, const char* what,
                 Combine combine) {
  if (other.empty()) return;
  if (into.empty()) {
    into = other;
    return;
  }
  if (into.size() != other.size()) {
    fail(ErrorCode::invalid_model,
         "statistics of different sizes cannot be merged: {} of {} and {}", what, into.size(),
         other.size());
  }
  for (size_t i = 0; i < into.size(); ++i) into[i] = combine(into[i], other[i]);
}

}  // namespace

int Histogram::exponent_for(float magnitude) {
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
  return magnitude == 0 ? -126 : std::max(exponent, -126);
}

void Histogram::grow_to(int wanted) {
  if (empty) exponent = wanted, empty = false;
  for (; exponent < wanted; ++exponent) {  // pairs of bins become one, around the middle
    std::vector<int64_t> merged(kBins, 0);
    for (size_t i = 0; i < kBins / 2; ++i) {
      merged[kBins / 4 + i] = counts[2 * i] + counts[2 * i + 1];
    }
    counts = std::move(merged);
  }
}

void Histogram::add(std::span<const float> values, float absmax) {
  if (values.empty()) return;
  grow_to(exponent_for(absmax));
  const Binning bin(exponent);
  std::mutex guard;
  parallel_for(0, static_cast<int64_t>(values.size()), kTask, [&](int64_t begin, int64_t end) {
    auto counters = std::make_unique<Counters>();
    const auto flush = [&] {
      const std::lock_guard lock(guard);
      for (const auto& part : *counters) {
        for (size_t b = 0; b < part.size(); ++b) counts[b] += part[b];
      }
      *counters = {};
    };
    int64_t held = 0;
    for (int64_t i = begin; i < end; i += kChunk) {
      const auto size = static_cast<size_t>(std::min(kChunk, end - i));
      count_chunk(values.subspan(static_cast<size_t>(i), size), bin, *counters);
      held += kChunk;
      if (held >= int64_t{1} << 31) flush(), held = 0;  // before a 32-bit counter can overflow
    }
    flush();
  });
}

void Histogram::merge(const Histogram& other) {
  if (other.empty) return;
  Histogram aligned = other;
  grow_to(std::max(empty ? other.exponent : exponent, other.exponent));
  aligned.grow_to(exponent);
  for (size_t i = 0; i < kBins; ++i) counts[i] += aligned.counts[i];
}

double Histogram::bin_width() const { return std::ldexp(2.0 / kBins, exponent); }
double Histogram::lower_edge(int bin) const { return (bin - kBins / 2) * bin_width(); }

void Statistics::add(const TensorView& values, const StatisticsRequest& request) {
  assert(values.dtype == DType::float32);
  const std::span<const float> all(values.as<const float>(), static_cast<size_t>(values.count()));
  const Extent extent = parallel_extent(all);
  finite = finite && extent.finite;
  if (extent.count > 0) {
    // Adding 0 turns -0 into 0: which of the two a minimum is would depend on the order.
    const float low = extent.min + 0.0f;
    const float high = extent.max + 0.0f;
    min = count == 0 ? low : std::min(min, low);
    max = count == 0 ? high : std::max(max, high);
    count += extent.count;
    ++batches;
    sum_min += low;
    sum_max += high;
    if (request.histogram) histogram.add(all, std::max(std::abs(low), std::abs(high)));
  }
  if (request.channel_absmax) add_channel_absmax(values, request.channel_axis, channel_absmax);
  if (request.channel_sum && extent.finite) {
    add_channel_sum(values, request.channel_axis, channel_sum, channel_count);
  }
  if (request.gram && extent.finite) add_gram(values, gram, gram_rows);
}

void Statistics::merge(const Statistics& other) {
  if (other.count > 0) {
    min = count == 0 ? other.min : std::min(min, other.min);
    max = count == 0 ? other.max : std::max(max, other.max);
  }
  count += other.count;
  batches += other.batches;
  sum_min += other.sum_min;
  sum_max += other.sum_max;
  finite = finite && other.finite;
  histogram.merge(other.histogram);
  merge_parts(channel_absmax, other.channel_absmax, "channel maxima",
              [](float a, float b) { return std::max(a, b); });
  merge_parts(channel_sum, other.channel_sum, "channel sums", std::plus<>());
  channel_count += other.channel_count;
  merge_parts(gram, other.gram, "X'X", [](double a, double b) { return a + b; });
  gram_rows += other.gram_rows;
}

}  // namespace compress
