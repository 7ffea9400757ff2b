// Writes four small classifiers of 28 x 28 images, untrained, in the styles that phones use.
//
//   make_light_nets FOLDER
#include <fmt/format.h>

#include "compress/graph/builder.h"
#include "compress/ops/op.h"
#include "formats/onnx.h"

using namespace compress;

namespace {

using Ints = std::vector<int64_t>;

// A feature map: [batch, channels, size, size].
struct Map {
  ValueId id = kNoValue;
  int64_t channels = 1, size = 28;
};

enum class Act { none, relu, relu6, silu };

class Net {
 public:
  Net() {
    const int64_t batch = b_.graph().symbol("batch");
    image.id = b_.graph().add_input("image", {DType::float32, true, Shape{batch, 1, 28, 28}});
  }

  Map image;

  // k x k without bias, BatchNormalization, activation.
  Map conv(Map x, int64_t channels, int64_t k, int64_t stride, Act act, int64_t groups = 1) {
    const std::string name = fmt::format("conv{}", ++layers_);
    const ValueId w = filled({channels, x.channels / groups, k, k}, 0, name + ".weight");
    const int64_t pad = k / 2;
    x.id = b_.op("Conv", {x.id, w},
                 {attr("kernel_shape", Ints{k, k}), attr("strides", Ints{stride, stride}),
                  attr("pads", Ints{pad, pad, pad, pad}), attr("group", groups)});
    x.channels = channels;
    x.size = (x.size + stride - 1) / stride;
    const auto norm = [&](float value, const char* part) {
      return filled({channels}, value, name + part);
    };
    x.id = b_.op("BatchNormalization", {x.id, norm(1, ".gain"), norm(0, ".shift"), norm(0, ".mean"),
                                        norm(1, ".variance")});
    return activate(x, act);
  }
  Map depthwise(const Map& x, int64_t k, int64_t stride, Act act) {
    return conv(x, x.channels, k, stride, act, x.channels);
  }

  Map activate(Map x, Act act) {
    if (act == Act::relu) x.id = b_.op("Relu", {x.id});
    if (act == Act::relu6) {
      x.id = b_.op("Clip",
                   {x.id, b_.constant(Tensor::scalar(0.0f)), b_.constant(Tensor::scalar(6.0f))});
    }
    if (act == Act::silu) x.id = b_.op("Mul", {x.id, b_.op("Sigmoid", {x.id})});
    return x;
  }

  Map add(Map x, const Map& y) {
    x.id = b_.op("Add", {x.id, y.id});
    return x;
  }
  Map concat(Map x, const Map& y) {
    x.id = b_.op("Concat", {x.id, y.id}, {attr("axis", int64_t{1})});
    x.channels += y.channels;
    return x;
  }
  std::pair<Map, Map> halves(const Map& x) {
    const std::vector<ValueId> parts = b_.op_n("Split", 2, {x.id}, {attr("axis", int64_t{1})});
    return {{parts[0], x.channels / 2, x.size}, {parts[1], x.channels / 2, x.size}};
  }
  // Channels of two halves in turn.
  Map shuffle(Map x) {
    const auto reshape = [&](const Ints& shape) {
      const auto n = static_cast<int64_t>(shape.size());
      const ValueId to = b_.constant(Tensor::from<int64_t>({n}, std::span<const int64_t>(shape)));
      x.id = b_.op("Reshape", {x.id, to});
    };
    reshape({0, 2, x.channels / 2, x.size, x.size});
    x.id = b_.op("Transpose", {x.id}, {attr("perm", Ints{0, 2, 1, 3, 4})});
    reshape({0, x.channels, x.size, x.size});
    return x;
  }
  // Channels are weighed by what the whole plane holds.
  Map squeeze_excite(Map x, int64_t inner) {
    const std::string name = fmt::format("gate{}", ++layers_);
    const auto dense = [&](ValueId from, const Shape& shape, const char* part) {
      return b_.op("Conv", {from, filled(shape, 0, name + part + ".weight"),
                            filled({shape[0]}, 0, name + part + ".bias")});
    };
    ValueId gate = b_.op("GlobalAveragePool", {x.id});
    gate = b_.op("Relu", {dense(gate, {inner, x.channels, 1, 1}, ".down")});
    gate = b_.op("Sigmoid", {dense(gate, {x.channels, inner, 1, 1}, ".up")});
    x.id = b_.op("Mul", {x.id, gate});
    return x;
  }

