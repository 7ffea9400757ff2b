// Derivatives of matrix products and convolutions.
#include <algorithm>

#include "compress/train/gradient.h"

namespace compress::train {
namespace {

// --- MatMul --------------------------------------------------------------------------------------

ValueId transposed(const Gradient& g, ValueId id) {
  std::vector<int64_t> axes;
  const int rank = g.rank(id);
  for (int i = 0; i < rank; ++i) axes.push_back(i);
  std::swap(axes[static_cast<size_t>(rank) - 1], axes[static_cast<size_t>(rank) - 2]);
  return g.op("Transpose", {id}, {{"perm", axes, ""}});
}

// All but the last axis joined.
ValueId as_matrix(const Gradient& g, ValueId id) {
  return g.op("Flatten", {id}, {{"axis", int64_t{g.rank(id) - 1}, ""}});
}

void matmul(Gradient& g) {
  const ValueId a = g.in(0), b = g.in(1), dy = g.dy();
  if (g.wants(0)) g.give_broadcast(0, g.op("MatMul", {dy, transposed(g, b)}));
  if (!g.wants(1)) return;
  if (g.rank(b) == 2) {
    // One product over all samples instead of one each and a sum.
    g.give(1, g.op("Gemm", {as_matrix(g, a), as_matrix(g, dy)}, {{"transA", int64_t{1}, ""}}));
  } else {
    g.give_broadcast(1, g.op("MatMul", {transposed(g, a), dy}));
  }
}

std::string refuse_matmul(const Gradient& g) {
  const bool matrices = g.rank(g.in(0)) >= 2 && g.rank(g.in(1)) >= 2;
  return matrices ? "" : "operands that are no matrices, or of unknown rank";
}

// --- Gemm: y = alpha A' B' + beta C --------------------------------------------------------------

void gemm(Gradient& g) {
  const ValueId a = g.in(0), b = g.in(1), dy = g.dy();
  const int64_t ta = g.node().int_or("transA", 0) != 0, tb = g.node().int_or("transB", 0) != 0;
  const float alpha = g.node().float_or("alpha", 1), beta = g.node().float_or("beta", 1);
  const auto product = [&](ValueId left, ValueId right, int64_t transpose_left,
                           int64_t transpose_right) {
    return g.op(
        "Gemm", {left, right},
        {{"transA", transpose_left, ""}, {"transB", transpose_right, ""}, {"alpha", alpha, ""}});
  };
  if (g.wants(0)) g.give(0, ta ? product(b, dy, tb, 1) : product(dy, b, 0, 1 - tb));
  if (g.wants(1)) g.give(1, tb ? product(dy, a, 1, ta) : product(a, dy, 1 - ta, 0));
  if (g.wants(2)) {
    g.give_broadcast(2, beta == 1 ? dy : g.op("Mul", {dy, g.scalar(beta)}));
  }
}

// --- Einsum --------------------------------------------------------------------------------------

struct Equation {
  std::vector<std::string> terms;
  std::string output;
};

Equation equation_of(const Gradient& g) {
  std::string text = g.node().string_or("equation", "");
  std::erase(text, ' ');
  const size_t arrow = text.find("->");
  Equation out{{""}, ""};
  for (const char letter : text.substr(0, arrow)) {
    if (letter == ',') {
      out.terms.emplace_back();
    } else {
      out.terms.back() += letter;
    }
  }
  if (arrow != std::string::npos) {
    out.output = text.substr(arrow + 2);
    return out;
  }
  for (char letter = 'A'; letter <= 'z'; ++letter) {  // those that are there once
    if (std::count(text.begin(), text.end(), letter) == 1) out.output += letter;
  }
  return out;
}

// The other operands and dy, summed over what operand i has not.
void einsum(Gradient& g) {
  const Equation equation = equation_of(g);
  for (size_t i = 0; i < equation.terms.size(); ++i) {
    if (!g.wants(i)) continue;
    std::string text = equation.output;
    std::vector<ValueId> inputs = {g.dy()};
    for (size_t k = 0; k < equation.terms.size(); ++k) {
      if (k == i) continue;
      text += "," + equation.terms[k];
      inputs.push_back(g.in(k));
    }
    text += "->" + equation.terms[i];
    g.give(i, g.op("Einsum", std::move(inputs), {{"equation", text, ""}}));
  }
}

std::string refuse_einsum(const Gradient& g) {
  const Equation equation = equation_of(g);
  std::string all = equation.output;
  for (const std::string& term : equation.terms) all += term;
  for (const std::string& term : equation.terms) {
    for (const char letter : term) {
      if (letter == '.') return "an ellipsis";
      if (std::count(term.begin(), term.end(), letter) > 1) return "a diagonal";
      if (std::count(all.begin(), all.end(), letter) < 2) return "an axis that is summed alone";
    }
  }
  return "";
}

// --- Convolutions --------------------------------------------------------------------------------

void conv(Gradient& g) {
  const ValueId x = g.in(0), w = g.in(1), dy = g.dy();
  if (g.wants(0)) {
    g.give(0, g.gradient_op("ConvDataGradient", {dy, w, g.shape_of(x)}, g.node().attributes));
  }
  if (g.wants(1)) {
    const auto sums = g.gradient_ops("ConvWeightGradient", g.wants(2) ? 2 : 1,
                                     {dy, x, g.shape_of(w)}, g.node().attributes);
    g.give(1, sums[0]);
    if (g.wants(2)) g.give(2, sums[1]);
  } else if (g.wants(2)) {
    g.give(2, g.sum_except(dy, 1));
  }
}

std::string refuse_conv(const Gradient& g) {
  return g.rank(g.out(0)) < 3 ? "an output of unknown rank" : "";
}

// The transpose of a convolution: its data gradient is that convolution, and in the weights both
// are the same sum with the roles of input and output exchanged.
void conv_transpose(Gradient& g) {
  const ValueId x = g.in(0), w = g.in(1), dy = g.dy();
  std::vector<Attribute> attributes;
  for (const Attribute& attribute : g.node().attributes) {
    if (attribute.name != "output_padding") attributes.push_back(attribute);
  }
  if (g.wants(0)) g.give(0, g.op("Conv", {dy, w}, attributes));
  if (g.wants(1)) {
    g.give(1, g.gradient_op("ConvWeightGradient", {x, dy, g.shape_of(w)}, attributes));
  }
  if (g.wants(2)) g.give(2, g.sum_except(dy, 1));
}

std::string refuse_conv_transpose(const Gradient& g) {
  const std::string pad = g.node().string_or("auto_pad", "NOTSET");
  if (pad != "NOTSET" && !pad.empty()) return "auto_pad";
  if (g.node().attribute("output_shape") != nullptr) return "output_shape";
  return refuse_conv(g);
}

constexpr GradientDef kRows[] = {
    {"", "MatMul", matmul, refuse_matmul},
    {"", "Gemm", gemm},
    {"", "Einsum", einsum, refuse_einsum},
    {"", "Conv", conv, refuse_conv},
    {"", "ConvTranspose", conv_transpose, refuse_conv_transpose},
};

}  // namespace

const std::span<const GradientDef> kProductGradients = kRows;

}  // namespace compress::train
