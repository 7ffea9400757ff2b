// Writes the models and data that the command-line tests use: a real classifier (scores are
// distances to the mean image of each class of Fashion-MNIST, or of seeded images where that is not
// installed), once as a convolution and once as a matrix product.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "formats/arrays.h"
#include "formats/onnx.h"

using namespace compress;

namespace {

constexpr int64_t kClasses = 10;
constexpr int64_t kPixels = 28 * 28;

struct Images {
  std::vector<float> pixels;  // 0..1
  std::vector<int64_t> labels;
  int64_t count() const { return static_cast<int64_t>(labels.size()); }
};

Images fashion(const std::string& folder, const std::string& name, int64_t count) {
  const Tensor images = read_idx(folder + "/" + name + "-images-idx3-ubyte.gz");
  const Tensor labels = read_idx(folder + "/" + name + "-labels-idx1-ubyte.gz");
  const TensorData pixels = images.read();
  const std::vector<int64_t> all = labels.to_ints();
  Images out;
  for (int64_t i = 0; i < count; ++i) {
    out.labels.push_back(all[static_cast<size_t>(i)]);
    for (int64_t p = 0; p < kPixels; ++p) {
      out.pixels.push_back(
          static_cast<float>(pixels.as<uint8_t>()[static_cast<size_t>(i * kPixels + p)]) / 255.0f);
    }
  }
  return out;
}

// A bright band at a height that depends on the class, under noise.
Images seeded(uint32_t seed, int64_t count) {
  Images out;
  for (int64_t i = 0; i < count; ++i) {
    out.labels.push_back(i % kClasses);
    for (int64_t p = 0; p < kPixels; ++p) {
      seed = seed * 1664525 + 1013904223;
      const float noise = static_cast<float>(seed >> 8) / static_cast<float>(1 << 24);
      const bool band = p / 28 / 3 == i % kClasses;
      out.pixels.push_back(0.7f * noise + (band ? 0.3f : 0.0f));
    }
  }
  return out;
}

// Row c: the mean image of class c; then -|mean|^2 / 2 for each class.
std::pair<std::vector<float>, std::vector<float>> means_of(const Images& images) {
  std::vector<double> sums(kClasses * kPixels, 0);
  std::vector<int64_t> counts(kClasses, 0);
  for (int64_t i = 0; i < images.count(); ++i) {
    const int64_t c = images.labels[static_cast<size_t>(i)];
    ++counts[static_cast<size_t>(c)];
    for (int64_t p = 0; p < kPixels; ++p) {
      sums[static_cast<size_t>(c * kPixels + p)] +=
          images.pixels[static_cast<size_t>(i * kPixels + p)];
    }
  }
  std::vector<float> means(sums.size()), bias(kClasses);
  for (int64_t c = 0; c < kClasses; ++c) {
    double power = 0;
    for (int64_t p = 0; p < kPixels; ++p) {
      const size_t at = static_cast<size_t>(c * kPixels + p);
      means[at] =
          static_cast<float>(sums[at] / static_cast<double>(counts[static_cast<size_t>(c)]));
      power += means[at] * means[at];
    }
    bias[static_cast<size_t>(c)] = static_cast<float>(-power / 2);
  }
  return {means, bias};
}

// Outputs of a file have types.
Model finish(GraphBuilder b, ValueId scores) {
  b.output(scores, "scores");
  b.graph().set_type(scores, {DType::float32, true, Shape({kUnknownDim, kClasses})});
  return std::move(b).model(13);
}

// `batch` of -1: any.
Model convolution(const std::vector<float>& means, const std::vector<float>& bias,
                  int64_t batch = -1) {
  GraphBuilder b;
  const ValueId x = b.input("image", DType::float32, {batch, 1, 28, 28});
  const ValueId w = b.constant(
      Tensor::from<float>({kClasses, 1, 28, 28}, std::span<const float>(means)), "means");
  const ValueId c =
      b.constant(Tensor::from<float>({kClasses}, std::span<const float>(bias)), "bias");
  const ValueId y = b.op("Conv", {x, w, c});
  const ValueId scores = b.op("Flatten", {y});
  return finish(std::move(b), scores);
}

Model product(const std::vector<float>& means, const std::vector<float>& bias,
              const std::string& input = "image") {
  std::vector<float> transposed(means.size());
  for (int64_t c = 0; c < kClasses; ++c) {
    for (int64_t p = 0; p < kPixels; ++p) {
      transposed[static_cast<size_t>(p * kClasses + c)] =
          means[static_cast<size_t>(c * kPixels + p)];
    }
  }
  GraphBuilder b;
  const ValueId x = b.op("Flatten", {b.input(input, DType::float32, {-1, 1, 28, 28})});
  const ValueId w = b.constant(
      Tensor::from<float>({kPixels, kClasses}, std::span<const float>(transposed)), "means");
  const ValueId c =
      b.constant(Tensor::from<float>({kClasses}, std::span<const float>(bias)), "bias");
  const ValueId scores = b.op("Add", {b.op("MatMul", {x, w}), c});
  return finish(std::move(b), scores);
}

Model unsupported() {
  GraphBuilder b;
  const ValueId x = b.input("image", DType::float32, {-1, 1, 28, 28});
  const ValueId scores = b.op("NoSuchOperator", {x}, {}, "example.org");
  return finish(std::move(b), scores);
}

// Nodes without names, as many exporters leave them; with a bias that is too short, or with an
// input whose shape is not said or has a 0.
Model nameless(const std::vector<float>& means, const std::vector<float>& bias, TypeInfo image) {
  GraphBuilder b;
  const ValueId x = b.graph().add_input("image", std::move(image));
  const ValueId w = b.constant(
      Tensor::from<float>({kClasses, 1, 28, 28}, std::span<const float>(means)), "means");
  const auto count = static_cast<int64_t>(bias.size());
  const ValueId c = b.constant(Tensor::from<float>({count}, std::span<const float>(bias)), "bias");
  const ValueId scores = b.op("Flatten", {b.op("Conv", {x, w, c})});
  Model model = finish(std::move(b), scores);
  for (NodeId id = 0; id < model.graph.node_slots(); ++id) model.graph.edit(id).name.clear();
  return model;
}

// A language model of 128 words: a word is followed by that of thrice its number, plus one.
Model decoder() {
  constexpr int64_t kWords = 128;
  Tensor next = Tensor::zeros(DType::float32, {kWords, kWords});
  for (int64_t i = 0; i < kWords; ++i) {
    next.mutable_as<float>()[static_cast<size_t>(i * kWords + (3 * i + 1) % kWords)] = 1;
  }
  GraphBuilder b;
  const ValueId ids = b.input("input_ids", DType::int64, {-1, -1});
  const ValueId logits = b.op("Gather", {b.constant(next, "next"), ids});
  b.graph().set_type(logits, {DType::float32, true, {-1, -1, kWords}});
  b.output(logits, "logits");
  return std::move(b).model();
}

Model two_inputs() {
  GraphBuilder b;
  const ValueId left = b.input("left", DType::float32, {-1, kClasses});
  const ValueId right = b.input("right", DType::float32, {-1, kClasses});
  return finish(std::move(b), b.op("Add", {left, right}));
}

void write_arrays(const std::string& path, const Images& images) {
  write_npz(
      path,
      {{"image",
        Tensor::from<float>({images.count(), 1, 28, 28}, std::span<const float>(images.pixels))},
       {"label", Tensor::from<int64_t>({images.count()}, std::span<const int64_t>(images.labels))}},
      true);
}

void write_all(const std::string& out, const std::string& fashion_folder) {
  const bool installed = std::filesystem::is_directory(fashion_folder);
  const Images train = installed ? fashion(fashion_folder, "train", 5000) : seeded(1, 2000);
  const Images test = installed ? fashion(fashion_folder, "t10k", 400) : seeded(2, 400);
  const auto [means, bias] = means_of(train);
  WriteOptions options;
  options.overwrite = true;
  write_onnx(convolution(means, bias), out + "/conv.onnx", options);
  write_onnx(product(means, bias), out + "/dense.onnx", options);
  write_onnx(product(means, bias, "picture"), out + "/renamed.onnx", options);
  write_onnx(convolution(means, bias, 1), out + "/fixed.onnx", options);
  write_onnx(unsupported(), out + "/unsupported.onnx", options);
  const std::vector<float> short_bias(3, 0.0f);
  write_onnx(nameless(means, short_bias, {DType::float32, true, {-1, 1, 28, 28}}),
             out + "/short_bias.onnx", options);
  write_onnx(nameless(means, bias, {DType::float32, false, {}}), out + "/shapeless.onnx", options);
  write_onnx(nameless(means, bias, {DType::float32, true, {0, 1, 28, 28}}), out + "/zero.onnx",
             options);
  write_onnx(two_inputs(), out + "/two_inputs.onnx", options);
  write_onnx(decoder(), out + "/decoder.onnx", options);
  write_arrays(out + "/test.npz", test);
  write_npz(out + "/unlabelled.npz",
            {{"image",
              Tensor::from<float>({test.count(), 1, 28, 28}, std::span<const float>(test.pixels))}},
            true);
  write_npz(out + "/other_labels.npz",
            {{"image", Tensor::zeros(DType::float32, {4, 1, 28, 28})},
             {"label", Tensor::from<int64_t>({4}, {1, 2, 99, 4})}},
            true);
  write_npz(out + "/other_names.npz",
            {{"a", Tensor::zeros(DType::float32, {4, kClasses})},
             {"b", Tensor::zeros(DType::float32, {4, kClasses})}},
            true);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: make_fixtures FOLDER FASHION_MNIST_FOLDER\n");
    return 2;
  }
  try {
    write_all(argv[1], argv[2]);
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
  return 0;
}
