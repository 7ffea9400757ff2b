// Static quantization that keeps a floor: what the integers do to the outputs is measured, and the
// layers that do the most harm for their work stay in float32 until the floor holds.
#pragma once

#include <functional>

#include "passes/quantize/quantize.h"

namespace compress {

// `quantize` runs on copies of the job's model, each time with more nodes refused; the job gets the
// first result in which every output's cosine with the float model reaches `floor` on the
// calibration samples. Which nodes were kept, and why, goes to the job's skipped rows.
void quantize_above(QuantJob& job, double floor, const std::function<void(QuantJob&)>& quantize);

}  // namespace compress
