#include "passes/prune/masks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <tuple>

#include "compress/core/parallel.h"
#include "compress/error.h"

namespace compress {
namespace {

// The elements of one row of inputs: `length` of them, `stride` apart.
struct Lanes {
  int64_t length, stride, count;

  Lanes(const Shape& shape, int axis)
      : length(shape[axis]),
        stride(shape.count(axis + 1, shape.rank())),
        count(length == 0 ? 0 : shape.count() / length) {}
  int64_t first(int64_t lane) const { return lane / stride * stride * length + lane % stride; }
};

// The block of every element, without a table: coordinates along the two axes, and the rest.
class BlockGrid {
 public:
  BlockGrid(const Shape& shape, const WeightAxes& axes, int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns), segment_(std::max<int64_t>(1, axes.segment)) {
    const Shape strides = strides_of(shape);
    reduction_ = {shape[axes.reduction], strides[axes.reduction]};
    if (axes.output >= 0) output_ = {shape[axes.output], strides[axes.output]};
    across_ = (output_.size + rows - 1) / rows;
    per_segment_ = (segment_ + columns - 1) / columns;
    along_ = (reduction_.size + segment_ - 1) / segment_ * per_segment_;
    int64_t others = 1;
    for (int axis = 0; axis < shape.rank(); ++axis) {
      if (axis == axes.reduction || axis == axes.output) continue;
      others_.push_back({shape[axis], strides[axis]});
      others *= shape[axis];
    }
    count_ = others * across_ * along_;
  }

  int64_t count() const { return count_; }

  // Calls visit(element) for those of block b.
  template <class Visit>
  void for_each(int64_t b, Visit&& visit) const {
    const int64_t along = b % along_, across = b / along_ % across_;
    int64_t rest = b / along_ / across_, base = 0;
    for (auto axis = others_.rbegin(); axis != others_.rend(); ++axis) {
      base += rest % axis->size * axis->stride;
      rest /= axis->size;
    }
    const int64_t start = along / per_segment_ * segment_;
    const int64_t from = start + along % per_segment_ * columns_;
    const int64_t to = std::min({from + columns_, start + segment_, reduction_.size});
    const int64_t last = std::min((across + 1) * rows_, output_.size);
    for (int64_t row = across * rows_; row < last; ++row) {
      for (int64_t c = from; c < to; ++c) {
        visit(base + row * output_.stride + c * reduction_.stride);
      }
    }
  }

