#include "compress/quant/range.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "compress/core/nearest.h"
#include "compress/error.h"

namespace compress {
namespace {

constexpr int kBins = Histogram::kBins;
constexpr int kZeroBin = kBins / 2;  // [0, width): where exact zeros are counted

Range whole(const Statistics& s) { return {s.min, s.max}; }

bool has_histogram(const Statistics& s) { return !s.histogram.empty && s.min < s.max; }

// The range with |x| <= threshold, no wider than what was seen.
Range within(const Statistics& s, double threshold) {
  return {std::max<double>(s.min, -threshold), std::min<double>(s.max, threshold)};
}

double largest_magnitude(const Statistics& s) {
  return std::max(std::abs(double{s.min}), std::abs(double{s.max}));
}

// Counts of |x| in bins of the same width.
std::vector<double> magnitudes(const Histogram& histogram) {
  std::vector<double> counts(kZeroBin);
  for (size_t i = 0; i < kZeroBin; ++i) {
    counts[i] = static_cast<double>(histogram.counts[kZeroBin + i]) +
                static_cast<double>(histogram.counts[kZeroBin - 1 - i]);
  }
  return counts;
}

Range minmax_range(const Statistics& s, const CalibratorOptions&) { return whole(s); }

Range moving_average_range(const Statistics& s, const CalibratorOptions&) {
  if (s.batches == 0) return whole(s);
  const auto runs = static_cast<double>(s.batches);
  return {s.sum_min / runs, s.sum_max / runs};
}

// The magnitude below which `percentile` of the values lie, linear within its bin.
Range percentile_range(const Statistics& s, const CalibratorOptions& options) {
  if (!has_histogram(s)) return whole(s);
  const std::vector<double> counts = magnitudes(s.histogram);
  double total = 0;
  for (const double count : counts) total += count;
  const double wanted = total * options.percentile / 100;
  double below = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0 && below + counts[i] >= wanted) {
      const double part = std::max(0.0, (wanted - below) / counts[i]);
      return within(s, (static_cast<double>(i) + part) * s.histogram.bin_width());
    }
    below += counts[i];
  }
  return whole(s);
}

// Exact zeros (after Relu, padding) stand out of the density around them; every quantization
// represents them exactly, so they must not weigh in the search for a range.
double count_without_exact_zeros(const Histogram& h, size_t bin) {
  const int64_t count = h.counts[bin];
  if (bin != kZeroBin) return static_cast<double>(count);
  return static_cast<double>(std::min(count, std::max(h.counts[bin - 1], h.counts[bin + 1])));
}

// --- entropy -------------------------------------------------------------------------------------

// KL(P || Q) in nats of a clipped and quantized distribution, up to its normalization: P are the
// bins [first, last) with what lies outside added to the edges; Q gives each of `levels` equal
// groups of bins the mass inside, spread evenly over the bins that are not empty (Migacz, "8-bit
// inference with TensorRT", 2017).
struct KlSearch {
  const Histogram& histogram;
  std::vector<double> mass;       // prefix sums of counts
  std::vector<double> entropy;    // prefix sums of c ln c
  std::vector<int32_t> occupied;  // prefix sums of c > 0

  explicit KlSearch(const Histogram& h)
      : histogram(h), mass(kBins + 1), entropy(kBins + 1), occupied(kBins + 1) {
    for (size_t i = 0; i < kBins; ++i) {
      const double c = count_without_exact_zeros(h, i);
      mass[i + 1] = mass[i] + c;
      entropy[i + 1] = entropy[i] + (c > 0 ? c * std::log(c) : 0);
      occupied[i + 1] = occupied[i] + (c > 0);
    }
  }

  double divergence(size_t first, size_t last, size_t levels) const {
    const double total = mass.back();
    const double inside = mass[last] - mass[first];
    if (inside <= 0) return std::numeric_limits<double>::infinity();
    // The edge bins of P hold the tails: correct c ln c and the cross term for them.
    const auto count = [&](size_t bin) { return mass[bin + 1] - mass[bin]; };
    const auto c_ln_c = [](double c) { return c > 0 ? c * std::log(c) : 0.0; };
    const double low_tail = mass[first];
    const double high_tail = total - mass[last];
    double p_ln_p = entropy[last] - entropy[first];
    p_ln_p += c_ln_c(count(first) + low_tail) - c_ln_c(count(first));
    p_ln_p += c_ln_c(count(last - 1) + high_tail) - c_ln_c(count(last - 1));
    double p_ln_q = 0;
    const size_t bins = last - first;
    for (size_t level = 0; level < std::min(levels, bins); ++level) {
      const size_t begin = first + level * bins / std::min(levels, bins);
      const size_t end = first + (level + 1) * bins / std::min(levels, bins);
      double p = mass[end] - mass[begin];
      const double spread = p / std::max(1, occupied[end] - occupied[begin]);
      if (level == 0) p += low_tail;
      if (end == last) p += high_tail;
      // A level that P gives mass (a tail at an empty edge) and Q none: one count, instead of an
      // infinite divergence that would rule the candidate out.
      if (p > 0) p_ln_q += p * std::log(std::max(spread, 1.0));
    }
    // P sums to total, Q to inside.
    return (p_ln_p - p_ln_q) / total - std::log(total / inside);
  }
};

