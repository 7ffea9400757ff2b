// Picks the instance of a kernel template that an element type asks for.
#pragma once

#include <fmt/format.h>

#include <limits>
#include <string>

#include "compress/error.h"
#include "compress/ops/op.h"

namespace compress {

// Calls make(T{}) with T = float or double. Half types have been widened before (prepare_kernel).
template <class Make>
Kernel by_float(const NodeContext& c, DType dtype, Make&& make) {
  if (dtype == DType::float32) return make(float{});
  if (dtype == DType::float64) return make(double{});
  c.unsupported(fmt::format("element type {}", info(dtype).name));
}

// Calls make(T{}) with T = uint8_t or int8_t.
template <class Make>
auto by_byte(const NodeContext& c, DType dtype, Make&& make) {
  if (dtype == DType::uint8) return make(uint8_t{});
  if (dtype == DType::int8) return make(int8_t{});
  c.unsupported(fmt::format("element type {} where uint8 or int8 is needed", info(dtype).name));
}

template <class T>
const T* data_or_null(const KernelArgs& args, size_t i) {
  if (i >= args.inputs.size() || args.inputs[i].data == nullptr) return nullptr;
  return args.inputs[i].as<const T>();
}

// Whether input i is given and its shape is known; checks its rank where it is.
inline bool known_rank(const NodeContext& c, int i, int rank) {
  if (!c.has_input(i) || !c.in(i).has_shape) return false;
  if (c.shape(i).rank() != rank) {
    c.invalid(
        fmt::format("input {} has shape {}, rank {} is needed", i, c.shape(i).to_string(), rank));
  }
  return true;
}

// REQUIRES that optional input i, where given, has this concrete shape.
inline void require_shape(const NodeContext& c, int i, const Shape& wanted) {
  if (!c.has_input(i) || c.shape(i) == wanted) return;
  c.invalid(fmt::format("input {} has shape {}, {} is needed", i, c.shape(i).to_string(),
                        wanted.to_string()));
}

// The same for an operand that counts elements only: [n], [1,n] and the like.
inline void require_count(const NodeContext& c, int i, int64_t wanted) {
  if (!c.has_input(i) || c.shape(i).count() == wanted) return;
  c.invalid(fmt::format("input {} has shape {}, {} elements are needed", i, c.shape(i).to_string(),
                        wanted));
}

// Fails where one of the inputs [0, n) is missing.
inline void require_inputs(const NodeContext& c, int n) {
  for (int i = 0; i < n; ++i) {
    if (!c.has_input(i)) c.invalid(fmt::format("input {} is missing", i));
  }
}

// Output 0 is like input 0.
inline void infer_like_first(NodeContext& c) {
  require_inputs(c, 1);
  if (c.in(0).has_shape) {
    c.set_output(0, c.dtype(0), c.shape(0));
  } else {
    c.set_output(0, c.dtype(0));
  }
}

}  // namespace compress
