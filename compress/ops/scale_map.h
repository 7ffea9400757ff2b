// How the elements of a tensor find their scales and zero points: per tensor, per index of an axis,
// or per block along it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "compress/ops/op.h"

namespace compress {

// Where an element finds its scale: the tensor seen as [outer, axis, inner].
struct ScaleMap {
  int64_t axis = 1;
  int64_t inner = 1;
  int64_t block = 0;  // elements along the axis that share a scale; 0: one scale an index
  bool per_tensor = true;
  // A slice of one element each is a row whose scales lie side by side.
  bool joined = false;
};

// From the shapes of inputs 0 (elements), 1 (scales) and 2 (zero points), and the attributes.
ScaleMap map_scales(const NodeContext& c);

// Calls body(first element, count, first scale, step of the scale) for the runs of [from, to).
template <class Body>
void for_each_run(const ScaleMap& map, int64_t from, int64_t to, Body&& body) {
  if (map.per_tensor) return body(from, to - from, int64_t{0}, int64_t{0});
  const int64_t blocks = map.block > 0 ? (map.axis + map.block - 1) / map.block : 0;
  int64_t at = from;
  int64_t i = at % map.inner;
  int64_t a = at / map.inner % map.axis;
  int64_t o = at / map.inner / map.axis;
  while (at < to) {
    const int64_t count = std::min(map.inner - i, to - at);
    if (map.joined) {
      body(at, count, i, int64_t{1});
    } else if (map.block == 0) {
      body(at, count, a, int64_t{0});
    } else {
      body(at, count, (o * blocks + a / map.block) * map.inner + i, int64_t{1});
    }
    at += count;
    i = 0;
    if (++a == map.axis) {
      a = 0;
      ++o;
    }
  }
}

// QuantizeLinear to, and DequantizeLinear from, float8 and float4 (quantize_float.cpp).
Kernel quantize_float_kernel(const NodeContext& c);
Kernel dequantize_float_kernel(const NodeContext& c);

}  // namespace compress
