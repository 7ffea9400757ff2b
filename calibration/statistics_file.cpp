// Statistics files: an .npz with header.json and a few arrays a value (docs/formats.md).
#include <algorithm>
#include <array>
#include <cmath>

#include "calibration/calibrator.h"
#include "compress/error.h"
#include "compress/recipe.h"

namespace compress {
namespace {

constexpr std::string_view kSchema = "compress.statistics/1";
constexpr const char* kHeader = "header.json";

void append_value(const std::string& name, const Statistics& s, std::vector<NamedTensor>& arrays) {
  const auto add = [&](const char* field, Tensor tensor) {
    arrays.push_back({name + "/" + field, std::move(tensor)});
  };
  add("min", Tensor::scalar<float>(s.min));
  add("max", Tensor::scalar<float>(s.max));
  add("count", Tensor::scalar<int64_t>(s.count));
  add("finite", Tensor::scalar<bool>(s.finite));
  add("runs", Tensor::scalar<int64_t>(s.batches));
  add("run_sums", Tensor::from<double>({2}, {s.sum_min, s.sum_max}));
  if (!s.histogram.empty) {
    add("hist", Tensor::from<int64_t>({Histogram::kBins}, s.histogram.counts));
    add("hist_exponent", Tensor::scalar<int32_t>(s.histogram.exponent));
  }
  if (!s.channel_absmax.empty()) {
    add("absmax",
        Tensor::from<float>({static_cast<int64_t>(s.channel_absmax.size())}, s.channel_absmax));
  }
  if (!s.channel_sum.empty()) {
    add("sums", Tensor::from<double>({static_cast<int64_t>(s.channel_sum.size())}, s.channel_sum));
    add("sums_count", Tensor::scalar<int64_t>(s.channel_count));
  }
  if (!s.gram.empty()) {
    const auto k =
        static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(s.gram.size()))));
    add("gram", Tensor::from<double>({k, k}, s.gram));
    add("gram_rows", Tensor::scalar<int64_t>(s.gram_rows));
  }
}

// The values of an array, of exactly this type and shape.
template <class T>
std::vector<T> expect(const Tensor& tensor, const Shape& shape) {
  if (tensor.dtype() != dtype_of<T>() || !(tensor.shape() == shape)) {
    fail(ErrorCode::invalid_model, "{} {} where {} {} is wanted", info(tensor.dtype()).name,
         tensor.shape().to_string(), info(dtype_of<T>()).name, shape.to_string());
  }
  const TensorData data = tensor.read();
  const auto values = data.as<T>();
  return {values.begin(), values.end()};
}

int64_t expect_count(const Tensor& tensor) {
  const int64_t count = expect<int64_t>(tensor, {})[0];
  if (count < 0) fail(ErrorCode::invalid_model, "a negative count");
  return count;
}

void read_field(Statistics& s, std::string_view field, const Tensor& t) {
  const Shape& shape = t.shape();
  if (field == "min") {
    s.min = expect<float>(t, {})[0];
  } else if (field == "max") {
    s.max = expect<float>(t, {})[0];
  } else if (field == "count") {
    s.count = expect_count(t);
  } else if (field == "finite") {
    s.finite = expect<bool>(t, {})[0];
  } else if (field == "runs") {
    s.batches = expect_count(t);
  } else if (field == "run_sums") {
    const std::vector<double> sums = expect<double>(t, {2});
    s.sum_min = sums[0];
    s.sum_max = sums[1];
  } else if (field == "hist") {
    s.histogram.counts = expect<int64_t>(t, {Histogram::kBins});
    s.histogram.empty = false;
  } else if (field == "hist_exponent") {
    s.histogram.exponent = expect<int32_t>(t, {})[0];
  } else if (field == "absmax") {
    s.channel_absmax = expect<float>(t, {shape.rank() == 1 ? shape[0] : 0});
  } else if (field == "sums") {
    s.channel_sum = expect<double>(t, {shape.rank() == 1 ? shape[0] : 0});
  } else if (field == "sums_count") {
    s.channel_count = expect_count(t);
  } else if (field == "gram") {
    const int64_t k = shape.rank() == 2 ? shape[0] : 0;
    s.gram = expect<double>(t, {k, k});
  } else if (field == "gram_rows") {
    s.gram_rows = expect_count(t);
  } else {
    fail(ErrorCode::invalid_model, "unknown field '{}'", field);
  }
}

void check(const Statistics& s) {
  const bool ordered = std::isfinite(s.min) && std::isfinite(s.max) && s.min <= s.max;
  if (!ordered || !std::isfinite(s.sum_min) || !std::isfinite(s.sum_max)) {
    fail(ErrorCode::invalid_model, "minimum and maximum are no range");
  }
  if (s.histogram.empty) return;
  int64_t left = s.count;
  for (const int64_t count : s.histogram.counts) {
    if (count < 0 || count > left)
      fail(ErrorCode::invalid_model, "the histogram's counts are wrong");
    left -= count;
  }
  if (s.histogram.exponent < -126 || s.histogram.exponent > 128) {
    fail(ErrorCode::invalid_model, "the histogram's exponent {} is absurd", s.histogram.exponent);
  }
}

std::string header_of(const StatisticsSet& set) {
  Json header;
  header["schema"] = kSchema;
  header["fingerprint"] = set.fingerprint;
  header["samples"] = set.samples;
  header["seed"] = set.seed;
  header["data"] = set.data_hash;
  return header.dump(2) + "\n";
}

void read_header(const std::string& text, StatisticsSet& set) {
  const Json header = parse_json(text, kHeader);
  const auto get = [&](const char* key, auto fallback) {
    using T = decltype(fallback);
    try {
      return header.at(key).get<T>();
    } catch (const Json::exception&) {
      fail(ErrorCode::invalid_model, "{}: '{}' is missing or of another type", kHeader, key);
    }
  };
  if (const std::string schema = get("schema", std::string()); schema != kSchema) {
    fail(ErrorCode::unsupported, "statistics of schema '{}', not {}", schema, kSchema);
  }
  set.fingerprint = get("fingerprint", std::string());
  set.samples = get("samples", int64_t{});
  set.seed = get("seed", uint64_t{});
  set.data_hash = get("data", std::string());
}

}  // namespace

void write_statistics(const StatisticsSet& set, const std::string& path, bool overwrite,
                      const DataFiles& files) {
  std::vector<NamedTensor> arrays;
  for (const auto& [name, statistics] : set.values) append_value(name, statistics, arrays);
  files.write_npz(path, arrays, overwrite, {{kHeader, header_of(set)}});
}

StatisticsSet read_statistics(const std::string& path, const DataFiles& files) {
  return in_context([&] { return fmt::format("in {}", path); },
                    [&] {
                      const ArrayArchive archive = files.open_npz(path);
                      StatisticsSet set;
                      read_header(archive.read_bytes(kHeader), set);
                      for (const std::string& name : archive.names) {
                        const size_t slash = name.rfind('/');
                        if (slash == std::string::npos) {
                          fail(ErrorCode::invalid_model, "'{}' is no array of statistics", name);
                        }
                        in_context([&] { return "'" + name + "'"; },
                                   [&] {
                                     read_field(set.values[name.substr(0, slash)],
                                                std::string_view(name).substr(slash + 1),
                                                archive.read(name));
                                   });
                      }
                      for (const auto& [name, statistics] : set.values) {
                        in_context([&] { return "'" + name + "'"; }, [&] { check(statistics); });
                      }
                      return set;
                    });
}

}  // namespace compress