  void classify_and_write(const Map& x, const std::string& path) {
    const ValueId pooled = b_.op("Flatten", {b_.op("GlobalAveragePool", {x.id})});
    const ValueId logits = b_.op("Gemm", {pooled, filled({x.channels, 10}, 0, "classes.weight"),
                                          filled({10}, 0, "classes.bias")});
    b_.output(b_.op("Softmax", {logits}), "probabilities");
    WriteOptions options;
    options.overwrite = true;
    Model model = std::move(b_).model(17);
    infer_types(model);
    write_onnx(model, path, options);
  }

 private:
  ValueId filled(const Shape& shape, float value, const std::string& name) {
    Tensor tensor = Tensor::zeros(DType::float32, shape);
    for (float& x : tensor.mutable_as<float>()) x = value;
    return b_.constant(tensor, name);
  }

  GraphBuilder b_;
  int layers_ = 0;
};

// Sandler et al. 2018: wide inside, narrow and linear between.
void mobilenet_v2(const std::string& path) {
  Net net;
  const auto block = [&](const Map& x, int64_t channels, int64_t stride) {
    Map y = net.conv(x, 4 * x.channels, 1, 1, Act::relu6);
    y = net.conv(net.depthwise(y, 3, stride, Act::relu6), channels, 1, 1, Act::none);
    return stride == 1 && channels == x.channels ? net.add(y, x) : y;
  };
  Map x = net.conv(net.image, 12, 3, 2, Act::relu6);
  for (const auto& [channels, stride] : {std::pair{12, 1}, {20, 2}, {20, 1}, {20, 1}}) {
    x = block(x, channels, stride);
  }
  net.classify_and_write(net.conv(x, 64, 1, 1, Act::relu6), path);
}

// Ma et al. 2018: half of the channels pass by, then both halves mix.
void shufflenet_v2(const std::string& path) {
  Net net;
  const auto branch = [&](const Map& x, int64_t channels, int64_t stride) {
    const Map y = net.depthwise(net.conv(x, channels, 1, 1, Act::relu), 3, stride, Act::none);
    return net.conv(y, channels, 1, 1, Act::relu);
  };
  Map x = net.conv(net.image, 16, 3, 2, Act::relu);
  const Map left = net.conv(net.depthwise(x, 3, 2, Act::none), 24, 1, 1, Act::relu);
  x = net.shuffle(net.concat(left, branch(x, 24, 2)));
  for (int i = 0; i < 3; ++i) {
    const auto [kept, changed] = net.halves(x);
    x = net.shuffle(net.concat(kept, branch(changed, 24, 1)));
  }
  net.classify_and_write(net.conv(x, 64, 1, 1, Act::relu), path);
}

// Tan and Le 2019: MobileNetV2's blocks with gates over channels, SiLU, and 5 x 5 windows.
void efficientnet(const std::string& path) {
  Net net;
  const auto block = [&](const Map& x, int64_t channels, int64_t k, int64_t stride) {
    Map y = net.conv(x, 4 * x.channels, 1, 1, Act::silu);
    y = net.squeeze_excite(net.depthwise(y, k, stride, Act::silu),
                           std::max<int64_t>(x.channels / 2, 4));
    y = net.conv(y, channels, 1, 1, Act::none);
    return stride == 1 && channels == x.channels ? net.add(y, x) : y;
  };
  Map x = net.conv(net.image, 12, 3, 2, Act::silu);
  x = block(block(block(x, 12, 3, 1), 20, 5, 2), 20, 5, 1);
  net.classify_and_write(net.conv(x, 64, 1, 1, Act::silu), path);
}

// Han et al. 2020: half of a layer's channels are cheap depthwise copies of the other half.
void ghostnet(const std::string& path) {
  Net net;
  const auto ghost = [&](const Map& x, int64_t channels, Act act) {
    const Map y = net.conv(x, channels / 2, 1, 1, act);
    return net.concat(y, net.depthwise(y, 3, 1, act));
  };
  const auto block = [&](const Map& x, int64_t channels, int64_t stride) {
    Map y = ghost(x, 4 * x.channels, Act::relu);
    if (stride > 1) y = net.depthwise(y, 3, stride, Act::none);
    y = ghost(y, channels, Act::none);
    return stride == 1 && channels == x.channels ? net.add(y, x) : y;
  };
  Map x = net.conv(net.image, 12, 3, 2, Act::relu);
  for (const auto& [channels, stride] : {std::pair{12, 1}, {24, 2}, {24, 1}}) {
    x = block(x, channels, stride);
  }
  net.classify_and_write(net.conv(x, 64, 1, 1, Act::relu), path);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string folder = argc > 1 ? argv[1] : ".";
  mobilenet_v2(folder + "/mobilenet_v2.onnx");
  shufflenet_v2(folder + "/shufflenet_v2.onnx");
  efficientnet(folder + "/efficientnet.onnx");
  ghostnet(folder + "/ghostnet.onnx");
}
