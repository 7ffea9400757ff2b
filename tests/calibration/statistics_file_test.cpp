#include "calibration/calibrator.h"
#include "compress/core/parallel.h"
#include "formats/arrays.h"
#include "tests/calibration/support.h"

namespace compress {
namespace {

Model relu_model() {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {-1, 2, 3});
  const ValueId y =
      b.op("Relu", {b.op("Mul", {x, b.constant(Tensor::scalar<float>(2.0f), "two")})});
  b.output(y, "y");
  return std::move(b).model();
}

std::string product_name(const Model& model) {
  for (const NodeId id : model.graph.order()) {
    const Node& node = model.graph.node(id);
    if (node.op_type == "Mul") return model.graph.value(node.outputs[0]).name;
  }
  return "";
}

StatisticsSet collect(const Model& model, const std::vector<int64_t>& indices,
                      const std::string& path) {
  const auto source = open(path, model);
  const StatisticsRequests wanted = {{"x", {.histogram = true}},
                                     {product_name(model),
                                      {.histogram = true,
                                       .channel_absmax = true,
                                       .channel_sum = true,
                                       .channel_axis = 1,
                                       .gram = true}},
                                     {"y", {}}};
  return collect_statistics(model, *source, indices, wanted);
}

}  // namespace

TEST_CASE("statistics are collected, written, read back and merged") {
  const Scratch scratch;
  const Model model = relu_model();
  Tensor x = Tensor::allocate(DType::float32, {5, 2, 3});
  for (size_t i = 0; i < 30; ++i) x.mutable_as<float>()[i] = static_cast<float>(i) - 10;
  write_npz(scratch / "x.npz", {{"x", x}}, false);
  const StatisticsSet all = collect(model, {0, 1, 2, 3, 4}, scratch / "x.npz");
  CHECK(all.samples == 5);
  CHECK(all.fingerprint == fingerprint(model));
  REQUIRE(all.values.size() == 3);
  const Statistics& product = all.values.at(product_name(model));
  CHECK(product.min == -20);
  CHECK(product.max == 38);
  CHECK(product.count == 30);
  CHECK(product.batches == 5);
  CHECK(product.channel_absmax == std::vector<float>{32, 38});
  CHECK(product.channel_sum == std::vector<double>{90, 180});
  CHECK(product.channel_count == 15);
  CHECK(product.gram_rows == 10);
  CHECK(all.values.at("y").min == 0);
  CHECK(all.values.at("x").max == 19);
  CHECK(all.values.at("y").histogram.empty);

  const DataFiles files = data_files();
  write_statistics(all, scratch / "all.npz", false, files);
  write_statistics(all, scratch / "again.npz", false, files);
  CHECK(read_all(scratch / "all.npz") == read_all(scratch / "again.npz"));
  const StatisticsSet back = read_statistics(scratch / "all.npz", files);
  write_statistics(back, scratch / "back.npz", false, files);
  CHECK(read_all(scratch / "all.npz") == read_all(scratch / "back.npz"));

  StatisticsSet merged = collect(model, {0, 1}, scratch / "x.npz");
  merge_statistics(merged, collect(model, {2, 3, 4}, scratch / "x.npz"));
  write_statistics(merged, scratch / "merged.npz", false, files);
  CHECK(read_all(scratch / "merged.npz") == read_all(scratch / "all.npz"));

  const int before = thread_count();
  set_thread_count(3);
  write_statistics(collect(model, {0, 1, 2, 3, 4}, scratch / "x.npz"), scratch / "threads.npz",
                   false, files);
  set_thread_count(before);
  CHECK(read_all(scratch / "threads.npz") == read_all(scratch / "all.npz"));

  StatisticsSet other = back;
  other.fingerprint[0] ^= 1;
  CHECK_THROWS_WITH(merge_statistics(merged, other), Catch::Contains("different models"));
}

TEST_CASE("data with NaN or infinity is refused, naming the sample") {
  const Scratch scratch;
  Tensor x = Tensor::zeros(DType::float32, {3, 2, 3});
  x.mutable_as<float>()[7] = std::nanf("");
  write_npz(scratch / "x.npz", {{"x", x}}, false);
  CHECK_THROWS_WITH(collect(relu_model(), {0, 1}, scratch / "x.npz"),
                    Catch::Contains("sample 1 of the data holds NaN"));
  CHECK(collect(relu_model(), {0, 2}, scratch / "x.npz").samples == 2);
}

TEST_CASE("the fingerprint follows structure and constants, not how the graph came about") {
  const Model model = relu_model();
  const std::string original = fingerprint(model);
  CHECK(original.size() == 64);
  Model same = model;
  same.producer_name = "somebody";
  const ValueId unused = same.graph.add_constant("unused", Tensor::scalar<float>(1));
  CHECK(fingerprint(same) == original);
  same.graph.erase_value(unused);
  CHECK(fingerprint(same) == original);

  Model constant = model;
  constant.graph.set_constant(constant.graph.find_value("two"), Tensor::scalar<float>(2.5f));
  CHECK(fingerprint(constant) != original);
  Model renamed = model;
  renamed.graph.rename(renamed.graph.find_value("y"), "z");
  CHECK(fingerprint(renamed) != original);
  Model attribute = model;
  attribute.graph.edit(attribute.graph.order()[0]).set_attribute("a", int64_t{1});
  CHECK(fingerprint(attribute) != original);
  Model opset = model;
  opset.opsets[""] = 18;
  CHECK(fingerprint(opset) != original);
}

TEST_CASE("statistics files that are broken are refused") {
  const Scratch scratch;
  const DataFiles files = data_files();
  const auto refused = [&](const std::vector<NamedTensor>& arrays, const std::string& header) {
    write_npz(scratch / "s.npz", arrays, true, {{"header.json", header}});
    try {
      read_statistics(scratch / "s.npz", files);
      return std::string();
    } catch (const Error& error) {
      CHECK(error.code() != ErrorCode::internal);
      return std::string(error.what());
    }
  };
  const std::string good =
      R"({"schema": "compress.statistics/1", "fingerprint": "f", "samples": 1, "seed": 0, "data": ""})";
  CHECK(refused({{"v/min", Tensor::scalar<float>(0)}}, good).empty());
  CHECK_THAT(refused({}, "{}"), Catch::Contains("'schema' is missing"));
  CHECK_THAT(refused({}, R"({"schema": "x"})"), Catch::Contains("schema 'x'"));
  CHECK_THAT(refused({{"v", Tensor::scalar<float>(0)}}, good), Catch::Contains("no array of"));
  CHECK_THAT(refused({{"v/mean", Tensor::scalar<float>(0)}}, good), Catch::Contains("'mean'"));
  CHECK_THAT(refused({{"v/min", Tensor::scalar<double>(0)}}, good), Catch::Contains("float32 []"));
  CHECK_THAT(refused({{"v/min", Tensor::scalar<float>(1)}}, good), Catch::Contains("no range"));
  CHECK_THAT(refused({{"v/count", Tensor::scalar<int64_t>(-1)}}, good),
             Catch::Contains("negative"));
  CHECK_THAT(refused({{"v/hist", Tensor::zeros(DType::int64, {7})}}, good),
             Catch::Contains("[2048]"));
  CHECK_THAT(refused({{"v/hist", Tensor::zeros(DType::int64, {2048})},
                      {"v/hist_exponent", Tensor::scalar<int32_t>(1000)}},
                     good),
             Catch::Contains("absurd"));
}

}  // namespace compress
