#include "passes/distill/initialize.h"

#include <cmath>
#include <numbers>

#include "compress/train/augment.h"
#include "compress/train/parameters.h"

namespace compress {
namespace {

struct Fans {
  double in = 1, out = 1;
};

// Conv [M, C / g, ...], ConvTranspose [C, M / g, ...], Gemm and MatMul [K, N] (or [N, K]),
// recurrent [directions, gates, K].
Fans fans_of(const Node& reader, const Shape& shape) {
  const bool recurrent = reader.is("LSTM") || reader.is("GRU") || reader.is("RNN");
  if (recurrent) return {static_cast<double>(shape[2]), static_cast<double>(shape[1])};
  const auto window = static_cast<double>(shape.count(2, shape.rank()));
  Fans fans{static_cast<double>(shape[1]) * window, static_cast<double>(shape[0]) * window};
  const bool rows = reader.is("MatMul") || (reader.is("Gemm") && reader.int_or("transB", 0) == 0);
  if (rows || reader.is("ConvTranspose")) std::swap(fans.in, fans.out);
  if (reader.is("Conv") || reader.is("ConvTranspose")) {
    const auto groups = static_cast<double>(reader.int_or("group", 1));
    (reader.is("Conv") ? fans.out : fans.in) /= groups;
  }
  return fans;
}

class Draws {
 public:
  explicit Draws(uint64_t key) : key_(train::mixed_bits(key)) {}
  double uniform() {  // in [0, 1)
    return static_cast<double>(train::mixed_bits(key_ + ++count_) >> 11) * 0x1p-53;
  }
  double normal() {  // Box and Muller
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  uint64_t key_;
  uint64_t count_ = 0;
};

const Node& reader_of(const Graph& graph, const std::string& name) {
  return graph.node(graph.uses(graph.find_value(name))[0].node);
}

}  // namespace

void initialize_weights(Model& model, const std::string& how, uint64_t seed) {
  if (how == "keep") return;
  Graph& graph = model.graph;
  uint64_t place = 0;
  for (const train::Parameter& parameter : train::find_parameters(graph)) {
    const Shape& shape = parameter.initial.shape();
    Draws draws(train::mixed_bits(seed) + place++);
    Tensor tensor = Tensor::zeros(DType::float32, shape);
    const Node& reader = reader_of(graph, parameter.name);
    if (parameter.decays) {
      const Fans fans = fans_of(reader, shape);
      const double bound = std::sqrt(6 / (fans.in + fans.out));
      const double deviation = std::sqrt(2 / fans.in);
      for (float& w : tensor.mutable_as<float>()) {
        w = static_cast<float>(how == "he" ? deviation * draws.normal()
                                           : bound * (2 * draws.uniform() - 1));
      }
    } else {
      const bool gain = reader.op_type.find("Normalization") != std::string::npos &&
                        reader.inputs.size() > 1 &&
                        graph.value(reader.inputs[1]).name == parameter.name;
      if (gain) std::fill_n(tensor.mutable_as<float>().data(), tensor.count(), 1.0f);
    }
    graph.set_constant(graph.find_value(parameter.name), std::move(tensor));
  }
}

}  // namespace compress
