// Rounding up or down, learned: AdaRound (Nagel et al. 2020, arXiv 2004.10568).
#pragma once

#include <vector>

#include "passes/recover/gptq.h"

namespace compress {

// One layer y = W x whose scales are chosen: `hessian` = X X' [k, k] over the inputs it saw, so
// that lost * hessian * lost' is the squared error of its outputs.
struct AdaRoundLayer {
  RowMatrixXf weights;  // [rows, k]
  Eigen::MatrixXd hessian;
  int64_t block = 0;                   // columns that share a scale; 0: all of a row
  std::vector<ScaleZeroPoint> scales;  // [rows, blocks]
  IntegerRange range = {0, 0};
};

// Each weight stands at the integer below it plus h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1), and all
// v of a row are moved by Adam against
//   lost H lost' + penalty * sum of 1 - |2 h - 1|^beta
// where `lost` counts in steps (of the row's root mean square) and H has a mean of 1 on its
// diagonal, so that the settings mean the same for every layer. beta falls from wide to narrow: at
// first only weights near an integer are held there, in the end all are.
struct AdaRoundSettings {
  int iterations = 500;
  double rate = 0.05;      // of Adam; h crosses from 0 to 1 while v goes from -2.4 to 2.4
  double penalty = 1;      // a tenth leaves a fifth of the weights between two integers
  double warm_up = 0.2;    // part of the iterations ahead of the penalty
  double first_beta = 20;  // section 4 and the authors' code
  double last_beta = 2;
};

// h [rows, k] after the iterations. There is no chance in it, and rows do not hear of each other:
// results do not depend on the number of threads.
RowMatrixXf adaround_heights(const AdaRoundLayer& layer, const AdaRoundSettings& settings = {});

// Integers [rows, k], each the one below or above its weight. A row that would lose more that way
// than rounded to nearest is rounded to nearest; where the Hessian is not finite or zero, all are.
RowMatrixXi adaround(const AdaRoundLayer& layer, const AdaRoundSettings& settings = {});

// Whether a layer is small enough to learn its rounding in a minute or two.
bool is_adaround_size(int64_t rows, int64_t k);
inline constexpr const char* kTooLargeForAdaRound =
    "too large to learn its rounding: to nearest; --algorithm gptq is for such layers";

}  // namespace compress
