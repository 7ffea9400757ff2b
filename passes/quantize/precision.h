// Which precision each node gets: --mode for all, --override for those that a pattern names, --rest
// for what is left in float.
#pragma once

#include <string>
#include <vector>

#include "passes/overrides.h"
#include "passes/quantize/quantize.h"

namespace compress {

// What one node becomes. `text` is as it was written, and tells groups apart.
struct Precision {
  std::string text;
  QuantMode mode = QuantMode::none;  // none: float32; half: computed in `half`
  DType half = DType::undefined;
  std::string weights;  // "" takes the default of the mode
  std::string granularity;
  std::string activations;
};

// "float32", "float16", "bfloat16", "static", "static/int4/channel/uint16", "weight-only/int4/
// block:64", "dynamic/int8". Fails (usage).
Precision parse_precision(std::string_view text);

class Overrides {
 public:
  // Reads "override": PATTERN=PRECISION each. Fails (usage).
  explicit Overrides(const Options& options);

  bool empty() const { return precisions_.empty(); }
  // Of the first pattern that matches; null where none does.
  const Precision* find(const Graph& graph, const Node& node) const;
  // The different precisions in the order of their first pattern.
  std::vector<const Precision*> kinds() const;
  bool has(QuantMode mode) const;

 private:
  std::vector<OverrideRow> rows_;
  std::vector<Precision> precisions_;  // one a row
};

// --mode float16 or bfloat16, else --rest; undefined: what is not quantized stays float32.
DType half_dtype(const Options& options);

// The options of a run for nodes of one precision alone: --include, --exclude and --op-types, which
// patterns stand in for, are gone.
Options options_for(const Options& options, const Precision& precision);

// Lets a selection refuse nodes that --override gives to another precision. `text` is "" for what
// no pattern names.
void restrict_to(Selection& selection, const Graph& graph, const Overrides& overrides,
                 std::string text);
// The same for all that is quantized statically, whose scales hang together.
void restrict_to_static(Selection& selection, const Graph& graph, const Overrides& overrides,
                        bool by_default);

}  // namespace compress
