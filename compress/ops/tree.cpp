// TreeEnsemble (ai.onnx.ml 5): sums of the leaves that rows reach in decision trees.
#include <algorithm>
#include <cmath>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

enum class Test : uint8_t { le, lt, ge, gt, eq, ne, member };
enum class Join { average, sum, min, max };
enum class Transform { none, softmax, logistic, softmax_zero, probit };

struct Branch {
  bool leaf;
  size_t at;  // of leaves or nodes
};

template <class T>
struct TreeNode {
  size_t feature;
  Test test;
  bool missing_is_true;  // where NaN goes
  T split;
  Branch yes, no;
  std::vector<T> members;  // sorted
};

template <class T>
struct Leaf {
  size_t target;
  T weight;
};

template <class T>
struct Trees {
  std::vector<TreeNode<T>> nodes;
  std::vector<Leaf<T>> leaves;
  std::vector<size_t> roots;
  size_t targets;
  size_t features;
  Join join;
  Transform transform;
};

// --- Attributes ----------------------------------------------------------------------------------

template <class T>
std::vector<T> tensor_values(const NodeContext& c, std::string_view name) {
  const Tensor* tensor = c.node().tensor_or_null(name);
  if (tensor == nullptr) return {};
  if (tensor->dtype() != dtype_of<T>()) {
    c.invalid(fmt::format("{} is of type {}", name, info(tensor->dtype()).name));
  }
  const TensorData data = tensor->read();
  return {data.as<T>().begin(), data.as<T>().end()};
}

// Attribute `name`, of `count` numbers in [0, limit).
std::vector<size_t> indices(const NodeContext& c, std::string_view name, size_t count,
                            size_t limit) {
  const std::vector<int64_t> values = c.node().ints_or(name, {});
  if (values.size() != count) {
    c.invalid(fmt::format("{} has {} values, {} are needed", name, values.size(), count));
  }
  std::vector<size_t> result;
  for (const int64_t value : values) {
    if (value < 0 || static_cast<uint64_t>(value) >= limit) {
      c.invalid(fmt::format("{} holds {}, which is outside {} elements", name, value, limit));
    }
    result.push_back(static_cast<size_t>(value));
  }
  return result;
}

std::vector<Branch> branches(const NodeContext& c, const std::string& side, size_t nodes,
                             size_t leaves) {
  const std::vector<size_t> is_leaf = indices(c, "nodes_" + side + "leafs", nodes, 2);
  const std::vector<size_t> at =
      indices(c, "nodes_" + side + "nodeids", nodes, std::max(nodes, leaves));
  std::vector<Branch> result;
  for (size_t i = 0; i < nodes; ++i) {
    if (at[i] >= (is_leaf[i] != 0 ? leaves : nodes)) {
      c.invalid(fmt::format("node {} of the trees branches to {}", i, at[i]));
    }
    result.push_back({is_leaf[i] != 0, at[i]});
  }
  return result;
}

// Sets of members stand one after the other, each ended by a NaN, one a member test.
template <class T>
void read_members(const NodeContext& c, Trees<T>& trees) {
  const std::vector<T> values = tensor_values<T>(c, "membership_values");
  size_t next = 0;
  for (TreeNode<T>& node : trees.nodes) {
    if (node.test != Test::member) continue;
    while (next < values.size() && values[next] == values[next]) {
      node.members.push_back(values[next++]);
    }
    if (next == values.size()) c.invalid("membership_values has too few sets");
    ++next;
    std::sort(node.members.begin(), node.members.end());
  }
}

template <class T>
Trees<T> read_trees(const NodeContext& c) {
  Trees<T> trees;
  const std::vector<uint8_t> modes = tensor_values<uint8_t>(c, "nodes_modes");
  const std::vector<T> splits = tensor_values<T>(c, "nodes_splits");
  const std::vector<T> weights = tensor_values<T>(c, "leaf_weights");
  const size_t count = modes.size();
  if (splits.size() != count) c.invalid("nodes_splits and nodes_modes differ in length");
  trees.features = static_cast<size_t>(c.shape(0)[1]);
  trees.targets = static_cast<size_t>(c.output_types[0].shape[1]);
  const auto features = indices(c, "nodes_featureids", count, trees.features);
  std::vector<size_t> missing(count, 0);
  if (c.node().attribute("nodes_missing_value_tracks_true") != nullptr) {
    missing = indices(c, "nodes_missing_value_tracks_true", count, 2);
  }
  const auto yes = branches(c, "true", count, weights.size());
  const auto no = branches(c, "false", count, weights.size());
  for (size_t i = 0; i < count; ++i) {
    if (modes[i] > static_cast<uint8_t>(Test::member)) {
      c.invalid(fmt::format("nodes_modes holds {}", modes[i]));
    }
    trees.nodes.push_back(
        {features[i], static_cast<Test>(modes[i]), missing[i] != 0, splits[i], yes[i], no[i], {}});
  }
  read_members(c, trees);
  const auto targets = indices(c, "leaf_targetids", weights.size(), trees.targets);
  for (size_t i = 0; i < weights.size(); ++i) trees.leaves.push_back({targets[i], weights[i]});
  trees.roots = indices(c, "tree_roots", c.node().ints_or("tree_roots", {}).size(), count);
  const int64_t join = c.node().int_or("aggregate_function", 1);
  const int64_t transform = c.node().int_or("post_transform", 0);
  if (join < 0 || join > 3) c.invalid(fmt::format("aggregate_function {}", join));
  if (transform < 0 || transform > 4) c.invalid(fmt::format("post_transform {}", transform));
  trees.join = static_cast<Join>(join);
  trees.transform = static_cast<Transform>(transform);
  return trees;
}

