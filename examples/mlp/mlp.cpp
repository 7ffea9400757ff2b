// A 10-20-10 network learns y = relu(x A) by gradient descent, one step at a time: what a trainer
// does, with nothing hidden. The graph is ONNX, backward is more nodes of it, and one session runs
// both.
//
//   mlp_example [EPOCHS]
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <numbers>

#include "compress/graph/builder.h"
#include "compress/runtime/session.h"
#include "compress/train/augment.h"
#include "compress/train/autograd.h"

using namespace compress;

namespace {

constexpr int64_t kSamples = 60000, kBatch = 128, kIn = 10, kHidden = 20, kOut = 10;
constexpr float kRate = 0.1f;

// Normal random numbers (Box and Muller) of a counter.
Tensor normal(const Shape& shape, uint64_t seed, double deviation) {
  Tensor tensor = Tensor::allocate(DType::float32, shape);
  const auto uniform = [&](uint64_t i) {
    return (static_cast<double>(train::mixed_bits((seed << 32) + i) >> 11) + 1) * 0x1p-53;
  };
  uint64_t i = 0;
  for (float& value : tensor.mutable_as<float>()) {
    const double radius = std::sqrt(-2 * std::log(uniform(2 * i)));
    value = static_cast<float>(deviation * radius *
                               std::cos(2 * std::numbers::pi * uniform(2 * i + 1)));
    ++i;
  }
  return tensor;
}

// y = relu(x A), the function to be learnt.
Tensor targets(const Tensor& x, const Tensor& a) {
  Tensor y = Tensor::allocate(DType::float32, {kSamples, kOut});
  const TensorData xs = x.read(), as = a.read();
  for (int64_t n = 0; n < kSamples; ++n) {
    for (int64_t j = 0; j < kOut; ++j) {
      float sum = 0;
      for (int64_t i = 0; i < kIn; ++i) {
        sum += xs.as<float>()[static_cast<size_t>(n * kIn + i)] *
               as.as<float>()[static_cast<size_t>(i * kOut + j)];
      }
      y.mutable_as<float>()[static_cast<size_t>(n * kOut + j)] = std::max(sum, 0.0f);
    }
  }
  return y;
}

// Rows [first, first + kBatch) of a matrix, without a copy.
Tensor rows(const Tensor& matrix, int64_t first) {
  const int64_t width = matrix.shape()[1];
  const auto* data = static_cast<const float*>(matrix.identity());
  return Tensor::borrow(DType::float32, {kBatch, width}, data + first * width, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  const int epochs = argc > 1 ? std::atoi(argv[1]) : 5;

  // 1. The network and its loss, as a graph. Parameters are inputs: they change from run to run.
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {kBatch, kIn});
  const ValueId target = b.input("target", DType::float32, {kBatch, kOut});
  const ValueId parameters[] = {
      b.input("w1", DType::float32, {kIn, kHidden}), b.input("b1", DType::float32, {kHidden}),
      b.input("w2", DType::float32, {kHidden, kOut}), b.input("b2", DType::float32, {kOut})};
  const ValueId hidden = b.op("Relu", {b.op("Gemm", {x, parameters[0], parameters[1]})});
  const ValueId y = b.op("Gemm", {hidden, parameters[2], parameters[3]});
  const ValueId error = b.op("Sub", {y, target});
  b.output(b.op("ReduceMean", {b.op("Mul", {error, error})}, {attr("keepdims", int64_t{0})}),
           "loss");
  Model model = std::move(b).model(17);

  // 2. Backward: nodes that compute d loss / d parameter are appended to the same graph.
  const int32_t forward_nodes = model.graph.node_count();
  const auto gradients = train::append_backward(model, model.graph.outputs()[0], parameters);
  for (const ValueId gradient : gradients) model.graph.add_output(gradient);
  fmt::print("{} nodes forward, {} backward\n", forward_nodes,
             model.graph.node_count() - forward_nodes);
  Session session(model);

  // 3. Data, and parameters to start from.
  const Tensor all_x = normal({kSamples, kIn}, 1, 1);
  const Tensor all_y = targets(all_x, normal({kIn, kOut}, 2, 1 / std::sqrt(double{kIn})));
  std::vector<Tensor> values = {
      normal({kIn, kHidden}, 3, std::sqrt(2.0 / kIn)), Tensor::zeros(DType::float32, {kHidden}),
      normal({kHidden, kOut}, 4, std::sqrt(2.0 / kHidden)), Tensor::zeros(DType::float32, {kOut})};
  const char* names[] = {"w1", "b1", "w2", "b2"};

  // 4. Gradient descent.
  double loss = 0;
  for (int epoch = 1; epoch <= epochs; ++epoch) {
    double sum = 0;
    for (int64_t step = 0; step < kSamples / kBatch; ++step) {
      std::vector<NamedTensor> feeds = {{"x", rows(all_x, step * kBatch)},
                                        {"target", rows(all_y, step * kBatch)}};
      for (size_t i = 0; i < 4; ++i) feeds.push_back({names[i], values[i]});
      const std::vector<Tensor> out = session.run(feeds);  // forward and backward
      sum += out[0].to_double();
      for (size_t i = 0; i < 4; ++i) {  // update: w = w - rate * gradient
        Tensor next = Tensor::allocate(DType::float32, values[i].shape());
        const TensorData w = values[i].read(), g = out[i + 1].read();
        for (size_t k = 0; k < w.as<float>().size(); ++k) {
          next.mutable_as<float>()[k] = w.as<float>()[k] - kRate * g.as<float>()[k];
        }
        values[i] = next;
      }
    }
    loss = sum / static_cast<double>(kSamples / kBatch);
    fmt::print("epoch {}: mean squared error {:.5f}\n", epoch, loss);
  }
  return loss < 0.2 ? 0 : 1;
}
