#include "compress/verify/multiply_adds.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace compress {
namespace {

// Where the operands of a product are, for the operators that have other inputs between.
struct Slots {
  std::string_view op;
  size_t a;
  size_t b;
};
constexpr std::array kConvolutions = {Slots{"Conv", 0, 1}, Slots{"FusedConv", 0, 1},
                                      Slots{"ConvInteger", 0, 1}, Slots{"QLinearConv", 0, 3}};
constexpr std::array kProducts = {Slots{"MatMul", 0, 1},
                                  Slots{"FusedMatMul", 0, 1},
                                  Slots{"Gemm", 0, 1},
                                  Slots{"MatMulInteger", 0, 1},
                                  Slots{"DynamicQuantizeMatMul", 0, 1},
                                  Slots{"MatMulIntegerToFloat", 0, 1},
                                  Slots{"QLinearMatMul", 0, 3},
                                  Slots{"QGemm", 0, 3}};

const Slots* find(std::span<const Slots> rows, const Node& node) {
  for (const Slots& row : rows) {
    if (row.op == node.op_type) return &row;
  }
  return nullptr;
}

const Shape* shape_of(const Graph& graph, const std::vector<ValueId>& ids, size_t slot) {
  if (slot >= ids.size() || ids[slot] == kNoValue) return nullptr;
  const Value& value = graph.value(ids[slot]);
  if (value.is_constant()) return &value.constant.shape();
  return value.type.is_concrete() ? &value.type.shape : nullptr;
}

// Shapes come from a file: what does not fit counts as unknown.
int64_t product(std::initializer_list<int64_t> factors) {
  int64_t out = 1;
  for (const int64_t factor : factors) {
    if (factor < 0 || __builtin_mul_overflow(out, factor, &out)) return 0;
  }
  return out;
}

int64_t elements(const Shape& shape) {
  int64_t out = 1;
  for (const int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(out, dim, &out)) return 0;
  }
  return out;
}

int64_t recurrent(const Graph& graph, const Node& node) {
  const Shape* x = shape_of(graph, node.inputs, 0);
  const Shape* w = shape_of(graph, node.inputs, 1);
  const Shape* r = shape_of(graph, node.inputs, 2);
  if (x == nullptr || w == nullptr || r == nullptr) return 0;
  if (x->rank() != 3 || w->rank() != 3 || r->rank() != 3) return 0;
  const int64_t steps = product({(*x)[0], (*x)[1]});
  return product({steps, (*w)[0], (*w)[1], (*w)[2] + (*r)[2]});
}

}  // namespace

int64_t multiply_adds(const Graph& graph, const Node& node) {
  const Shape* out = shape_of(graph, node.outputs, 0);
  if (const Slots* row = find(kConvolutions, node)) {
    const Shape* w = shape_of(graph, node.inputs, row->b);
    if (out == nullptr || w == nullptr || w->rank() < 1 || (*w)[0] <= 0) return 0;
    return product({elements(*out), elements(*w) / (*w)[0]});
  }
  if (node.op_type == "ConvTranspose") {
    const Shape* x = shape_of(graph, node.inputs, 0);
    const Shape* w = shape_of(graph, node.inputs, 1);
    if (x == nullptr || w == nullptr || w->rank() < 1 || (*w)[0] <= 0) return 0;
    return product({elements(*x), elements(*w) / (*w)[0]});
  }
  if (const Slots* row = find(kProducts, node)) {
    const Shape* a = shape_of(graph, node.inputs, row->a);
    if (out == nullptr || a == nullptr || a->rank() < 1) return 0;
    const bool turned = node.int_or("transA", 0) != 0 && a->rank() > 1;
    return product({elements(*out), (*a)[a->rank() - (turned ? 2 : 1)]});
  }
  if (node.op_type == "MatMulNBits") {
    return out == nullptr ? 0 : product({elements(*out), node.int_or("K", 0)});
  }
  if (node.op_type == "LSTM" || node.op_type == "GRU" || node.op_type == "RNN") {
    return recurrent(graph, node);
  }
  return 0;
}

}  // namespace compress
