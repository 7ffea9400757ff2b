// Recurrent nodes in dynamic and weight-only quantization.
#pragma once

#include "passes/quantize/quantize.h"

namespace compress {

// Dynamic: LSTM becomes com.microsoft's DynamicQuantizeLSTM, which multiplies in integers. There is
// no such operator for GRU and RNN, and weight-only leaves the arithmetic as it is: there W and R
// are stored in 8 bits behind DequantizeLinear. Blocks of fewer bits have no recurrent kernel
// anywhere.
void quantize_recurrent(QuantJob& job, QuantMode mode);

}  // namespace compress