Range entropy_range(const Statistics& s, const CalibratorOptions& options) {
  if (!has_histogram(s)) return whole(s);
  const Histogram& h = s.histogram;
  const KlSearch search(h);
  const auto used = static_cast<int>(
      std::min<double>(kZeroBin, std::floor(largest_magnitude(s) / h.bin_width()) + 1));
  const size_t levels = size_t{1} << std::min(options.bits, 10);
  constexpr int kCandidates = 256;  // of 512 to 1,024 bins of magnitude
  double best = std::numeric_limits<double>::infinity();
  int best_bins = used;
  for (int candidate = kCandidates; candidate >= kCandidates / 8; --candidate) {
    const int bins = std::max(1, used * candidate / kCandidates);
    const int low = s.min < 0 || options.symmetric
                        ? std::max(-bins, static_cast<int>(std::floor(s.min / h.bin_width())))
                        : 0;
    const int high = s.max > 0 || options.symmetric
                         ? std::min(bins, static_cast<int>(std::floor(s.max / h.bin_width())) + 1)
                         : 0;
    // With fewer bins than levels every bin has a level of its own and clipping looks free; the
    // histogram is too coarse to judge such a range.
    if (bins < used && static_cast<size_t>(high - low) < levels) break;
    if (high <= low) continue;
    const double kl = search.divergence(static_cast<size_t>(kZeroBin + low),
                                        static_cast<size_t>(kZeroBin + high), levels);
    if (kl < best) best = kl, best_bins = bins;
  }
  return within(s, best_bins * h.bin_width());
}

// --- mse -----------------------------------------------------------------------------------------

// Expected squared error of clipping to [low, high] and rounding to `steps` equal steps: step^2 /
// 12 for what is inside, the squared distance for what is outside, times `clip_weight`; from prefix
// sums over the bins.
struct MseSearch {
  const Histogram& histogram;
  double clip_weight;
  std::vector<double> mass, first, second;  // prefix sums of c, c x, c x^2 at the bins' centres

  MseSearch(const Histogram& h, double weight)
      : histogram(h), clip_weight(weight), mass(kBins + 1), first(kBins + 1), second(kBins + 1) {
    for (size_t i = 0; i < kBins; ++i) {
      const double c = count_without_exact_zeros(h, i);
      const double x = h.lower_edge(static_cast<int>(i)) + h.bin_width() / 2;
      mass[i + 1] = mass[i] + c;
      first[i + 1] = first[i] + c * x;
      second[i + 1] = second[i] + c * x * x;
    }
  }

  size_t bin_of(double x) const {
    return static_cast<size_t>(
        std::clamp(std::floor(x / histogram.bin_width()) + kZeroBin, 0.0, double{kBins}));
  }
  // Sum of c (x - edge)^2 over bins [begin, end).
  double distance(size_t begin, size_t end, double edge) const {
    const double m = mass[end] - mass[begin];
    return second[end] - second[begin] - 2 * edge * (first[end] - first[begin]) + edge * edge * m;
  }
  double error(double low, double high, double steps) const {
    const size_t begin = bin_of(low);
    const size_t end = std::min<size_t>(kBins, bin_of(high) + 1);
    const double step = (high - low) / steps;
    return clip_weight * (distance(0, begin, low) + distance(end, kBins, high)) +
           (mass[end] - mass[begin]) * step * step / 12;
  }
};

// Both ends shrink on their own where the integers are asymmetric; a grid, then a finer one around
// its best point.
Range least_error_range(const Statistics& s, const CalibratorOptions& options, double clip_weight) {
  if (!has_histogram(s)) return whole(s);
  const MseSearch search(s.histogram, clip_weight);
  const double low = std::min(0.0, double{s.min});
  const double high = std::max(0.0, double{s.max});
  const double steps = std::exp2(options.bits) - (options.symmetric ? 2 : 1);
  double best = std::numeric_limits<double>::infinity();
  double best_low = 1, best_high = 1;  // fractions of the ends
  const auto consider = [&](double low_part, double high_part) {
    double from = low * low_part;
    double to = high * high_part;
    if (options.symmetric) to = std::max(to, -from), from = -to;
    if (!(to > from)) return;
    const double error = search.error(from, to, steps);
    if (error < best) best = error, best_low = low_part, best_high = high_part;
  };
  constexpr int kGrid = 64;
  for (int i = kGrid; i >= 1; --i) {
    const double part = static_cast<double>(i) / kGrid;
    if (options.symmetric || low == 0 || high == 0) {
      consider(part, part);
      continue;
    }
    for (int j = kGrid; j >= 1; --j) consider(part, static_cast<double>(j) / kGrid);
  }
  const double centre_low = best_low, centre_high = best_high;
  constexpr int kFine = 16;
  for (int i = -kFine; i <= kFine; ++i) {
    const double low_part = std::min(1.0, centre_low + i / (1.0 * kGrid * kFine));
    if (options.symmetric || low == 0 || high == 0) {
      consider(low_part, low_part);
      continue;
    }
    for (int j = -kFine; j <= kFine; ++j) {
      consider(low_part, std::min(1.0, centre_high + j / (1.0 * kGrid * kFine)));
    }
  }
  if (options.symmetric) {
    const double threshold = std::max(high * best_high, -low * best_low);
    return within(s, threshold);
  }
  return {std::max<double>(s.min, low * best_low), std::min<double>(s.max, high * best_high)};
}

