// Derivatives of RNN, GRU and LSTM.
#include <algorithm>
#include <cctype>

#include "compress/ops/recurrent_loops.h"
#include "compress/train/gradient.h"

namespace compress::train {
namespace {

using namespace recurrent;

void recurrent_cell(Gradient& g) {
  std::vector<ValueId> inputs;
  for (size_t i = kX; i <= kPeepholes; ++i) inputs.push_back(g.in(i));
  for (size_t i = 0; i < 3; ++i) inputs.push_back(g.dy(i));
  std::vector<Attribute> attributes = g.node().attributes;
  attributes.push_back({"of", g.node().op_type, ""});
  const bool lstm = g.node().op_type == "LSTM";
  const std::vector<ValueId> gradients =
      g.gradient_ops("RecurrentGradient", lstm ? 6 : 5, std::move(inputs), std::move(attributes));
  constexpr size_t kSlots[] = {kX, kW, kR, kB, kInitialH, kInitialC};
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (g.wants(kSlots[i])) g.give(kSlots[i], gradients[i]);
  }
}

std::string refuse_recurrent(const Gradient& g) {
  if (g.in(kPeepholes) != kNoValue) return "peepholes";
  if (g.node().float_or("clip", 0) > 0) return "clip";
  if (g.node().int_or("input_forget", 0) != 0) return "input_forget";
  const AttributeValue* given = g.node().attribute("activations");
  if (given == nullptr) return "";
  for (std::string name : std::get<std::vector<std::string>>(*given)) {
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    if (name != "sigmoid" && name != "tanh" && name != "relu") return "activation " + name;
  }
  return "";
}

constexpr GradientDef kRows[] = {
    {"", "RNN", recurrent_cell, refuse_recurrent},
    {"", "GRU", recurrent_cell, refuse_recurrent},
    {"", "LSTM", recurrent_cell, refuse_recurrent},
};

}  // namespace

const std::span<const GradientDef> kRecurrentRows = kRows;

}  // namespace compress::train
