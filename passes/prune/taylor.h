// What a loss would change by, to first order, if weights were zero (Molchanov et al. 2019, arXiv
// 1906.10771): the square of weight times gradient, summed over samples.
//
// The loss is the cross-entropy with the samples' labels. Without labels it is that with classes
// drawn from what the model itself says, and of outputs that are no distributions the squared
// distance to themselves with noise added: the gradients of the model's divergence from itself, all
// of which are zero at the start, in second order (the Fisher information; Theis et al. 2018).
#pragma once

#include "passes/prune/candidates.h"
#include "passes/prune/channel_choice.h"

namespace compress {

// Ranks every candidate by its weights' importance. Those that the loss does not depend on, or
// whose weights are not float32, are skipped. Fails (unsupported) where a node has no derivative.
void rank_by_taylor(const Model& model, Candidates& candidates, const CalibrationSamples& samples,
                    uint64_t seed);

// Of units: what the loss of all weights that read them does together. Units that no weights read
// count by those that make them.
ChannelScores taylor_scores(const Model& model, const ChannelGraph& channels,
                            const CalibrationSamples& samples, uint64_t seed);

}  // namespace compress
