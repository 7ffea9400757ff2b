// Gates: METRIC OP NUMBER[%], for example "top1_drop<=1%", "speedup>=1.2".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "compress/report/report.h"
#include "compress/verify/metric.h"

namespace compress {

struct Gate {
  enum class Of { candidate, drop, relative_drop };
  enum class Op { less_equal, greater_equal, less, greater, equal };
  std::string expression;  // as written
  const MetricDef* metric = nullptr;
  Of of = Of::candidate;
  Op op = Op::less_equal;
  double bound = 0;  // 1% is 0.01

  bool holds(double value) const;  // false for NaN
};

// Fails (usage) saying what is wrong with the expression.
Gate parse_gate(std::string_view expression);

// `baseline`, where given, is an earlier report: its candidate's values stand in for the
// reference's, and what was timed fails a _drop gate only if the whole confidence interval does.
// Fails (usage) where a value is in neither report.
std::vector<GateResult> check_gates(const std::vector<Gate>& gates, const Measurements& values,
                                    const Measurements* baseline);

// The candidate's values in a JSON report. Fails (usage) where it is none.
Measurements read_baseline(std::string_view text, std::string_view what);

}  // namespace compress
