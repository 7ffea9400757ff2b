// Which samples are trained on, in which order, and what their labels may be.
#pragma once

#include <cstdint>
#include <vector>

#include "compress/core/tensor.h"
#include "compress/graph/model.h"

namespace compress::train {

// An order drawn from the key (Fisher and Yates).
void shuffle(std::vector<int64_t>& order, uint64_t key);

// Removes and returns the part of `indices` (sorted, as what is left) that train() holds back: one
// at least, where there are two.
std::vector<int64_t> hold_back(std::vector<int64_t>& indices, double part, uint64_t seed);

// Fails (usage) where a label is no class of the logits, naming its sample.
void check_labels(const Tensor& label, const TypeInfo& logits, const std::vector<int64_t>& samples);

// How many rows have their largest logit at their label.
int64_t count_right(const TensorView& logits, const Tensor& label);

}  // namespace compress::train
