#include "compress/train/checkpoint.h"

#include <algorithm>
#include <map>

#include "compress/error.h"

namespace compress::train {
namespace {

constexpr size_t kCounts = 4, kNumbers = 3, kColumns = 5;

struct Part {
  const char* name;
  std::vector<float>* Checkpoint::Slot::*values;
};
constexpr Part kParts[] = {{"values", &Checkpoint::Slot::values},
                           {"best", &Checkpoint::Slot::best},
                           {"first", &Checkpoint::Slot::first},
                           {"second", &Checkpoint::Slot::second}};

}  // namespace

std::vector<NamedTensor> pack_checkpoint(const Checkpoint& c) {
  const Progress& p = c.progress;
  std::vector<NamedTensor> out;
  out.push_back({"progress/counts",
                 Tensor::from<int64_t>({kCounts}, {p.epoch, p.batch, p.step, p.best_epoch})});
  out.push_back({"progress/numbers",
                 Tensor::from<double>({kNumbers}, {p.best_loss, p.loss_sum, p.first_loss})});
  for (const auto& [option, value] : c.run) {
    out.push_back({"run/" + option, Tensor::scalar<int64_t>(value)});
  }
  std::vector<double> rows;
  for (const EpochRecord& e : c.epochs) {
    const double row[] = {static_cast<double>(e.epoch), e.loss, e.validation_loss, e.accuracy,
                          e.rate};
    rows.insert(rows.end(), std::begin(row), std::end(row));
  }
  out.push_back(
      {"progress/epochs", Tensor::from<double>({static_cast<int64_t>(c.epochs.size()), kColumns},
                                               std::span<const double>(rows))});
  for (size_t i = 0; i < c.slots.size(); ++i) {
    for (const Part& part : kParts) {
      const std::vector<float>& values = *(c.slots[i].*part.values);
      if (values.empty()) continue;
      // Tensor names may hold anything; the number leads, so that no two members collide.
      out.push_back({fmt::format("{}/{}", part.name, i),
                     Tensor::from<float>(c.slots[i].shape, std::span<const float>(values))});
    }
    const std::vector<uint8_t>& mask = *c.slots[i].mask;
    if (mask.empty()) continue;
    out.push_back({fmt::format("mask/{}", i),
                   Tensor::from<uint8_t>(c.slots[i].shape, std::span<const uint8_t>(mask))});
  }
  return out;
}

void unpack_checkpoint(const std::vector<NamedTensor>& saved, Checkpoint& c) {
  std::map<std::string, const Tensor*> by_name;
  for (const NamedTensor& member : saved) by_name[member.name] = &member.tensor;
  const auto find = [&](const std::string& name, DType dtype, int64_t count) -> const Tensor& {
    const auto row = by_name.find(name);
    if (row == by_name.end() || row->second->dtype() != dtype ||
        (count >= 0 && row->second->count() != count)) {
      fail(
          ErrorCode::usage,
          "the checkpoint belongs to another model or to other options ('{}'); remove it, or train "
          "as it was begun",
          name);
    }
    return *row->second;
  };
  for (const auto& [option, value] : c.run) {
    if (find("run/" + option, DType::int64, 1).to_int() == value) continue;
    fail(ErrorCode::usage,
         "the checkpoint is of a run with another {}; remove it, or train as it was begun", option);
  }
  const auto counts = find("progress/counts", DType::int64, kCounts).to_ints();
  const auto numbers = find("progress/numbers", DType::float64, kNumbers).to_doubles();
  c.progress = {counts[0], counts[1], counts[2], counts[3], numbers[0], numbers[1], numbers[2]};
  const std::vector<double> rows = find("progress/epochs", DType::float64, -1).to_doubles();
  c.epochs.clear();
  for (size_t i = 0; i + kColumns <= rows.size(); i += kColumns) {
    c.epochs.push_back(
        {static_cast<int64_t>(rows[i]), rows[i + 1], rows[i + 2], rows[i + 3], rows[i + 4]});
  }
  for (size_t i = 0; i < c.slots.size(); ++i) {
    for (const Part& part : kParts) {
      std::vector<float>& values = *(c.slots[i].*part.values);
      if (values.empty()) continue;
      const Tensor& tensor = find(fmt::format("{}/{}", part.name, i), DType::float32,
                                  static_cast<int64_t>(values.size()));
      const TensorData data = tensor.read();
      std::copy(data.as<float>().begin(), data.as<float>().end(), values.begin());
    }
    const std::string mask = fmt::format("mask/{}", i);
    if (!by_name.contains(mask)) continue;
    const TensorData data =
        find(mask, DType::uint8, static_cast<int64_t>(c.slots[i].values->size())).read();
    c.slots[i].mask->assign(data.as<uint8_t>().begin(), data.as<uint8_t>().end());
  }
}

}  // namespace compress::train
