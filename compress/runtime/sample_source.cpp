#include "compress/runtime/sample_source.h"

#include <algorithm>
#include <cstring>
#include <span>

#include "compress/error.h"

namespace compress {
namespace {

// The parts one after the other on axis 0.
Tensor joined(std::span<const Tensor> parts, const std::string& name) {
  const Tensor& head = parts.front();
  if (parts.size() == 1) return head;
  Shape shape = head.shape();
  if (shape.rank() == 0) {
    fail(ErrorCode::usage, "'{}' is a scalar and cannot be batched; list it in \"constants\"",
         name);
  }
  shape[0] = 0;
  for (const Tensor& part : parts) {
    Shape wanted = part.shape();
    const bool fits = wanted.rank() == shape.rank() && part.dtype() == head.dtype();
    if (fits) wanted[0] = head.shape()[0];
    if (!fits || !(wanted == head.shape())) {
      fail(ErrorCode::usage, "samples of '{}' differ in shape ({} and {}) and cannot be batched",
           name, head.shape().to_string(), part.shape().to_string());
    }
    shape[0] += part.shape()[0];
  }
  if (head.dtype() == DType::string) {
    std::vector<std::string> all;
    for (const Tensor& part : parts) {
      all.insert(all.end(), part.string_values().begin(), part.string_values().end());
    }
    return Tensor::strings(shape, std::move(all));
  }
  Tensor out = Tensor::allocate(head.dtype(), shape);
  std::byte* to = out.mutable_data();
  for (const Tensor& part : parts) {
    const TensorData data = part.read();
    if (data.bytes().empty()) continue;
    std::memcpy(to, data.bytes().data(), data.bytes().size());
    to += data.bytes().size();
  }
  return out;
}

}  // namespace

Sample join(SampleSource& source, const std::vector<int64_t>& indices) {
  if (indices.empty()) return {};
  std::vector<Sample> samples;
  for (const int64_t index : indices) samples.push_back(source.get(index));
  if (samples.size() == 1) return std::move(samples.front());
  const std::vector<std::string> constants = source.constants();
  Sample out;
  std::vector<Tensor> parts(samples.size());
  for (size_t input = 0; input < samples.front().inputs.size(); ++input) {
    const std::string& name = samples.front().inputs[input].name;
    if (std::find(constants.begin(), constants.end(), name) != constants.end()) {
      out.inputs.push_back(samples.front().inputs[input]);
      continue;
    }
    for (size_t i = 0; i < samples.size(); ++i) {
      parts[i] = std::move(samples[i].inputs.at(input).tensor);
    }
    out.inputs.push_back({name, joined(parts, name)});
  }
  if (samples.front().label) {
    for (size_t i = 0; i < samples.size(); ++i) parts[i] = samples[i].label.value();
    out.label = joined(parts, "label");
  }
  return out;
}

std::vector<int64_t> evenly_spaced(int64_t size, int64_t n) {
  n = std::clamp<int64_t>(n, 0, std::max<int64_t>(size, 0));
  std::vector<int64_t> indices(static_cast<size_t>(n));
  // The middle of each of n equal parts, in whole numbers: quotient and remainder keep i * size
  // from overflowing.
  for (int64_t i = 0; i < n; ++i) {
    const int64_t whole = size / n, rest = size % n;
    indices[static_cast<size_t>(i)] = i * whole + (whole + (2 * i + 1) * rest / n) / 2;
  }
  return indices;
}

}  // namespace compress
