#include "compress/ops/scale_map.h"

#include "compress/ops/typed.h"

namespace compress {

ScaleMap map_scales(const NodeContext& c) {
  const Shape& x = c.shape(0);
  const Shape& scale = c.shape(1);
  const int64_t block = c.node().int_or("block_size", 0);
  if (block < 0) c.invalid(fmt::format("block_size is {}", block));
  ScaleMap map;
  map.inner = x.count();
  if (scale.count() == 1 && block == 0) {
    require_count(c, 2, 1);
    return map;
  }
  require_shape(c, 2, scale);
  const int axis = normalize_axis(c.node().int_or("axis", 1), x.rank());
  Shape wanted{x[axis]};
  if (block > 0) {
    wanted = x;
    wanted[axis] = (x[axis] + block - 1) / block;
  }
  if (scale != wanted) {
    c.invalid(
        fmt::format("scales of shape {}, {} is needed", scale.to_string(), wanted.to_string()));
  }
  map.per_tensor = false;
  map.axis = x[axis];
  map.inner = x.count(axis + 1, x.rank());
  map.block = block;
  if (map.inner == 1 && block == 0) {
    map.joined = true;
    map.inner = map.axis;
    map.axis = 1;
  }
  return map;
}

}  // namespace compress