 private:
  struct Axis {
    int64_t size = 1, stride = 0;
  };
  int64_t rows_, columns_, segment_;
  Axis reduction_, output_;
  int64_t across_, per_segment_, along_, count_;
  std::vector<Axis> others_;
};

struct RankedBlock {
  double size;
  size_t candidate, block;
  bool operator<(const RankedBlock& other) const {
    return std::tie(size, candidate, block) < std::tie(other.size, other.candidate, other.block);
  }
};

// The share `sparsity` of them, the smallest first; the order of `rows` is lost.
template <class Visit>
void for_smallest(std::vector<RankedBlock>& rows, double sparsity, Visit&& visit) {
  const int64_t wanted = wanted_zeros(sparsity, static_cast<int64_t>(rows.size()));
  std::nth_element(rows.begin(), rows.begin() + wanted, rows.end());
  std::for_each(rows.begin(), rows.begin() + wanted, visit);
}

void rank_blocks(const PruneTarget& target, const WeightAxes& axes, const Granularity& granularity,
                 size_t candidate, std::vector<RankedBlock>& rows) {
  const WeightBlocks blocks = measure_blocks(target, axes, granularity.rows, granularity.columns);
  for (size_t b = 0; b < blocks.sizes.size(); ++b) rows.push_back({blocks.sizes[b], candidate, b});
}

void prune_blocks(std::vector<Candidate>& candidates, const Granularity& granularity,
                  const Sparsities& sparsities, bool together, PruneReport& report) {
  std::vector<std::vector<bool>> goes(candidates.size());
  if (together) {
    std::vector<RankedBlock> rows;
    for (size_t i = 0; i < candidates.size(); ++i) {
      const size_t before = rows.size();
      rank_blocks(candidates[i].target, *candidates[i].axes, granularity, i, rows);
      goes[i].resize(rows.size() - before);
    }
    for_smallest(rows, sparsities.all(),
                 [&](const RankedBlock& row) { goes[row.candidate][row.block] = true; });
  }
  for (size_t i = 0; i < candidates.size(); ++i) {
    const PruneTarget& target = candidates[i].target;
    const WeightAxes& axes = *candidates[i].axes;
    report.set(candidates[i],
               zero_masked(target, together ? mask_blocks(target, axes, granularity.rows,
                                                          granularity.columns, goes[i])
                                            : mask_smallest_blocks(
                                                  target, axes, granularity,
                                                  sparsity_of(candidates[i], sparsities))));
  }
}

void prune_elements(std::vector<Candidate>& candidates, const Sparsities& sparsities, bool together,
                    PruneReport& report) {
  std::vector<const PruneTarget*> targets;
  int64_t count = 0;
  for (const Candidate& candidate : candidates) {
    targets.push_back(&candidate.target);
    count += candidate.target.tensor.count();
  }
  if (targets.empty()) return;
  Threshold shared;
  if (together) shared = select_smallest(targets, wanted_zeros(sparsities.all(), count));
  for (Candidate& candidate : candidates) {
    const PruneTarget& target = candidate.target;
    Threshold own;
    if (!together) {
      const double sparsity = sparsity_of(candidate, sparsities);
      own = select_smallest({&target}, wanted_zeros(sparsity, target.tensor.count()));
    }
    report.set(candidate, zero_smallest(target, together ? shared : own));
  }
}

void prune_n_of_m(Candidates& candidates, const Granularity& granularity,
                  const Sparsities& sparsities, PruneReport& report) {
  for (Candidate& candidate : candidates.chosen) {
    const WeightAxes& axes = *candidate.axes;
    if (sparsity_of(candidate, sparsities) == 0) {
      candidates.skipped.push_back({label_of(candidate), "left as it is by --override"});
      continue;
    }
    if (axes.segment <= granularity.keep) {
      candidates.skipped.push_back(
          {label_of(candidate),
           fmt::format("{} inputs an output, of which {} stay", axes.segment, granularity.keep)});
      continue;
    }
    report.set(candidate,
               zero_masked(candidate.target,
                           mask_n_of_m(candidate.target, axes, granularity.keep, granularity.of)));
  }
}

}  // namespace

PruneMask mask_n_of_m(const PruneTarget& target, const WeightAxes& axes, int64_t keep, int64_t of) {
  const TensorData data = target.tensor.read();
  const TensorView view = data.view();
  PruneMask mask(static_cast<size_t>(view.count()), 0);
  const Lanes lanes(view.shape, axes.reduction);
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, lanes.length));
  parallel_for(0, lanes.count, grain, [&](int64_t begin, int64_t end) {
    std::vector<std::pair<uint64_t, int64_t>> group;
    for (int64_t lane = begin; lane < end; ++lane) {
      for (int64_t at = 0; at < lanes.length;) {
        const int64_t rest = std::min(axes.segment - at % axes.segment, lanes.length - at);
        const int64_t width = std::min(of, rest);
        group.clear();
        for (int64_t i = 0; i < width; ++i) {
          const int64_t index = lanes.first(lane) + (at + i) * lanes.stride;
          group.emplace_back(target.key_at(view, index), index);
        }
        std::sort(group.begin(), group.end());
        for (int64_t i = 0; i + keep < width; ++i) {
          mask[static_cast<size_t>(group[static_cast<size_t>(i)].second)] = 1;
        }
        at += width;
      }
    }
  });
  return mask;
}

