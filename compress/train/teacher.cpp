#include "compress/train/teacher.h"

#include <algorithm>

#include "compress/error.h"
#include "compress/train/training_graph.h"

namespace compress::train {
namespace {

// Outputs for all samples are kept in memory where they take at most so much together.
constexpr uint64_t kKeptBytes = uint64_t{256} << 20;
// What a file of outputs may take: it is made in memory.
constexpr uint64_t kFileBytes = uint64_t{4} << 30;

}  // namespace

Teacher::Teacher(const Model& teacher, const LossInputs& inputs, int64_t batch)
    : inputs_(inputs),
      session_(in_context([] { return "the teacher"; },
                          [&] { return cut_teacher(teacher, inputs, batch); })),
      batch_(batch) {}

void Teacher::feed(const std::vector<int64_t>& indices, const std::vector<NamedTensor>& sample,
                   std::vector<NamedTensor>& feeds) {
  if (!look_up(indices, feeds)) compute(sample, feeds);
}

void Teacher::compute(const std::vector<NamedTensor>& sample, std::vector<NamedTensor>& feeds) {
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
    feeds.push_back({inputs_.teacher[k], std::move(outputs[k])});
  }
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

std::string Teacher::compute_all(SampleSource& data, const std::vector<int64_t>& indices,
                                 uint64_t most, const Ranks& ranks, std::vector<Tensor>& all) {
  const auto size = static_cast<int64_t>(indices.size());
  const auto compute_batch = [&](int64_t first) {
    const std::vector<int64_t> some(indices.begin() + first,
                                    indices.begin() + std::min(first + batch_, size));
    std::vector<NamedTensor> feeds;
    compute(join(data, some).inputs, feeds);
    return feeds;
  };
  // The first batch tells the sizes, to each rank.
  const std::vector<NamedTensor> start = compute_batch(0);
  uint64_t bytes = 0;
  for (size_t k = 0; k < start.size(); ++k) {
    Shape shape = start[k].tensor.shape();
    if (shape.rank() == 0 || shape[0] != std::min(batch_, size)) {
      return fmt::format("the teacher's '{}' has no row for each sample, so it cannot be kept",
                         inputs_.sources[k]);
    }
    shape[0] = 1;
    bytes += static_cast<uint64_t>(shape.count()) * static_cast<uint64_t>(size) * sizeof(float);
  }
  if (bytes > most) return fmt::format("the teacher's outputs are too large for {} samples", size);
  for (const NamedTensor& feed : start) {
    Shape shape = feed.tensor.shape();
    shape[0] = size;
    all.push_back(Tensor::allocate(DType::float32, shape));
  }
  const int64_t batches = (size + batch_ - 1) / batch_;
  std::vector<double> fits(static_cast<size_t>(batches), 1);
  for_own_parts(ranks, batches, [&](int64_t part) {
    const std::vector<NamedTensor> feeds = part == 0 ? start : compute_batch(part * batch_);
    const int64_t rows = std::min(batch_, size - part * batch_);
    for (size_t k = 0; k < feeds.size(); ++k) {
      const int64_t row = all[k].count() / size;
      const TensorData from = feeds[k].tensor.read();
      if (feeds[k].tensor.count() != rows * row) {
        fits[static_cast<size_t>(part)] = 0;
        return;
      }
      std::copy_n(from.as<float>().data(), rows * row,
                  all[k].mutable_as<float>().data() + part * batch_ * row);
    }
  });
  share_parts(ranks, batches, fits);
  if (std::find(fits.begin(), fits.end(), 0.0) != fits.end()) {
    return "the teacher's outputs have another size for each sample, so they cannot be kept";
  }
  for (Tensor& values : all) {
    const size_t row_bytes = static_cast<size_t>(values.bytes()) / indices.size();
    share_bytes(ranks, batches, row_bytes * static_cast<size_t>(batch_),
                std::as_writable_bytes(values.mutable_as<float>()));
  }
  return "";
}

void Teacher::prepare(SampleSource& data, const std::vector<int64_t>& indices, const Ranks& ranks) {
  if (!taken_.empty()) return;
  std::vector<Tensor> all;
  if (!compute_all(data, indices, kKeptBytes, ranks, all).empty()) return;
  for (size_t row = 0; row < indices.size(); ++row) rows_[indices[row]] = row;
  taken_ = std::move(all);
}

std::vector<NamedTensor> Teacher::outputs(SampleSource& data, const std::vector<int64_t>& indices,
                                          const Ranks& ranks) {
  std::vector<Tensor> all;
  const std::string why = compute_all(data, indices, kFileBytes, ranks, all);
  if (!why.empty()) fail(ErrorCode::usage, "--teacher-cache: {}", why);
  const auto size = static_cast<int64_t>(indices.size());
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
    compute(join(data, {indices[at]}).inputs, made);
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