// --- Values on a lattice -------------------------------------------------------------------------

// The expected squared error of rounding what lies inside, by where each bin's centre falls between
// the integers of [low, high] with a whole zero point.
double rounding_error(const Histogram& h, Range range, double steps) {
  const double scale = (double{range.max} - range.min) / steps;
  const double zero = std::nearbyint(-range.min / scale);
  double error = 0, count = 0;
  for (size_t i = 0; i < kBins; ++i) {
    if (h.counts[i] == 0) continue;
    const double x = h.lower_edge(static_cast<int>(i)) + h.bin_width() / 2;
    const double q = std::clamp(std::nearbyint(x / scale) + zero, 0.0, steps) - zero;
    const auto c = static_cast<double>(h.counts[i]);
    error += c * (x - q * scale) * (x - q * scale);
    count += c;
  }
  return error / count;
}

// Pixels that were bytes lie on a lattice. Scaled to [-1, 1] they all fall half way between the
// integers of that very range, where rounding errs most, by step^2 / 4: a slightly wider range lets
// them fall anywhere, for step^2 / 12.
Range off_the_lattice(const Statistics& s, const CalibratorOptions& options, Range range) {
  const Histogram& h = s.histogram;
  const double steps = std::exp2(options.bits) - 1;
  if (options.symmetric || !has_histogram(s) || range.min >= 0 || range.max <= 0) return range;
  const auto occupied =
      std::count_if(h.counts.begin(), h.counts.end(), [](int64_t c) { return c > 0; });
  const double bins = (double{range.max} - range.min) / h.bin_width();
  constexpr int64_t kFewest = 32;  // values that make a lattice
  if (static_cast<double>(occupied) > bins / 3 || occupied < kFewest || bins < 4 * steps) {
    return range;
  }
  Range best = range;
  double least = 0.8 * rounding_error(h, range, steps);  // what is worth another range
  constexpr int kCandidates = 32;
  for (int i = 1; i <= kCandidates; ++i) {
    const auto wider = static_cast<float>(1 + 0.02 * i / kCandidates);
    const Range candidate{range.min * wider, range.max * wider};
    if (!std::isfinite(candidate.min) || !std::isfinite(candidate.max)) break;
    const double error = rounding_error(h, candidate, steps);
    if (error < least) least = error, best = candidate;
  }
  return best;
}

Range mse_range(const Statistics& s, const CalibratorOptions& options) {
  return off_the_lattice(s, options, least_error_range(s, options, 1));
}

// Rounding errors have both signs and even out in the sums that read them. Clipping errors have
// one, fall on the values that a maximum or the largest class is made of, and meet again in each
// layer: by squares alone they are taken for less than they do. The weight is measured
// (docs/measured.md): with 1 the outputs of some models lose 4 dB, with 64 others lose 1 dB.
Range balanced_range(const Statistics& s, const CalibratorOptions& options) {
  constexpr double kClipWeight = 32;
  return off_the_lattice(s, options, least_error_range(s, options, kClipWeight));
}

constexpr CalibratorDef kCalibrators[] = {
    {"balanced", "as mse, but clipping counts 32 times, since sums do not even it out", true,
     balanced_range},
    {"minmax", "the smallest and the largest value seen", false, minmax_range},
    {"moving-average", "the mean of the runs' minima and maxima", false, moving_average_range},
    {"percentile", "the magnitude that 99.999 % of the values stay below", true, percentile_range},
    {"entropy", "the clipping that changes the distribution least (KL divergence)", true,
     entropy_range},
    {"mse", "the clipping with the smallest expected squared error", true, mse_range},
};

}  // namespace

std::span<const CalibratorDef> all_calibrators() { return kCalibrators; }

const CalibratorDef& find_calibrator(std::string_view name) {
  std::vector<std::string_view> names;
  for (const CalibratorDef& row : kCalibrators) {
    if (row.name == name) return row;
    names.push_back(row.name);
  }
  fail(ErrorCode::usage, "unknown calibrator '{}'{}", name, suggestion(name, names));
}

}  // namespace compress
