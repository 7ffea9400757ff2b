#include <algorithm>
#include <cmath>

#include "calibration/calibrator.h"
#include "compress/core/sha256.h"
#include "compress/error.h"
#include "compress/runtime/session.h"

namespace compress {
namespace {

// A NaN in the data would silently spoil every range behind it.
void check_finite(const Sample& sample, int64_t index) {
  for (const NamedTensor& input : sample.inputs) {
    if (!is_float(input.tensor.dtype())) continue;
    const Tensor wide = convert(input.tensor, DType::float32);
    const TensorData data = wide.read();
    const auto values = data.as<float>();
    const bool finite =
        std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
    if (!finite) {
      fail(ErrorCode::invalid_model, "sample {} of the data holds NaN or infinity for '{}'", index,
           input.name);
    }
  }
}

std::string hash_of(const std::string& text) {
  Sha256 hash;
  hash.update(text);
  return hash.finish();
}

}  // namespace

StatisticsSet collect_statistics(const Model& model, SampleSource& data,
                                 const std::vector<int64_t>& indices,
                                 const StatisticsRequests& requests,
                                 const std::function<void(int64_t, int64_t)>& progress) {
  StatisticsSet set;
  set.fingerprint = fingerprint(model);
  set.samples = static_cast<int64_t>(indices.size());
  set.data_hash = hash_of(data.description());
  if (requests.empty()) return set;
  SessionOptions options;
  for (const auto& [name, request] : requests) options.observed.insert(name);
  Session session(model, options);
  const auto observe = [&](const std::string& name, const TensorView& content) {
    const auto row = requests.find(name);
    if (row == requests.end()) return;
    Statistics& statistics = set.values[name];
    in_context([&] { return fmt::format("statistics of '{}'", name); },
               [&] {
                 if (content.dtype == DType::float32) {
                   statistics.add(content, row->second);
                 } else if (is_float(content.dtype)) {
                   const Tensor wide =
                       convert(Tensor::borrow(content.dtype, content.shape, content.data, nullptr),
                               DType::float32);
                   statistics.add(wide.read().view(), row->second);
                 }
               });
  };
  for (size_t i = 0; i < indices.size(); ++i) {
    const Sample sample = data.get(indices[i]);
    check_finite(sample, indices[i]);
    session.run(sample.inputs, observe);
    if (progress) progress(static_cast<int64_t>(i) + 1, set.samples);
  }
  return set;
}

void merge_statistics(StatisticsSet& into, const StatisticsSet& other) {
  if (into.fingerprint != other.fingerprint) {
    fail(ErrorCode::invalid_model,
         "statistics of different models cannot be merged ({:.16} and {:.16})", into.fingerprint,
         other.fingerprint);
  }
  into.samples += other.samples;
  if (into.data_hash != other.data_hash) {
    into.data_hash = hash_of(into.data_hash + other.data_hash);
  }
  for (const auto& [name, statistics] : other.values) {
    in_context([&] { return fmt::format("statistics of '{}'", name); },
               [&] { into.values[name].merge(statistics); });
  }
}

}  // namespace compress
