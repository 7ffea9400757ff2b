// Gradual pruning while training: the smallest weights of each tensor become zero and stay so.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace compress::train {

// s(t) = final + (initial - final) (1 - (t - begin) / (end - begin))^power (Zhu and Gupta 2017).
struct SparsitySchedule {
  double initial = 0;
  double final = 0;  // 0: no pruning
  double begin = 0;  // parts of all updates, 0..1
  double end = 0.75;
  double power = 3;
  int64_t every = 100;  // updates between two cuts

  bool active() const { return final > 0; }
};

// "polynomial:final=0.8,begin=0,end=0.75,power=3", "constant:final=0.5,begin=0.2". Fails (usage).
SparsitySchedule parse_sparsity(std::string_view text);

// The sparsity that update `step` of `total` starts with; negative where nothing is cut then.
double sparsity_at(const SparsitySchedule& schedule, int64_t step, int64_t total);

// Zeroes the floor(sparsity n) weights of smallest magnitude (of equal ones the first), and marks
// what is left in the mask.
void cut_smallest(std::span<float> weights, double sparsity, std::vector<uint8_t>& mask);

}  // namespace compress::train
