#include "compress/train/teacher.h"

#include <algorithm>

#include "compress/error.h"
#include "compress/train/training_graph.h"

namespace compress::train {
namespace {

// Outputs for all samples are kept in memory where they take at most so much.
constexpr uint64_t kKeptBytes = uint64_t{256} << 20;
// What a file of outputs may take: it is made in memory.
constexpr uint64_t kFileBytes = uint64_t{4} << 30;

}  // namespace

Teacher::Teacher(const Model& teacher, const LossInputs& inputs, bool may_keep, size_t samples,
                 int64_t batch)
    : inputs_(inputs),
      session_(in_context([] { return "the teacher"; },
                          [&] { return cut_teacher(teacher, inputs, batch); })),
      may_keep_(may_keep),
      samples_(samples) {}

void Teacher::feed(const std::vector<int64_t>& indices, const std::vector<NamedTensor>& sample,
                   std::vector<NamedTensor>& feeds) {
  if (!look_up(indices, feeds) && !recall(indices, feeds)) compute(indices, sample, feeds);
}

void Teacher::compute(const std::vector<int64_t>& indices, const std::vector<NamedTensor>& sample,
                      std::vector<NamedTensor>& feeds) {
  const auto wanted = session_.inputs();
  std::vector<NamedTensor> own;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto same = std::find_if(sample.begin(), sample.end(),
                                   [&](const auto& s) { return s.name == wanted[i].first; });
    if (same == sample.end() && i >= sample.size()) {
      fail(ErrorCode::usage, "the teacher's input '{}' has no counterpart in the student",
           wanted[i].first);
    }
    own.push_back({wanted[i].first, same == sample.end() ? sample[i].tensor : same->tensor});
  }
  std::vector<Tensor> outputs =
      in_context([] { return "the teacher"; }, [&] { return session_.run(own); });
  for (size_t k = 0; k < inputs_.teacher.size(); ++k) {
    if (outputs[k].dtype() != DType::float32) outputs[k] = convert(outputs[k], DType::float32);
    keep(indices, k, outputs[k]);
    feeds.push_back({inputs_.teacher[k], std::move(outputs[k])});
  }
}

void Teacher::keep(const std::vector<int64_t>& indices, size_t k, const Tensor& values) {
  const auto rows = static_cast<int64_t>(indices.size());
  if (!may_keep_ || values.shape().rank() == 0 || values.shape()[0] != rows) return;
  const size_t bytes = static_cast<size_t>(values.bytes()) / indices.size();
  if (bytes * inputs_.teacher.size() * samples_ > kKeptBytes) return;
  const TensorData data = values.read();
  shapes_[k] = values.shape();
  for (size_t i = 0; i < indices.size(); ++i) {
    const auto* from = reinterpret_cast<const float*>(data.bytes().data() + i * bytes);
    kept_[{k, indices[i]}].assign(from, from + bytes / sizeof(float));
  }
}

bool Teacher::recall(const std::vector<int64_t>& indices, std::vector<NamedTensor>& feeds) const {
  std::vector<NamedTensor> found;
  for (size_t k = 0; k < inputs_.teacher.size(); ++k) {
    const auto shape = shapes_.find(k);
    if (shape == shapes_.end()) return false;
    Shape joined = shape->second;
    joined[0] = static_cast<int64_t>(indices.size());
    Tensor values = Tensor::allocate(DType::float32, joined);
    float* to = values.mutable_as<float>().data();
    for (const int64_t index : indices) {
      const auto row = kept_.find({k, index});
      if (row == kept_.end()) return false;
      to = std::copy(row->second.begin(), row->second.end(), to);
    }
    found.push_back({inputs_.teacher[k], std::move(values)});
  }
  std::move(found.begin(), found.end(), std::back_inserter(feeds));
  return true;
}

bool Teacher::look_up(const std::vector<int64_t>& indices, std::vector<NamedTensor>& feeds) const {
  if (taken_.empty()) return false;
  for (const int64_t index : indices) {
    if (!rows_.contains(index)) return false;
  }
  for (size_t k = 0; k < taken_.size(); ++k) {
    Shape shape = taken_[k].shape();
    const auto size = static_cast<size_t>(shape.count(1, shape.rank()));
    shape[0] = static_cast<int64_t>(indices.size());
    Tensor values = Tensor::allocate(DType::float32, shape);
    float* to = values.mutable_as<float>().data();
    const TensorData data = taken_[k].read();
    for (const int64_t index : indices) {
      to = std::copy_n(data.as<float>().data() + rows_.at(index) * size, size, to);
    }
    feeds.push_back({inputs_.teacher[k], std::move(values)});
  }
  return true;
}

