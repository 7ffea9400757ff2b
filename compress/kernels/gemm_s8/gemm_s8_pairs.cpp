// Weights for kernels that add products of bytes in pairs in 16 bits (vpmaddubsw), without letting
// them saturate.
//
// 255 w + 255 v fits 16 bits for any pair of weights whose positive parts add up to 128 at most,
// and whose negative parts do. Four weights of a column (a unit of K) make two pairs; where the
// natural ones do not fit, one of the two other ways to pair them often does, for eight columns at
// once. Activations lie there once for each way, with their bytes exchanged. A unit that none of
// them serves is multiplied twice, by halves of its weights. Units without weights are left out,
// which makes sparse weights cheap.
#include "compress/kernels/gemm_s8/gemm_s8_entries.h"

#include <cstring>
#include <vector>

namespace compress::kernels::gemm_s8_detail {
namespace {

constexpr int64_t kUnit = 4;     // values of K
constexpr int64_t kColumns = 8;  // of an entry
constexpr int64_t kSafe = 128;   // 255 * 128 < 2^15
constexpr int kCopies[3][kUnit] = {{0, 1, 2, 3}, {0, 2, 1, 3}, {0, 3, 1, 2}};
constexpr int64_t kMaxIndex = 65535;
// Where fewer natural pairs than one in so many do not fit, one copy of the activations is enough.
constexpr int64_t kRare = 32;

struct Unit {
  int8_t weights[kColumns][kUnit];
};

bool fits(int8_t a, int8_t b) {
  const int positive = (a > 0 ? a : 0) + (b > 0 ? b : 0);
  const int negative = (a < 0 ? -a : 0) + (b < 0 ? -b : 0);
  return positive <= kSafe && negative <= kSafe;
}

Unit exchanged(const Unit& unit, int copy) {
  Unit out;
  for (int64_t c = 0; c < kColumns; ++c) {
    for (int64_t k = 0; k < kUnit; ++k) out.weights[c][k] = unit.weights[c][kCopies[copy][k]];
  }
  return out;
}

bool fits(const Unit& unit) {
  for (const auto& w : unit.weights) {
    if (!fits(w[0], w[1]) || !fits(w[2], w[3])) return false;
  }
  return true;
}

bool is_zero(const Unit& unit) {
  constexpr Unit kNone{};
  return std::memcmp(&unit, &kNone, sizeof(Unit)) == 0;
}

// The unit `g` of eight columns from `first` on, out of panels of sixteen.
Unit unit_at(const PackedGemmS8& packed, int64_t first, int64_t g) {
  const int8_t* panel = packed.panels.get() + first / kS8PanelColumns * packed.panel_bytes();
  Unit unit;
  std::memcpy(&unit, panel + (g * kS8PanelColumns + first % kS8PanelColumns) * kUnit, sizeof(Unit));
  return unit;
}

}  // namespace

void make_pairs(PackedGemmS8& packed) {
  const int64_t groups = packed.groups(), halves = packed.padded_n() / kColumns;
  int64_t natural = 0;
  for (int64_t half = 0; half < halves; ++half) {
    for (int64_t g = 0; g < groups; ++g) natural += fits(unit_at(packed, half * kColumns, g));
  }
  const bool one_copy = (halves * groups - natural) * kRare <= halves * groups ||
                        3 * pair_units(packed.k) > kMaxIndex;
  const int copies = one_copy ? 1 : 3;
  const int64_t units = pair_units(packed.k);
  std::vector<Unit> entries;
  std::vector<uint16_t> index;
  std::vector<int32_t> starts;
  for (int64_t half = 0; half < halves; ++half) {
    starts.push_back(static_cast<int32_t>(index.size()));
    for (int64_t g = 0; g < groups; ++g) {
      const Unit unit = unit_at(packed, half * kColumns, g);
      if (is_zero(unit)) continue;
      int copy = 0;
      while (copy < copies && !fits(exchanged(unit, copy))) ++copy;
      if (copy < copies) {
        entries.push_back(exchanged(unit, copy));
        index.push_back(static_cast<uint16_t>(copy * units + g));
        continue;
      }
      Unit part = unit, rest = unit;
      for (int64_t c = 0; c < kColumns; ++c) {
        for (int64_t k = 0; k < kUnit; ++k) {
          part.weights[c][k] = static_cast<int8_t>(unit.weights[c][k] / 2);
          rest.weights[c][k] = static_cast<int8_t>(unit.weights[c][k] - part.weights[c][k]);
        }
      }
      for (const Unit& each : {part, rest}) {
        entries.push_back(each);
        index.push_back(static_cast<uint16_t>(g));
      }
    }
  }
  starts.push_back(static_cast<int32_t>(index.size()));
  packed.copies = copies;
  packed.entries = static_cast<int64_t>(entries.size());
  packed.panels = make_aligned<int8_t>(packed.entries * static_cast<int64_t>(sizeof(Unit)));
  packed.index = make_aligned<uint16_t>(packed.entries);
  packed.starts = make_aligned<int32_t>(static_cast<int64_t>(starts.size()));
  if (!entries.empty()) {
    std::memcpy(packed.panels.get(), entries.data(), entries.size() * sizeof(Unit));
    std::memcpy(packed.index.get(), index.data(), index.size() * sizeof(uint16_t));
  }
  std::memcpy(packed.starts.get(), starts.data(), starts.size() * sizeof(int32_t));
}

}  // namespace compress::kernels::gemm_s8_detail
