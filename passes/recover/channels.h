// Float models made easier to quantize, with the same results on the calibration data: channels
// that never change, and channels of very different size.
#pragma once

#include "passes/pass.h"

namespace compress {

// A channel (of a Conv or Gemm, behind its Relu or Clip) that has one value on all samples gets
// weights of zero and a bias of that value; where nothing is padded, its readers take the value
// into their bias. Such channels often hold the largest weights of a layer, from batch norms whose
// variance was nearly nothing, and with one scale a tensor all others pay for them.
// Then, with `equalize`: layers that follow each other trade the size of their channels until both
// spread evenly (Nagel et al. 2019, arXiv 1906.04721, section 4.1). A channel that a Clip's bound
// cuts keeps its size; others stay below the bound with room to spare, so results stay the same.
//
// Runs in static mode where something is to be recovered.
PassResult prepare_channels(Model& model, PassContext& context);

}  // namespace compress
