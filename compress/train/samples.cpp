#include "compress/train/samples.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <span>
#include <utility>

#include "compress/error.h"
#include "compress/train/augment.h"

namespace compress::train {

void shuffle(std::vector<int64_t>& order, uint64_t key) {
  for (size_t i = order.size(); i > 1; --i) {
    key = mixed_bits(key + i);
    std::swap(order[i - 1], order[static_cast<size_t>(key % i)]);
  }
}

std::vector<int64_t> hold_back(std::vector<int64_t>& indices, double part, uint64_t seed) {
  if (!(part > 0) || indices.size() < 2) return {};
  const double exact = std::min(part, 0.9) * static_cast<double>(indices.size());
  const auto count = std::max<size_t>(static_cast<size_t>(exact), 1);
  std::vector<int64_t> drawn(indices.size());
  std::iota(drawn.begin(), drawn.end(), 0);
  shuffle(drawn, mixed_bits(seed ^ 0x56414C4944u));
  const std::set<int64_t> held(drawn.begin(), drawn.begin() + static_cast<std::ptrdiff_t>(count));
  std::vector<int64_t> kept, out;
  for (size_t i = 0; i < indices.size(); ++i) {
    (held.contains(static_cast<int64_t>(i)) ? out : kept).push_back(indices[i]);
  }
  indices = std::move(kept);
  return out;
}

void check_labels(const Tensor& label, const TypeInfo& logits,
                  const std::vector<int64_t>& samples) {
  if (!logits.has_shape) return;
  if (label.shape().rank() != logits.shape.rank() - 1) {
    fail(ErrorCode::usage, "labels of shape {} for outputs of shape {}; give a class for each row",
         label.shape().to_string(), logits.shape.to_string());
  }
  const int64_t classes = logits.shape[logits.shape.rank() - 1];
  const TensorData data = label.read();
  const std::span<const int64_t> values = data.as<int64_t>();
  const size_t each = std::max<size_t>(values.size() / samples.size(), 1);
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] >= 0 && (classes < 0 || values[i] < classes)) continue;
    fail(ErrorCode::usage, "sample {} has the label {}; the model has classes 0 to {}",
         samples[std::min(i / each, samples.size() - 1)], values[i], classes - 1);
  }
}

int64_t count_right(const TensorView& logits, const Tensor& label) {
  const int64_t classes = logits.shape[logits.shape.rank() - 1];
  const TensorData wanted = label.read();
  const auto* row = logits.as<const float>();
  int64_t right = 0;
  for (const int64_t want : wanted.as<int64_t>()) {
    right += std::max_element(row, row + classes) - row == want;
    row += classes;
  }
  return right;
}

}  // namespace compress::train
