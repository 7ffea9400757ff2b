// Weights without their groups of zeros.
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "compress/kernels/gemm_s8/gemm_s8_entries.h"

namespace compress::kernels::gemm_s8_detail {

void leave_out_zeros(PackedGemmS8& packed) {
  const int64_t groups = packed.groups(),
                bytes = packed.panel_bytes() / std::max<int64_t>(groups, 1);
  const auto is_zero = [](int8_t weight) { return weight == 0; };
  std::vector<uint16_t> index;
  std::vector<int32_t> starts;
  // Entries move up within the panels, then to memory of their size.
  int8_t* to = packed.panels.get();
  const int8_t* from = to;
  for (int64_t column = 0; column < packed.n; column += kS8PanelColumns) {
    starts.push_back(static_cast<int32_t>(index.size()));
    for (int64_t group = 0; group < groups; ++group, from += bytes) {
      if (std::all_of(from, from + bytes, is_zero)) continue;
      if (to != from) std::memcpy(to, from, static_cast<size_t>(bytes));
      to += bytes;
      index.push_back(static_cast<uint16_t>(group));
    }
  }
  starts.push_back(static_cast<int32_t>(index.size()));
  const auto copy = [](const auto* values, size_t count) {
    auto out = make_aligned<std::remove_cvref_t<decltype(*values)>>(static_cast<int64_t>(count));
    if (count > 0) std::memcpy(out.get(), values, count * sizeof(*values));
    return out;
  };
  packed.copies = 1;
  packed.entries = static_cast<int64_t>(index.size());
  packed.panels = copy(packed.panels.get(), static_cast<size_t>(packed.entries * bytes));
  packed.index = copy(index.data(), index.size());
  packed.starts = copy(starts.data(), starts.size());
}

}  // namespace compress::kernels::gemm_s8_detail
