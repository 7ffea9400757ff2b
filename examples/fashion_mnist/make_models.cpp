// Writes the networks of this example as ONNX files, untrained: the CNN and a small student.
//
//   make_fashion_models FOLDER
#include <fmt/format.h>

#include "compress/graph/builder.h"
#include "compress/ops/op.h"
#include "formats/onnx.h"

using namespace compress;

namespace {

using Ints = std::vector<int64_t>;

class Network {
 public:
  Network() {
    const int64_t batch = b_.graph().symbol("batch");
    y_ = b_.graph().add_input("image", {DType::float32, true, Shape{batch, 1, 28, 28}});
  }

  // 3 x 3, the same size, relu, then the larger of 2 x 2.
  Network& conv_pool(int64_t channels) {
    const std::string name = fmt::format("conv{}", ++layers_);
    const ValueId w = zeros({channels, channels_, 3, 3}, name + ".weight");
    y_ = b_.op("Conv", {y_, w, zeros({channels}, name + ".bias")},
               {attr("kernel_shape", Ints{3, 3}), attr("pads", Ints{1, 1, 1, 1})});
    y_ = b_.op("MaxPool", {b_.op("Relu", {y_})},
               {attr("kernel_shape", Ints{2, 2}), attr("strides", Ints{2, 2})});
    channels_ = channels;
    size_ /= 2;
    return *this;
  }
  Network& flatten() {
    y_ = b_.op("Flatten", {y_});
    width_ = channels_ * size_ * size_;
    return *this;
  }
  Network& dense(int64_t width, const char* activation) {
    const std::string name = fmt::format("dense{}", ++layers_);
    const ValueId w = zeros({width_, width}, name + ".weight");
    y_ = b_.op("Gemm", {y_, w, zeros({width}, name + ".bias")});
    y_ = b_.op(activation, {y_});
    width_ = width;
    return *this;
  }
  void write(const std::string& path) {
    b_.output(y_, "probabilities");
    WriteOptions options;
    options.overwrite = true;
    Model model = std::move(b_).model(17);
    infer_types(model);
    write_onnx(model, path, options);
  }

 private:
  ValueId zeros(const Shape& shape, const std::string& name) {
    return b_.constant(Tensor::zeros(DType::float32, shape), name);
  }

  GraphBuilder b_;
  ValueId y_;
  int layers_ = 0;
  int64_t channels_ = 1, size_ = 28, width_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string folder = argc > 1 ? argv[1] : ".";
  Network()
      .conv_pool(32)
      .conv_pool(64)
      .flatten()
      .dense(128, "Relu")
      .dense(10, "Softmax")
      .write(folder + "/cnn.onnx");
  Network()
      .conv_pool(8)
      .conv_pool(16)
      .flatten()
      .dense(32, "Relu")
      .dense(10, "Softmax")
      .write(folder + "/student.onnx");
}
