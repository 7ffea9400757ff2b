// Every shared model through every step: results stay the same or close, nothing grows.
#include <filesystem>

#include "compress/error.h"
#include "formats/onnx.h"
#include "tests/passes/channels.h"
#include "tests/passes/support.h"

namespace compress {
namespace {

struct SharedModel {
  std::string name;
  std::map<std::string, Shape> shapes;  // of inputs with unknown dimensions
  double tolerance = 1e-5;              // of optimize, relative to the largest output
};

const std::vector<SharedModel> kModels = {
    {"ad_autoencoder", {}},
    {"dscnn_kws", {}},
    {"efficientnet_lite0", {}},
    {"magika_v3", {{"bytes", {1, 2048}}}},
    {"minilm_l6_v2",
     {{"input_ids", {2, 7}}, {"attention_mask", {2, 7}}, {"token_type_ids", {2, 7}}}},
    {"mnist_cntk", {}},
    // Its BatchNorm scales reach 60 on channels that hardly vary: rounding shows.
    {"mobilenet_v1_025_bn", {}, 1e-4},
    {"nanodet_m", {}, 1e-4},
    {"ppocr_v2_cls", {{"x", {1, 3, 48, 192}}}, 1e-4},
    {"ppocr_v4_rec", {{"x", {1, 3, 48, 64}}}, 1e-4},
    {"resnet8_cifar10", {}},
    {"resnet_large_cifar10", {}},
    {"silero_vad_16k", {{"input", {1, 512}}, {"state", {2, 1, 128}}}},
    // Every result is rounded to float16, and a folded bias moves a rounding.
    {"squeezenet_fp16", {}, 1e-2},
    {"stories260k", {{"input_ids", {1, 8}}}},
    {"ultraface_rfb", {}, 1e-4},
    {"yunet_n_dynamic", {{"input", {1, 3, 64, 64}}}, 1e-4},
};

std::string path_of(const std::string& name) {
  return std::string(COMPRESS_SHARED_DIR) + "/models/" + name + ".onnx";
}

bool is_missing(const std::string& name) {
  if (std::filesystem::exists(path_of(name))) return false;
  WARN("skipped: " << path_of(name) << " is missing");
  return true;
}

TEST_CASE("optimize keeps the results of every shared model", "[models]") {
  for (const SharedModel& row : kModels) {
    if (is_missing(row.name)) continue;
    INFO(row.name);
    const Model before = read_onnx(path_of(row.name));
    Model after = before;
    test::run_step(after, "optimize");
    CHECK(test::model_bytes(after.graph) <= test::model_bytes(before.graph));
    CHECK(after.graph.inputs().size() <= before.graph.inputs().size());
    for (size_t i = 0; i < before.graph.outputs().size(); ++i) {
      CHECK(after.graph.value(after.graph.outputs()[i]).name ==
            before.graph.value(before.graph.outputs()[i]).name);
    }
    const auto feed = random_feed(before, row.shapes, 7);
    CHECK(test::relative_error(test::run(after, feed), test::run(before, feed)) <= row.tolerance);
  }
}

TEST_CASE("efficientnet_lite0's traced padding folds into its Convs", "[models]") {
  if (is_missing("efficientnet_lite0")) return;
  Model model = read_onnx(path_of("efficientnet_lite0"));
  test::run_step(model, "optimize");
  // One Shape and Gather stay: the last Reshape is to [batch, -1].
  CHECK(test::count_ops(model.graph, "Shape") == 1);
  for (const char* op : {"Pad", "ConstantOfShape", "Slice", "Cast", "Constant"}) {
    INFO(op);
    CHECK(test::count_ops(model.graph, op) == 0);
  }
}

TEST_CASE("pruning is exact on every shared model", "[models]") {
  for (const SharedModel& row : kModels) {
    if (is_missing(row.name)) continue;
    for (const char* scope : {"layer", "global"}) {
      INFO(row.name << " " << scope);
      Model model = read_onnx(path_of(row.name));
      const PipelineResult result = test::run_step(model, "prune", {{"scope", scope}});
      const Json& details = result.passes.front().details;
      const auto weights = details["weights"].get<int64_t>();
      const auto zeros = details["zeros"].get<int64_t>();
      REQUIRE(weights > 0);
      for (const Json& layer : details["layers"]) {
        const auto n = layer["weights"].get<int64_t>();
        const auto z = layer["zeros"].get<int64_t>();
        if (std::string(scope) == "layer") CHECK(z == std::llround(0.5 * static_cast<double>(n)));
      }
      if (std::string(scope) == "global") {
        CHECK(zeros == std::llround(0.5 * static_cast<double>(weights)));
      }
    }
  }
}

TEST_CASE("structures of zeros hold on every shared model, or it says why not", "[models]") {
  for (const SharedModel& row : kModels) {
    if (is_missing(row.name)) continue;
    const Model before = read_onnx(path_of(row.name));
    for (const char* granularity : {"2:4", "block:4x4"}) {
      INFO(row.name << " " << granularity);
      Model model = before;
      const PipelineResult result = test::run_step(model, "prune", {{"granularity", granularity}});
      const PassRecord& pass = result.passes.front();
      REQUIRE(pass.details["weights"].get<int64_t>() > 0);
      CHECK(pass.changed);
      for (const Json& layer : pass.details["layers"]) {
        // Tails keep more, and padding of the last block counts as nothing.
        CHECK(layer["sparsity"].get<double>() > 0.2);
        CHECK(layer["sparsity"].get<double>() < 0.8);
      }
      const auto feed = random_feed(before, row.shapes, 7);
      CHECK(std::isfinite(test::relative_error(test::run(model, feed), test::run(before, feed))));
    }
  }
}

TEST_CASE("channels leave every shared model", "[models]") {
  const Json options = {{"granularity", "channel"}, {"sparsity", 0.3}};
  for (const SharedModel& row : kModels) {
    if (is_missing(row.name)) continue;
    INFO(row.name);
    const Model before = read_onnx(path_of(row.name));
    Model model = before;
    const PipelineResult result = test::run_step(model, "prune", options);
    const PassRecord& pass = result.passes.back();
    // A model's last layer, if nothing else, keeps its channels, and says so.
    CHECK_FALSE(pass.skipped.empty());
    CHECK(pass.changed);
    CHECK(test::model_bytes(model.graph) < test::model_bytes(before.graph));
    CHECK(pass.details["parameters"].get<int64_t>() <
          pass.details["parameters_before"].get<int64_t>());
    const auto feed = random_feed(before, row.shapes, 7);
    const Model zeros = test::masked_channels(before, options);
    CHECK(test::relative_error(test::run(model, feed), test::run(zeros, feed)) <= row.tolerance);
  }
}

TEST_CASE("every mode changes a shared model or says why not, and never grows it", "[models]") {
  for (const SharedModel& row : kModels) {
    if (is_missing(row.name)) continue;
    const Model before = read_onnx(path_of(row.name));
    const auto feed = random_feed(before, row.shapes, 7);
    const std::vector<Tensor> reference = test::run(before, feed);
    for (const char* mode : {"static", "dynamic", "weight-only"}) {
      INFO(row.name << " " << mode);
      Model model = before;
      PipelineOptions options;
      if (std::string(mode) == "static") options = test::with_statistics({feed});
      const PipelineResult result = test::run_step(model, "quantize", {{"mode", mode}}, options);
      bool says = false;
      for (const PassRecord& pass : result.passes) {
        if (pass.name == "quantize_model") says = pass.changed || !pass.skipped.empty();
      }
      CHECK(says);
      CHECK(test::model_bytes(model.graph) <= test::model_bytes(before.graph));
      const std::vector<Tensor> outputs = test::run(model, feed);
      CHECK(std::isfinite(test::relative_error(outputs, reference)));
    }
  }
}

}  // namespace
}  // namespace compress
