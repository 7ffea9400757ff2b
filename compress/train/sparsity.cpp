#include "compress/train/sparsity.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "compress/error.h"

namespace compress::train {
namespace {

void set(SparsitySchedule& s, std::string_view key, std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool number = error == std::errc() && end == text.data() + text.size();
  const auto within = [&](double least, double most) {
    if (number && value >= least && value <= most) return value;
    fail(ErrorCode::usage, "--sparsity-schedule: {}={} is outside of {} to {}", key, text, least,
         most);
  };
  if (key == "initial") {
    s.initial = within(0, 1);
  } else if (key == "final") {
    s.final = within(0, 1);
  } else if (key == "begin") {
    s.begin = within(0, 1);
  } else if (key == "end") {
    s.end = within(0, 1);
  } else if (key == "power") {
    s.power = within(0, 100);
  } else if (key == "every") {
    s.every = static_cast<int64_t>(within(1, 1e9));
  } else {
    fail(ErrorCode::usage,
         "--sparsity-schedule has no '{}'; initial, final, begin, end, power, every", key);
  }
}

}  // namespace

SparsitySchedule parse_sparsity(std::string_view text) {
  SparsitySchedule s;
  if (text.empty()) return s;
  const size_t colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  if (kind != "polynomial" && kind != "constant") {
    fail(ErrorCode::usage, "--sparsity-schedule '{}': polynomial or constant", kind);
  }
  std::string_view rest = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  while (!rest.empty()) {
    const std::string_view part = rest.substr(0, rest.find(','));
    const size_t equal = part.find('=');
    if (equal == std::string_view::npos) {
      fail(ErrorCode::usage, "--sparsity-schedule: '{}' is no NAME=VALUE", part);
    }
    set(s, part.substr(0, equal), part.substr(equal + 1));
    rest = part.size() == rest.size() ? "" : rest.substr(part.size() + 1);
  }
  if (kind == "constant") {
    s.initial = s.final;
    s.end = s.begin;
  }
  if (!s.active()) fail(ErrorCode::usage, "--sparsity-schedule: final, the sparsity, is missing");
  if (s.end < s.begin) fail(ErrorCode::usage, "--sparsity-schedule ends before it begins");
  return s;
}

double sparsity_at(const SparsitySchedule& s, int64_t step, int64_t total) {
  if (!s.active()) return -1;
  const auto at = [&](double part) {
    return static_cast<int64_t>(std::llround(part * static_cast<double>(total)));
  };
  const int64_t begin = at(s.begin), end = std::max(at(s.end), begin);
  // The last cut comes with the end, and at the latest with the last update.
  const int64_t last = std::min(end, total - 1);
  if (step < begin || step > last) return -1;
  if (step == last) return s.final;
  if ((step - begin) % s.every != 0) return -1;
  const double left = 1 - static_cast<double>(step - begin) / static_cast<double>(end - begin);
  return s.final + (s.initial - s.final) * std::pow(left, s.power);
}

void cut_smallest(std::span<float> weights, double sparsity, std::vector<uint8_t>& mask) {
  const auto count = static_cast<size_t>(sparsity * static_cast<double>(weights.size()));
  std::vector<float> sizes(weights.size());
  std::transform(weights.begin(), weights.end(), sizes.begin(),
                 [](float w) { return std::abs(w); });
  mask.assign(weights.size(), 1);
  if (count == 0) return;
  const auto last = sizes.begin() + static_cast<std::ptrdiff_t>(count - 1);
  std::nth_element(sizes.begin(), last, sizes.end());
  const float most = *last;
  // How many of those that equal the largest cut one go as well.
  auto ties =
      static_cast<int64_t>(count) -
      std::count_if(weights.begin(), weights.end(), [&](float w) { return std::abs(w) < most; });
  for (size_t i = 0; i < weights.size(); ++i) {
    const float size = std::abs(weights[i]);
    if (size > most || (size == most && ties-- <= 0)) continue;
    weights[i] = 0;
    mask[i] = 0;
  }
}

}  // namespace compress::train
