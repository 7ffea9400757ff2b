// Lists the families and finds rows; what an operator does is in its family's file.
#include <algorithm>
#include <climits>
#include <map>
#include <set>
#include <tuple>

#include "compress/core/nearest.h"
#include "compress/error.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/families.h"
#include "compress/ops/gradient_families.h"
#include "compress/ops/op.h"
#include "compress/ops/special_families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

std::span<const std::span<const OpDef>> families() {
  // clang-format off
  static const std::span<const OpDef> rows[] = {
      kBinaryOps,
      kLogicOps,
      kUnaryOps,
      kShapeOps,
      kCastOps,
      kMoveOps,
      kGatherOps,
      kGenerateOps,
      kPadOps,
      kReduceOps,
      kResizeOps,
      kSelectOps,
      kSoftmaxOps,
      kConvOps,
      kPoolOps,
      kMatMulOps,
      kEinsumOps,
      kBatchNormOps,
      kNormOps,
      kRecurrentOps,
      kQuantizeOps,
      kQLinearOps,
      kQLinearElementwiseOps,
      kNBitsOps,
      kAttentionOps,
      kGroupQueryOps,
      kTransformerOps,
      kDeformConvOps,
      kDetectionOps,
      kDetOps,
      kFourierOps,
      kGridSampleOps,
      kMlOps,
      kNgramOps,
      kOptimizerOps,
      kOptionalOps,
      kRandomOps,
      kSequenceOps,
      kTreeOps,
      kUniqueOps,
      kUnpoolOps,
      kElementGradients,
      kConvGradients,
      kPoolGradients,
      kNormGradients,
      kMoveGradients,
      kQuantizeGradients,
      kRecurrentGradients,
      kResizeGradients,
  };
  // clang-format on
  return rows;
}

auto key(const OpDef& op) { return std::tuple(op.domain, op.name, op.since_version); }

// All rows, sorted by domain, name and version.
const std::vector<const OpDef*>& index() {
  static const std::vector<const OpDef*> sorted = [] {
    std::vector<const OpDef*> rows;
    for (const auto& family : families()) {
      for (const OpDef& op : family) rows.push_back(&op);
    }
    std::sort(rows.begin(), rows.end(),
              [](const OpDef* a, const OpDef* b) { return key(*a) < key(*b); });
    return rows;
  }();
  return sorted;
}

// "ai.onnx" is another spelling of the default domain.
std::string_view canonical(std::string_view domain) { return domain == "ai.onnx" ? "" : domain; }

std::string named(const Node& node) {
  return node.name.empty() ? "" : fmt::format("node '{}': ", printable(node.name));
}

}  // namespace

std::span<const std::span<const OpDef>> op_families() { return families(); }

const OpDef* find_op(std::string_view domain, std::string_view name, int opset) {
  domain = canonical(domain);
  const auto& rows = index();
  const auto after = std::upper_bound(rows.begin(), rows.end(), std::tuple(domain, name, opset),
                                      [](const auto& k, const OpDef* op) { return k < key(*op); });
  if (after == rows.begin()) return nullptr;
  const OpDef* op = *std::prev(after);
  return op->domain == domain && op->name == name ? op : nullptr;
}

int opset_of(const Node& node, const Model& model) {
  if (const int64_t own = node.int_or(kOpsetAttribute, 0); own > 0 && own <= INT_MAX) {
    return static_cast<int>(own);
  }
  if (canonical(node.domain).empty()) {
    const auto row = model.opsets.find("ai.onnx");
    return row == model.opsets.end() ? model.opset() : row->second;
  }
  const auto row = model.opsets.find(node.domain);
  return row == model.opsets.end() ? 1 : row->second;
}

const OpDef& op_of(const Node& node, const Model& model) {
  const int opset = opset_of(node, model);
  if (const OpDef* op = find_op(node.domain, node.op_type, opset)) return *op;
  std::set<std::string_view> names;
  for (const OpDef* op : index()) names.insert(op->name);
  if (names.count(node.op_type) > 0) {
    fail(ErrorCode::unsupported, "{}operator {} of opset {} of domain '{}' is not supported",
         named(node), printable(node.op_type), opset, printable(node.domain));
  }
  const std::vector<std::string_view> candidates(names.begin(), names.end());
  const std::string_view near = nearest(node.op_type, candidates);
  fail(ErrorCode::unsupported, "{}operator {}{} is not supported{}", named(node),
       node.domain.empty() ? "" : printable(node.domain) + ".", printable(node.op_type),
       near.empty() ? "" : fmt::format(" (the nearest that there is: {})", near));
}

}  // namespace compress
