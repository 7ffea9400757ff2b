// What channels mean to the layers that read them, measured on calibration data.
#pragma once

#include "passes/prune/channel_choice.h"

namespace compress {

// The error that the loss of each unit makes in what reads it, as parts of the outputs' energy,
// summed over the readers. Plain: |w|^2 |x|^2 of its weights and inputs (wanda); of a unit of
// several inputs (a head), of what they add up to. Compensated: what is left of it after the other
// inputs have made up for it as well as they can (Hassibi and Stork 1993, for blocks of weights).
ChannelScores calibrated_scores(const Model& model, const ChannelGraph& channels,
                                const CalibrationSamples& samples, bool compensated);

// Gives the weights of kept inputs the least-squares values that make up for the removed ones,
// reader after reader. Returns how many layers changed. Layers whose inputs cannot be inverted keep
// theirs.
int64_t make_up_for(Model& model, const ChannelGraph& channels, const KeptChannels& kept,
                    const CalibrationSamples& samples);

}  // namespace compress
