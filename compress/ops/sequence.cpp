// Operators along the time axis of batches of sequences: ReverseSequence, TensorScatter.
#include <algorithm>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

// --- ReverseSequence -----------------------------------------------------------------------------

void infer_reverse(NodeContext& context) {
  require_inputs(context, 2, 2);
  infer_same(context);
}

Kernel prepare_reverse(const NodeContext& context) {
  const Shape& x = context.shape(0);
  const int64_t batch_axis = context.node().int_or("batch_axis", 1);
  const int64_t time_axis = context.node().int_or("time_axis", 0);
  if (x.rank() < 2 || batch_axis + time_axis != 1 || batch_axis < 0 || time_axis < 0) {
    context.invalid(fmt::format("batch axis {} and time axis {} of shape {}", batch_axis, time_axis,
                                x.to_string()));
  }
  const bool time_first = time_axis == 0;
  const int64_t times = x[time_first ? 0 : 1], batches = x[time_first ? 1 : 0];
  if (!(context.shape(1) == Shape{batches})) {
    context.invalid(fmt::format("sequence_lens of shape {} for {} sequences",
                                context.shape(1).to_string(), batches));
  }
  if (context.dtype(1) != DType::int64) context.invalid("sequence_lens are not int64");
  return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [=, inner = x.count(2, x.rank()), where = label(context)](const KernelArgs& args) {
              const T* from = static_cast<const T*>(args.inputs[0].data);
              const auto* lengths = static_cast<const int64_t*>(args.inputs[1].data);
              T* to = static_cast<T*>(args.outputs[0].data);
              const auto row_of = [&](int64_t b, int64_t t) {
                return (time_first ? t * batches + b : b * times + t) * inner;
              };
              for (int64_t b = 0; b < batches; ++b) {
                const int64_t length = lengths[b];
                if (length < 0 || length > times) {
                  fail(ErrorCode::invalid_model, "{}: a sequence of {} in {} steps", where, length,
                       times);
                }
                for (int64_t t = 0; t < times; ++t) {
                  const int64_t source = t < length ? length - 1 - t : t;
                  std::copy_n(from + row_of(b, source), inner, to + row_of(b, t));
                }
              }
            }};
  });
}

// --- TensorScatter: a cache with some of its time steps replaced ---------------------------------

struct CacheSpec {
  int64_t batches;
  int64_t rows;     // of a batch, before the time axis
  int64_t cached;   // steps of the cache
  int64_t updated;  // steps of the update
  int64_t inner;
  bool circular;
};

void infer_tensor_scatter(NodeContext& context) {
  require_inputs(context, 2, 3);
  require_same_dtype(context, 0, 2);
  infer_same(context);
}

CacheSpec cache_of(const NodeContext& context) {
  const Shape& cache = context.shape(0);
  const Shape& update = context.shape(1);
  const int axis = axis_of(context, context.node().int_or("axis", -2), cache.rank());
  bool fits = axis > 0 && update.rank() == cache.rank() && update[axis] <= cache[axis];
  for (int i = 0; fits && i < cache.rank(); ++i) fits = i == axis || update[i] == cache[i];
  if (!fits) {
    context.invalid(fmt::format("an update of shape {} along axis {} of a cache of shape {}",
                                update.to_string(), axis, cache.to_string()));
  }
  const std::string mode = context.node().string_or("mode", "linear");
  if (mode != "linear" && mode != "circular") {
    context.invalid(fmt::format("mode '{}'", printable(mode)));
  }
  if (context.has_input(2) &&
      (!(context.shape(2) == Shape{cache[0]}) || context.dtype(2) != DType::int64)) {
    context.invalid("write_indices must be one int64 a batch");
  }
  return {cache[0],
          cache.count(1, axis),
          cache[axis],
          update[axis],
          cache.count(axis + 1, cache.rank()),
          mode == "circular"};
}

Kernel prepare_tensor_scatter(const NodeContext& context) {
  const CacheSpec spec = cache_of(context);
  return dispatch_size(context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [spec, where = label(context)](const KernelArgs& args) {
              const T* cache = static_cast<const T*>(args.inputs[0].data);
              const T* update = static_cast<const T*>(args.inputs[1].data);
              const bool given = args.inputs.size() > 2 && args.inputs[2].data != nullptr;
              const auto* indices = given ? args.inputs[2].as<const int64_t>() : nullptr;
              T* out = static_cast<T*>(args.outputs[0].data);
              const int64_t row = spec.cached * spec.inner;
              if (out != cache) std::copy_n(cache, spec.batches * spec.rows * row, out);
              for (int64_t b = 0; b < spec.batches && spec.updated > 0; ++b) {
                int64_t first = given ? indices[b] : 0;
                if (first < 0 || (!spec.circular && first > spec.cached - spec.updated)) {
                  fail(ErrorCode::invalid_model, "{}: {} steps at {} of a cache of {}", where,
                       spec.updated, first, spec.cached);
                }
                first %= spec.cached;
                for (int64_t r = b * spec.rows; r < (b + 1) * spec.rows; ++r) {
                  for (int64_t s = 0; s < spec.updated; ++s) {
                    const int64_t at =
                        first + s < spec.cached ? first + s : first + s - spec.cached;
                    std::copy_n(update + (r * spec.updated + s) * spec.inner, spec.inner,
                                out + r * row + at * spec.inner);
                  }
                }
              }
            }};
  });
}

constexpr OpDef kRows[] = {
    moving_row("ReverseSequence", 10, infer_reverse, prepare_reverse),
    any_row("TensorScatter", 24, infer_tensor_scatter, prepare_tensor_scatter),
};

}  // namespace

constinit const std::span<const OpDef> kSequenceOps = kRows;

}  // namespace compress