std::vector<NamedTensor> Teacher::outputs(SampleSource& data, const std::vector<int64_t>& indices,
                                          int64_t batch) {
  std::vector<Tensor> all(inputs_.teacher.size());
  const auto size = static_cast<int64_t>(indices.size());
  for (int64_t first = 0; first < size; first += batch) {
    const std::vector<int64_t> some(indices.begin() + first,
                                    indices.begin() + std::min(first + batch, size));
    std::vector<NamedTensor> feeds;
    compute(some, join(data, some).inputs, feeds);
    for (size_t k = 0; k < feeds.size(); ++k) {
      Shape shape = feeds[k].tensor.shape();
      if (shape.rank() == 0 || shape[0] != static_cast<int64_t>(some.size())) {
        fail(ErrorCode::usage,
             "the teacher's '{}' has no row for each sample, so a file cannot keep it",
             inputs_.sources[k]);
      }
      const int64_t width = shape.count(1, shape.rank());
      if (first == 0) {
        if (static_cast<uint64_t>(width) * static_cast<uint64_t>(size) > kFileBytes / 4) {
          fail(ErrorCode::usage, "the teacher's '{}' is too large to be kept for {} samples",
               inputs_.sources[k], size);
        }
        shape[0] = size;
        all[k] = Tensor::allocate(DType::float32, shape);
      }
      const TensorData from = feeds[k].tensor.read();
      std::copy(from.as<float>().begin(), from.as<float>().end(),
                all[k].mutable_as<float>().data() + first * width);
    }
  }
  std::vector<NamedTensor> out = {
      {"samples", Tensor::from<int64_t>({size}, std::span<const int64_t>(indices))}};
  for (size_t k = 0; k < all.size(); ++k) {
    out.push_back({fmt::format("values/{}", k), std::move(all[k])});
  }
  return out;
}

void Teacher::take(const std::vector<NamedTensor>& outputs, SampleSource& data,
                   const std::vector<int64_t>& indices) {
  const auto refuse = [] {
    fail(ErrorCode::usage,
         "the file of teacher outputs is of another teacher, other samples or another loss; remove "
         "it, or name another file");
  };
  if (outputs.size() != inputs_.teacher.size() + 1 || outputs[0].tensor.dtype() != DType::int64) {
    refuse();
  }
  const std::vector<int64_t> samples = outputs[0].tensor.to_ints();
  for (size_t row = 0; row < samples.size(); ++row) rows_[samples[row]] = row;
  const bool complete = std::all_of(indices.begin(), indices.end(),
                                    [&](int64_t index) { return rows_.contains(index); });
  if (!complete) refuse();
  for (size_t k = 0; k + 1 < outputs.size(); ++k) {
    const Tensor& values = outputs[k + 1].tensor;
    const bool fits = values.dtype() == DType::float32 && values.shape().rank() > 0 &&
                      values.shape()[0] == static_cast<int64_t>(samples.size());
    if (!fits) refuse();
    taken_.push_back(values);
  }
  // One sample at a time, the last bits may differ from those of a batch.
  constexpr float kSlack = 1e-3f;
  for (const size_t at : {size_t{0}, indices.size() / 2, indices.size() - 1}) {
    std::vector<NamedTensor> kept, made;
    look_up({indices[at]}, kept);
    compute({indices[at]}, join(data, {indices[at]}).inputs, made);
    for (size_t k = 0; k < kept.size(); ++k) {
      const TensorData a = kept[k].tensor.read(), b = made[k].tensor.read();
      if (a.as<float>().size() != b.as<float>().size()) refuse();
      float most = 0, apart = 0;
      for (size_t i = 0; i < a.as<float>().size(); ++i) {
        most = std::max(most, std::abs(b.as<float>()[i]));
        apart = std::max(apart, std::abs(a.as<float>()[i] - b.as<float>()[i]));
      }
      if (!(apart <= kSlack * most)) refuse();
    }
  }
}

}  // namespace compress::train
