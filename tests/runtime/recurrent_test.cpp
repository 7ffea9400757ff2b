// Packed recurrent kernels against the reference ones, over the variants that lowering takes, and
// that it leaves the others alone.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "compress/graph/builder.h"
#include "compress/runtime/session.h"

namespace compress {
namespace {

constexpr int64_t kSteps = 7, kBatch = 3, kInputs = 5, kHidden = 19;

struct Variant {
  std::string op, direction;
  int64_t layout = 0;
  bool states = false, lengths = false, biases = true;
  int64_t linear_before_reset = 0;
  std::vector<std::string> activations = {};  // of one direction; empty: the usual
};

class Network {
 public:
  explicit Network(const Variant& v) : v_(v), directions_(v.direction == "bidirectional" ? 2 : 1) {}

  Model model() {
    GraphBuilder b;
    const bool batch_major = v_.layout == 1;
    const ValueId x = batch_major ? b.input("x", DType::float32, {kBatch, kSteps, kInputs})
                                  : b.input("x", DType::float32, {kSteps, kBatch, kInputs});
    std::vector<ValueId> inputs = {x};
    const bool integer = v_.op == "DynamicQuantizeLSTM";
    const int64_t gates = (integer || v_.op == "LSTM" ? 4 : v_.op == "GRU" ? 3 : 1) * kHidden;
    if (integer) {
      inputs.push_back(b.constant(bytes({directions_, kInputs, gates})));
      inputs.push_back(b.constant(bytes({directions_, kHidden, gates})));
    } else {
      inputs.push_back(b.constant(normal({directions_, gates, kInputs}, 0.5f)));
      inputs.push_back(b.constant(normal({directions_, gates, kHidden}, 0.3f)));
    }
    inputs.push_back(v_.biases ? b.constant(normal({directions_, 2 * gates}, 0.5f)) : kNoValue);
    const std::vector<int32_t> lengths = {7, 2, 5};
    inputs.push_back(v_.lengths ? b.constant(Tensor::from<int32_t>({kBatch}, lengths)) : kNoValue);
    const Shape state =
        batch_major ? Shape{kBatch, directions_, kHidden} : Shape{directions_, kBatch, kHidden};
    const bool lstm = integer || v_.op == "LSTM";
    inputs.push_back(v_.states ? b.constant(normal(state, 0.5f)) : kNoValue);
    if (lstm) inputs.push_back(v_.states ? b.constant(normal(state, 0.5f)) : kNoValue);
    if (integer) {
      inputs.push_back(kNoValue);
      for (int i = 0; i < 2; ++i) {
        Tensor scales = normal({directions_, gates}, 0.001f);
        for (float& s : scales.mutable_as<float>()) s = 0.003f + std::abs(s);
        inputs.push_back(b.constant(scales));
        inputs.push_back(b.constant(Tensor::zeros(DType::int8, {directions_, gates})));
      }
    }
    const std::vector<ValueId> outputs =
        b.op_n(v_.op, lstm ? 3 : 2, inputs, attributes(), integer ? "com.microsoft" : "");
    for (size_t i = 0; i < outputs.size(); ++i) b.output(outputs[i], "y" + std::to_string(i));
    return std::move(b).model(14);
  }

  Tensor feed() {
    return v_.layout == 1 ? normal({kBatch, kSteps, kInputs}) : normal({kSteps, kBatch, kInputs});
  }

 private:
  std::vector<Attribute> attributes() const {
    std::vector<Attribute> list = {attr("hidden_size", kHidden), attr("direction", v_.direction)};
    if (v_.layout != 0) list.push_back(attr("layout", v_.layout));
    if (v_.linear_before_reset != 0) {
      list.push_back(attr("linear_before_reset", v_.linear_before_reset));
    }
    if (!v_.activations.empty()) {
      std::vector<std::string> names;
      for (int64_t d = 0; d < directions_; ++d) {
        names.insert(names.end(), v_.activations.begin(), v_.activations.end());
      }
      list.push_back(attr("activations", names));
    }
    return list;
  }

  Tensor normal(const Shape& shape, float deviation = 1) {
    std::normal_distribution<float> values(0, deviation);
    Tensor tensor = Tensor::allocate(DType::float32, shape);
    for (float& value : tensor.mutable_as<float>()) value = values(random_);
    return tensor;
  }

