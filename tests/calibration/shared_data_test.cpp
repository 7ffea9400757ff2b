// Every shared data set with the model it belongs to.
#include "formats/onnx.h"
#include "tests/calibration/support.h"

namespace compress {
namespace {

struct Case {
  const char* model;
  std::string data;  // below data/, or an inline spec with DATA for that folder
  const char* labels;
  int64_t samples;
  bool labelled;
  Shape input;  // of the first input, first sample
  DType dtype;
};

std::string spec(const char* text) {
  std::string out = text;
  for (size_t at; (at = out.find("DATA")) != std::string::npos;) {
    out.replace(at, 4, std::string(COMPRESS_SHARED_DIR) + "/data");
  }
  return out;
}

}  // namespace

TEST_CASE("every shared data set feeds its model") {
  if (shared("data").empty() || shared("models").empty()) return;
  const std::string kImages =
      R"({"images": "DATA/imagenet500", "labels": "DATA/imagenet500/labels.csv",
      "resize": 256, "crop": 224, "interpolation": "bicubic", "layout": "nchw", )";
  const std::vector<Case> cases = {
      {"efficientnet_lite0",
       kImages + R"("mean": [127,127,127], "std": [128,128,128]})",
       "",
       500,
       true,
       {1, 3, 224, 224},
       DType::float32},
      {"mobilenet_v1_025_bn",
       kImages + R"("mean": 127.5, "std": 127.5})",
       "",
       500,
       true,
       {1, 3, 224, 224},
       DType::float32},
      {"squeezenet_fp16",
       kImages + R"("color": "bgr", "mean": [103.939,116.779,123.68]})",
       "",
       500,
       true,
       {1, 3, 224, 224},
       DType::float16},
      {"efficientnet_lite0", "imagenet500", "", 500, true, {1, 3, 224, 224}, DType::float32},
      {"resnet8_cifar10", "cifar10/test.npz", "", 2000, true, {1, 32, 32, 3}, DType::float32},
      {"resnet_large_cifar10", "cifar10/train.npz", "", 4000, true, {1, 32, 32, 3}, DType::float32},
      {"mnist_cntk",
       "mnist/t10k-images-idx3-ubyte.gz",
       "mnist/t10k-labels-idx1-ubyte.gz",
       10000,
       true,
       {1, 1, 28, 28},
       DType::float32},
      {"magika_v3", "magika/files.npz", "", 268, true, {1, 2048}, DType::int32},
      {"minilm_l6_v2", "stsb/dev.npz", "stsb/dev_scores.npy", 1500, false, {1, 64}, DType::int64},
      {"stories260k", "tinystories/eval.npz", "", 21, true, {1, 128}, DType::int64},
      {"stories260k", "tinystories/calib.npz", "", 64, false, {1, 128}, DType::int64},
  };
  for (const Case& c : cases) {
    INFO(c.model << " " << c.data);
    const Model model = read_onnx(shared(std::string("models/") + c.model + ".onnx"));
    const std::string data = std::string(COMPRESS_SHARED_DIR) + "/data/";
    const auto source = open(c.data[0] == '{' ? spec(c.data.c_str()) : data + c.data, model,
                             *c.labels ? data + c.labels : "");
    CHECK(source->size() == c.samples);
    CHECK(source->labelled() == c.labelled);
    const Sample sample = source->get(c.samples - 1);
    CHECK(sample.inputs[0].tensor.shape() == c.input);
    CHECK(sample.inputs[0].tensor.dtype() == c.dtype);
    if (c.labelled) CHECK(sample.label->shape()[0] == 1);
    CHECK(source->pair_scores().size() ==
          (c.labels == std::string("stsb/dev_scores.npy") ? 750 : 0));
  }
  const Model stories = read_onnx(shared("models/stories260k.onnx"));
  const auto tokens = open(shared("data/tinystories/eval.npz"), stories);
  CHECK(tokens->get(0).label->shape() == Shape{1, 128});
  CHECK_THAT(refusal(shared("data/tinystories/sample.txt"), stories),
             Catch::Contains("not tokenized here"));
}

}  // namespace compress