// --- Evaluation ----------------------------------------------------------------------------------

template <class T>
bool goes_yes(const TreeNode<T>& node, T value) {
  if (value != value) return node.missing_is_true;
  switch (node.test) {
    case Test::le:
      return value <= node.split;
    case Test::lt:
      return value < node.split;
    case Test::ge:
      return value >= node.split;
    case Test::gt:
      return value > node.split;
    case Test::eq:
      return value == node.split;
    case Test::ne:
      return value != node.split;
    case Test::member:
      return std::binary_search(node.members.begin(), node.members.end(), value);
  }
  return false;
}

// The leaf that a row reaches from a root.
template <class T>
const Leaf<T>& walk(const Trees<T>& trees, size_t root, const T* row, const std::string& where) {
  Branch branch{false, root};
  for (size_t step = 0; !branch.leaf; ++step) {
    if (step > trees.nodes.size()) fail(ErrorCode::invalid_model, "{}: a tree with a ring", where);
    const TreeNode<T>& node = trees.nodes[branch.at];
    branch = goes_yes(node, row[node.feature]) ? node.yes : node.no;
  }
  return trees.leaves[branch.at];
}

// The inverse of the normal distribution's cumulative function by Winitzki's approximation of the
// inverse error function, as ONNX's reference has it.
template <class T>
T probit(T p) {
  const T x = 2 * p - 1;
  const T log = std::log((1 - x) * (1 + x));
  const T a = T(0.147);
  const T v = 2 / (T(3.14159265358979) * a) + log / 2;
  const T root = std::sqrt(std::sqrt(v * v - log / a) - v);
  return T(1.41421356237310) * (x < 0 ? -root : root);
}

template <class T>
void softmax(std::span<T> row, bool skip_zeros) {
  T top = row[0];
  for (const T value : row) top = std::max(top, value);
  T sum = 0;
  for (T& value : row) {
    value = skip_zeros && value == 0 ? T(0) : std::exp(value - top);
    sum += value;
  }
  for (T& value : row) value = sum == 0 ? value : value / sum;
}

template <class T>
void transform_row(Transform transform, std::span<T> row) {
  if (row.empty() || transform == Transform::none) return;
  if (transform == Transform::softmax || transform == Transform::softmax_zero) {
    return softmax(row, transform == Transform::softmax_zero);
  }
  for (T& value : row) {
    value = transform == Transform::logistic ? 1 / (1 + std::exp(-value)) : probit(value);
  }
}

template <class T>
void evaluate_row(const Trees<T>& trees, const T* x, std::span<T> out, std::vector<bool>& seen,
                  const std::string& where) {
  std::fill(out.begin(), out.end(), T(0));
  seen.assign(out.size(), false);
  for (const size_t root : trees.roots) {
    const Leaf<T>& leaf = walk(trees, root, x, where);
    T& target = out[leaf.target];
    const bool first = !seen[leaf.target];
    if (trees.join == Join::min) {
      target = first ? leaf.weight : std::min(target, leaf.weight);
    } else if (trees.join == Join::max) {
      target = first ? leaf.weight : std::max(target, leaf.weight);
    } else {
      target += leaf.weight;
    }
    seen[leaf.target] = true;
  }
  if (trees.join == Join::average && !trees.roots.empty()) {
    for (T& value : out) value /= static_cast<T>(trees.roots.size());
  }
  transform_row(trees.transform, out);
}

void infer_trees(NodeContext& c) {
  ops::require_inputs(c, 1, 1);
  const int64_t targets = c.node().int_or("n_targets", 1);
  if (targets < 1 || targets > (int64_t{1} << 30)) {
    c.invalid(fmt::format("n_targets is {}", targets));
  }
  c.set_output(0, c.dtype(0), {known_rank(c, 0, 2) ? c.shape(0)[0] : kUnknownDim, targets});
}

Kernel prepare_trees(const NodeContext& c) {
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    auto trees = std::make_shared<const Trees<T>>(read_trees<T>(c));
    return Kernel{"", [=, rows = c.shape(0)[0], where = ops::label(c)](const KernelArgs& args) {
                    const T* x = args.inputs[0].as<const T>();
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
                      std::vector<bool> seen;
                      for (int64_t r = begin; r < end; ++r) {
                        const auto row = static_cast<size_t>(r);
                        evaluate_row(*trees, x + row * trees->features,
                                     std::span<T>(y + row * trees->targets, trees->targets), seen,
                                     where);
                      }
                    });
                  }};
  });
}

constexpr OpDef kRows[] = {
    {"ai.onnx.ml", "TreeEnsemble", 5, infer_trees, prepare_trees},
};

}  // namespace

const std::span<const OpDef> kTreeOps = kRows;

}  // namespace compress