  Tensor bytes(const Shape& shape) {
    Tensor tensor = Tensor::allocate(DType::int8, shape);
    for (int8_t& value : tensor.mutable_as<int8_t>()) {
      value = static_cast<int8_t>(static_cast<int>(random_() % 255) - 127);
    }
    return tensor;
  }

  const Variant& v_;
  int64_t directions_;
  std::mt19937 random_{7};
};

std::string kernel_of(const Session& session, const std::string& op) {
  for (const KernelRecord& record : session.kernels()) {
    if (record.op == op) return record.kernel;
  }
  return "";
}

std::vector<Variant> variants(const std::string& op) {
  std::vector<Variant> list;
  for (const char* direction : {"forward", "reverse", "bidirectional"}) {
    for (const int64_t layout : {0, 1}) {
      list.push_back({.op = op, .direction = direction, .layout = layout});
      list.push_back({.op = op, .direction = direction, .layout = layout, .states = true});
      list.push_back({.op = op, .direction = direction, .layout = layout, .lengths = true});
    }
    list.push_back({.op = op, .direction = direction, .biases = false});
    if (op == "GRU") {
      list.push_back({.op = op, .direction = direction, .states = true, .linear_before_reset = 1});
      list.push_back({.op = op,
                      .direction = direction,
                      .biases = false,
                      .linear_before_reset = 1,
                      .activations = {"Sigmoid", "Relu"}});
    }
    if (op == "RNN") list.push_back({.op = op, .direction = direction, .activations = {"Relu"}});
  }
  return list;
}

// Of outputs within [-1, 1], but for Relu's and the cell state's.
void check_variant(const Variant& v, const std::string& kernel, double tolerance) {
  CAPTURE(v.op, v.direction, v.layout, v.states, v.lengths, v.biases, v.linear_before_reset);
  Network network(v);
  const Model model = network.model();
  const std::vector<NamedTensor> feed = {{"x", network.feed()}};
  SessionOptions plain;
  plain.lower = false;
  Session lowered(model), oracle(model, plain);
  const std::vector<Tensor> ours = lowered.run(feed), theirs = oracle.run(feed);
  CHECK(kernel_of(lowered, v.op).starts_with(kernel));
  CHECK(kernel_of(oracle, v.op).ends_with("_ref"));
  for (size_t i = 0; i < ours.size(); ++i) {
    REQUIRE(ours[i].shape() == theirs[i].shape());
    const std::vector<double> a = ours[i].to_doubles(), b = theirs[i].to_doubles();
    double worst = 0, top = 1;
    for (size_t k = 0; k < a.size(); ++k) {
      worst = std::max(worst, std::abs(a[k] - b[k]));
      top = std::max(top, std::abs(b[k]));
    }
    CAPTURE(i);
    CHECK(worst <= tolerance * top);
  }
}

}  // namespace

TEST_CASE("packed recurrent kernels give the reference's numbers") {
  // Sums of at most 24 products of size about 1 at 2^-24, and seven steps that pass the error on.
  for (const char* op : {"RNN", "GRU", "LSTM"}) {
    std::string kernel(op);
    std::transform(kernel.begin(), kernel.end(), kernel.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    for (const Variant& v : variants(op)) check_variant(v, kernel + "_f32/", 2e-5);
  }
}

TEST_CASE("the integer LSTM gives the reference's numbers") {
  // The products are exact. Gates differ in their last bits, which can move one state by one of the
  // 255 levels of [-1, 1]: 0.008 times a weight of at most 0.8 in the sum of a gate.
  for (const Variant& v : variants("DynamicQuantizeLSTM")) check_variant(v, "lstm_s8/", 7e-3);
}

TEST_CASE("recurrent nodes of rare kinds keep the reference kernel") {
  const Variant v{
      .op = "LSTM", .direction = "forward", .activations = {"HardSigmoid", "Tanh", "Tanh"}};
  Network network(v);
  Session session(network.model());
  session.run(std::vector<NamedTensor>{{"x", network.feed()}});
  CHECK(kernel_of(session, "LSTM") == "lstm_ref");
}

}  // namespace compress