WeightBlocks measure_blocks(const PruneTarget& target, const WeightAxes& axes, int64_t rows,
                            int64_t columns) {
  const TensorData data = target.tensor.read();
  const TensorView view = data.view();
  const BlockGrid grid(view.shape, axes, rows, columns);
  WeightBlocks out;
  if (view.count() == 0) return out;
  out.sizes.resize(static_cast<size_t>(grid.count()));
  parallel_for(0, grid.count(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      double sum = 0;
      int64_t count = 0;
      grid.for_each(b, [&](int64_t i) {
        const double size = std::bit_cast<double>(target.key_at(view, i));
        sum += size * size;
        ++count;
      });
      const double size = std::sqrt(sum / static_cast<double>(count));
      // A NaN is kept, as that of an element is, and must not upset the order.
      out.sizes[static_cast<size_t>(b)] =
          std::isnan(size) ? std::numeric_limits<double>::infinity() : size;
    }
  });
  return out;
}

PruneMask mask_blocks(const PruneTarget& target, const WeightAxes& axes, int64_t rows,
                      int64_t columns, const std::vector<bool>& goes) {
  const Shape& shape = target.tensor.shape();
  PruneMask mask(static_cast<size_t>(shape.count()), 0);
  const BlockGrid grid(shape, axes, rows, columns);
  for (size_t b = 0; b < goes.size(); ++b) {
    if (!goes[b]) continue;
    grid.for_each(static_cast<int64_t>(b), [&](int64_t i) { mask[static_cast<size_t>(i)] = 1; });
  }
  return mask;
}

PruneMask mask_smallest_blocks(const PruneTarget& target, const WeightAxes& axes,
                               const Granularity& granularity, double sparsity) {
  std::vector<RankedBlock> rows;
  rank_blocks(target, axes, granularity, 0, rows);
  std::vector<bool> goes(rows.size());
  for_smallest(rows, sparsity, [&](const RankedBlock& row) { goes[row.block] = true; });
  return mask_blocks(target, axes, granularity.rows, granularity.columns, goes);
}

PruneMask mask_outputs(const PruneTarget& target, const WeightAxes& axes, double sparsity) {
  const TensorData data = target.tensor.read();
  const TensorView view = data.view();
  const int64_t outputs = axes.output < 0 ? 1 : view.shape[axes.output];
  const int64_t inputs = outputs == 0 ? 0 : view.count() / outputs;
  const bool rows_first = axes.output <= 0;
  PruneMask mask(static_cast<size_t>(view.count()), 0);
  const int64_t wanted = wanted_zeros(sparsity, inputs);
  const int64_t grain = std::max<int64_t>(1, 4096 / std::max<int64_t>(1, inputs));
  parallel_for(0, outputs, grain, [&](int64_t begin, int64_t end) {
    std::vector<std::pair<uint64_t, int64_t>> row(static_cast<size_t>(inputs));
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t i = 0; i < inputs; ++i) {
        const int64_t index = rows_first ? o * inputs + i : i * outputs + o;
        row[static_cast<size_t>(i)] = {target.key_at(view, index), index};
      }
      std::nth_element(row.begin(), row.begin() + wanted, row.end());
      for (int64_t i = 0; i < wanted; ++i) {
        mask[static_cast<size_t>(row[static_cast<size_t>(i)].second)] = 1;
      }
    }
  });
  return mask;
}

void zero_least(Candidates& candidates, const Granularity& granularity,
                const Sparsities& sparsities, bool together, PruneReport& report) {
  if (granularity.unit == PruneUnit::element) {
    return prune_elements(candidates.chosen, sparsities, together, report);
  }
  if (granularity.unit == PruneUnit::block) {
    return prune_blocks(candidates.chosen, granularity, sparsities, together, report);
  }
  if (together) {
    fail(ErrorCode::usage, "--granularity {}:{} holds in every group; leave out --scope global",
         granularity.keep, granularity.of);
  }
  prune_n_of_m(candidates, granularity, sparsities, report);
}

}  // namespace compress
