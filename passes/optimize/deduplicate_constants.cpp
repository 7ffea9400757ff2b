// Constants with the same type, shape and bytes become one.
#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>

#include "compress/core/mapped_pages.h"
#include "passes/optimize/optimize.h"

namespace compress {
namespace {

// FNV-1a over 8-byte words; equal hashes are compared byte by byte.
uint64_t hash_bytes(std::span<const std::byte> bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    hash = (hash ^ word) * 0x100000001b3u;
    hash ^= hash >> 29;
  }
  for (; i < bytes.size(); ++i) hash = (hash ^ static_cast<uint64_t>(bytes[i])) * 0x100000001b3u;
  return hash;
}

// Of large constants some stripes: reading a model of gigabytes through would cost more than all
// other passes, and what agrees in them is compared byte by byte anyway.
uint64_t hash_of(std::span<const std::byte> bytes) {
  constexpr size_t kStripe = 4096, kStripes = 16;
  if (bytes.size() <= 2 * kStripe * kStripes) return hash_bytes(bytes);
  uint64_t hash = bytes.size();
  for (size_t i = 0; i < kStripes; ++i) {
    const size_t at = (bytes.size() - kStripe) / (kStripes - 1) * i;
    hash = hash * 31 + hash_bytes(bytes.subspan(at, kStripe));
  }
  return hash;
}

using Kind = std::pair<DType, std::vector<int64_t>>;

// Only where another constant has the same type and shape is the content looked at.
std::map<Kind, std::vector<ValueId>> candidates(const Graph& graph) {
  std::map<Kind, std::vector<ValueId>> kinds;
  for (ValueId id = 0; id < graph.value_slots(); ++id) {
    const Value& value = graph.value(id);
    if (!value.alive || !value.is_constant() || value.is_input || graph.is_output(id)) continue;
    if (value.constant.dtype() == DType::string || value.constant.is_deferred()) continue;
    const auto dims = value.constant.shape().dims();
    kinds[{value.constant.dtype(), {dims.begin(), dims.end()}}].push_back(id);
  }
  return kinds;
}

}  // namespace

PassResult deduplicate_constants(Model& model, PassContext&) {
  Graph& graph = model.graph;
  int64_t removed = 0;
  int64_t bytes = 0;
  for (const auto& [kind, ids] : candidates(graph)) {
    if (ids.size() < 2) continue;
    std::unordered_map<uint64_t, std::vector<ValueId>> kept;
    for (const ValueId id : ids) {
      const Tensor tensor = graph.value(id).constant;
      const auto content = tensor.stored_bytes();
      std::vector<ValueId>& same_hash = kept[hash_of(content)];
      drop_mapped_pages(content);  // the kernel maps far more than was touched
      const auto twin = std::find_if(same_hash.begin(), same_hash.end(), [&](ValueId other) {
        return same_content(graph.value(other).constant, tensor);
      });
      if (twin == same_hash.end()) {
        same_hash.push_back(id);
        continue;
      }
      graph.replace_uses(id, *twin);
      graph.erase_value(id);
      ++removed;
      bytes += static_cast<int64_t>(tensor.bytes());
    }
  }
  PassResult result;
  result.changed = removed > 0;
  if (result.changed) result.details = {{"removed", removed}, {"bytes", bytes}};
  return result;
}

}  // namespace compress
