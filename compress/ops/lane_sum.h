// Sums in a fixed order that does not wait for each addition: eight running sums, joined in pairs.
#pragma once

#include <cstdint>

namespace compress::ops {

// term(0) + ... + term(count - 1) in float64.
template <class Term>
double lane_sum(int64_t count, const Term& term) {
  constexpr int64_t kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += term(i + l);
  }
  for (int64_t l = 0; i + l < count; ++l) lanes[l] += term(i + l);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

}  // namespace compress::ops
