// Einsum: an equation of labelled axes, implicit or explicit output, with ellipsis.
#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/ops/compute_families.h"
#include "compress/ops/typed.h"

namespace compress {
namespace {

// Labels of operands and output; the axes of "..." are labels of their own, '0' + k counted from
// the right, so that they broadcast like NumPy's.
struct Equation {
  std::vector<std::string> operands;
  std::string output;
};

bool is_ellipsis(char label) { return !std::isalpha(static_cast<unsigned char>(label)); }

std::string without_spaces(const NodeContext& c) {
  std::string text;
  for (const char letter : c.node().string_or("equation", "")) {
    if (letter != ' ') text += letter;
  }
  if (text.empty()) c.invalid("no equation");
  return text;
}

// One term with its ellipsis replaced by `axes` labels.
std::string expand(const NodeContext& c, std::string term, int axes) {
  const size_t at = term.find("...");
  if (at != std::string::npos) {
    std::string labels;
    for (int k = axes; k > 0; --k) labels += static_cast<char>('0' + k);
    term.replace(at, 3, labels);
  }
  for (size_t i = 0; i < term.size(); ++i) {
    const bool inserted = at != std::string::npos && i >= at && i < at + static_cast<size_t>(axes);
    if (!inserted && is_ellipsis(term[i])) c.invalid("the equation holds an odd character");
  }
  return term;
}

Equation read_equation(const NodeContext& c) {
  const std::string text = without_spaces(c);
  const size_t arrow = text.find("->");
  std::vector<std::string> terms(1);
  for (const char letter : text.substr(0, arrow)) {
    if (letter == ',') {
      terms.emplace_back();
    } else {
      terms.back() += letter;
    }
  }
  if (terms.size() != static_cast<size_t>(c.input_count())) {
    c.invalid(fmt::format("{} terms for {} inputs", terms.size(), c.input_count()));
  }
  Equation equation;
  int most = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    const int rank = c.shape(static_cast<int>(i)).rank();
    const bool has_ellipsis = terms[i].find("...") != std::string::npos;
    const int named = static_cast<int>(terms[i].size()) - (has_ellipsis ? 3 : 0);
    if (named > rank || (named < rank && !has_ellipsis)) {
      c.invalid(fmt::format("a term of {} labels for an input of rank {}", named, rank));
    }
    most = std::max(most, rank - named);
    equation.operands.push_back(expand(c, terms[i], rank - named));
  }
  if (arrow != std::string::npos) {
    equation.output = expand(c, text.substr(arrow + 2), most);
    return equation;
  }
  // Implicit: the ellipsis, then the labels that occur once, sorted.
  equation.output = expand(c, "...", most);
  for (int label = 'A'; label <= 'z'; ++label) {
    int count = 0;
    for (const std::string& term : equation.operands) {
      count += static_cast<int>(std::count(term.begin(), term.end(), static_cast<char>(label)));
    }
    if (count == 1) equation.output += static_cast<char>(label);
  }
  return equation;
}

// Sizes by label: 0 where the label does not occur, negative where it is not known.
using Sizes = std::array<int64_t, 128>;

Sizes read_sizes(const NodeContext& c, const Equation& equation) {
  Sizes sizes{};
  std::array<bool, 128> seen{};
  for (size_t i = 0; i < equation.operands.size(); ++i) {
    const Shape& shape = c.shape(static_cast<int>(i));
    for (int d = 0; d < shape.rank(); ++d) {
      const auto label = static_cast<size_t>(equation.operands[i][static_cast<size_t>(d)]);
      const int64_t size = shape[d];
      if (!seen[label] || sizes[label] == 1 || (sizes[label] < 0 && size > 1)) {
        sizes[label] = size;
      } else if (size != 1 && size >= 0 && sizes[label] >= 0 && size != sizes[label]) {
        c.invalid(fmt::format("sizes {} and {} under one label", sizes[label], size));
      }
      seen[label] = true;
    }
  }
  for (const char label : equation.output) {
    if (!seen[static_cast<size_t>(label)]) c.invalid("the output has a label of its own");
    if (std::count(equation.output.begin(), equation.output.end(), label) > 1) {
      c.invalid("the output repeats a label");
    }
  }
  return sizes;
}

void infer_einsum(NodeContext& c) {
  require_inputs(c, std::max(1, c.input_count()));
  for (int i = 0; i < c.input_count(); ++i) {
    if (!c.in(i).has_shape) return c.set_output(0, c.dtype(0));
  }
  const Equation equation = read_equation(c);
  const Sizes sizes = read_sizes(c, equation);
  Shape out;
  for (const char label : equation.output) out.push_back(sizes[static_cast<size_t>(label)]);
  c.set_output(0, c.dtype(0), out);
}

// Loops over labels: the output's, then those that are summed.
struct Loop {
  int64_t size;
  std::vector<int64_t> strides;  // of each operand
};

struct EinsumPlan {
  std::vector<Loop> kept;
  std::vector<Loop> summed;  // all but the innermost
  Loop row{1, {}};           // the innermost sum
  int64_t out_count = 1;
  int64_t sum_count = 1;
};

EinsumPlan plan_einsum(const NodeContext& c) {
  const Equation equation = read_equation(c);
  const Sizes sizes = read_sizes(c, equation);
  const auto loop_of = [&](char label) {
    Loop loop{sizes[static_cast<size_t>(label)], {}};
    for (size_t i = 0; i < equation.operands.size(); ++i) {
      const Shape& shape = c.shape(static_cast<int>(i));
      const Shape strides = strides_of(shape);
      int64_t step = 0;  // a label that stands twice walks the diagonal
      for (int d = 0; d < shape.rank(); ++d) {
        if (equation.operands[i][static_cast<size_t>(d)] == label && shape[d] != 1) {
          step += strides[d];
        }
      }
      loop.strides.push_back(step);
    }
    return loop;
  };
  EinsumPlan plan;
  std::string done = equation.output;
  for (const char label : equation.output) {
    plan.kept.push_back(loop_of(label));
    plan.out_count *= plan.kept.back().size;
  }
  for (const std::string& term : equation.operands) {
    for (const char label : term) {
      if (done.find(label) != std::string::npos) continue;
      done += label;
      plan.summed.push_back(loop_of(label));
      if (__builtin_mul_overflow(plan.sum_count, plan.summed.back().size, &plan.sum_count)) {
        c.invalid("too many products");
      }
    }
  }
  plan.row.strides.assign(equation.operands.size(), 0);
  if (!plan.summed.empty()) {
    plan.row = plan.summed.back();
    plan.summed.pop_back();
  }
  return plan;
}

// Offsets of the operands at position `index` of the loops.
void offsets_at(const std::vector<Loop>& loops, int64_t index, std::vector<int64_t>& offsets) {
  for (size_t l = loops.size(); l-- > 0;) {
    const int64_t at = index % loops[l].size;
    index /= loops[l].size;
    for (size_t i = 0; i < offsets.size(); ++i) offsets[i] += at * loops[l].strides[i];
  }
}

template <class T>
T sum_at(const EinsumPlan& plan, const std::vector<const T*>& data,
         const std::vector<int64_t>& base, std::vector<int64_t>& at) {
  if (plan.sum_count == 0) return T{0};
  const Loop& row = plan.row;
  T sum{0};
  for (int64_t o = 0; o < plan.sum_count / row.size; ++o) {
    at = base;
    offsets_at(plan.summed, o, at);
    for (int64_t k = 0; k < row.size; ++k) {
      T product{1};
      for (size_t i = 0; i < data.size(); ++i) product *= data[i][at[i] + k * row.strides[i]];
      sum += product;
    }
  }
  return sum;
}

Kernel prepare_einsum(const NodeContext& c) {
  for (int i = 1; i < c.input_count(); ++i) {
    if (c.dtype(i) != c.dtype(0)) c.invalid("operands have different types");
  }
  const EinsumPlan plan = plan_einsum(c);
  return by_float(c, c.dtype(0), [&]<class T>(T) {
    return Kernel{"einsum_ref", [plan](const KernelArgs& args) {
                    std::vector<const T*> data;
                    for (const TensorView& view : args.inputs) data.push_back(view.as<const T>());
                    T* y = args.outputs[0].as<T>();
                    parallel_for(0, plan.out_count, 64, [&](int64_t from, int64_t to) {
                      std::vector<int64_t> base(data.size());
                      std::vector<int64_t> at(data.size());
                      for (int64_t i = from; i < to; ++i) {
                        base.assign(data.size(), 0);
                        offsets_at(plan.kept, i, base);
                        y[i] = sum_at(plan, data, base, at);
                      }
                    });
                  }};
  });
}

constexpr OpDef kRows[] = {{"", "Einsum", 12, infer_einsum, prepare_einsum}};

}  // namespace

const std::span<const OpDef> kEinsumOps = kRows;

}  // namespace compress
