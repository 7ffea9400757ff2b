// Removal of attention heads, as exporters write attention. The oracle: a model without some heads
// computes what the model computes in which all their weights are zero.
#include <functional>

#include "compress/error.h"
#include "tests/passes/channels.h"

namespace compress {
namespace {

using test::run_step;

constexpr int64_t kWidth = 6, kHead = 4;  // of tokens; of a head
constexpr int64_t kSymbol = -7;           // a length that the model leaves open

Tensor wide(const Shape& shape, uint32_t seed) {
  return convert(test::random_tensor(shape, seed, 0.5f), DType::float64);
}

// Attention over tokens x [2, length, kWidth] in float64.
class Attention {
 public:
  GraphBuilder b;
  ValueId x;

  explicit Attention(int64_t length = 5) { x = b.input("x", DType::float64, {2, length, kWidth}); }

  ValueId weights(const Shape& shape, const char* name = "w") {
    return b.constant(wide(shape, ++seed_), name);
  }
  ValueId ints(std::initializer_list<int64_t> values) { return b.constant(test::ints(values)); }
  ValueId number(int64_t value) { return b.constant(Tensor::scalar<int64_t>(value)); }
  ValueId dense(ValueId in, int64_t inputs, int64_t outputs) {
    return b.op("Add", {weights({outputs}), b.op("MatMul", {in, weights({inputs, outputs})})});
  }
  ValueId turned(ValueId in, std::vector<int64_t> perm) {
    return b.op("Transpose", {in}, {attr("perm", std::move(perm))});
  }
  // Dimensions 0 and 1 of a value, then numbers.
  ValueId shape(ValueId of, std::initializer_list<int64_t> rest) {
    std::vector<ValueId> parts;
    for (const int64_t axis : {0, 1}) {
      const ValueId dim = b.op("Gather", {b.op("Shape", {of}), number(axis)});
      parts.push_back(b.op("Unsqueeze", {dim, ints({0})}));
    }
    for (const int64_t dim : rest) parts.push_back(ints({dim}));
    return b.op("Concat", parts, {attr("axis", int64_t{0})});
  }
  ValueId heads(ValueId in, int64_t count) {
    return b.op("Reshape", {in, shape(in, {count, kHead})});
  }
  // q, k, v [batch, length, heads, kHead]; `mask`: one more term of the scores, or none.
  ValueId attend(ValueId q, ValueId k, ValueId v, ValueId mask = kNoValue) {
    ValueId scores = b.op("MatMul", {turned(q, {0, 2, 1, 3}), turned(k, {0, 2, 3, 1})});
    if (mask != kNoValue) scores = b.op("Add", {scores, mask});
    const ValueId shares = b.op("Softmax", {scores}, {attr("axis", int64_t{-1})});
    return turned(b.op("MatMul", {shares, turned(v, {0, 2, 1, 3})}), {0, 2, 1, 3});
  }
  Model done(ValueId attended, int64_t count) {
    const ValueId joined = b.op("Reshape", {attended, shape(attended, {-1})});
    b.output(b.op("Add", {x, dense(joined, count * kHead, kWidth)}), "y");
    return std::move(b).model();
  }

 private:
  uint32_t seed_ = 0;
};

struct Case {
  std::string name;
  std::function<Model()> make;
  int64_t heads;  // that may go one by one
};

// One key and value for `group` heads of queries, by Unsqueeze, Expand and Reshape.
ValueId shared_heads(Attention& a, ValueId kv, int64_t count, int64_t group) {
  const ValueId open = a.b.op("Unsqueeze", {kv, a.ints({3})});
  const ValueId wanted = a.shape(kv, {count, group, kHead});
  const ValueId ones = a.ints({1, 1, 1, 1, 1});
  const ValueId kept = a.b.op("Equal", {wanted, a.ints({-1, -1, -1, -1, -1})});
  const ValueId expanded = a.b.op("Expand", {open, a.b.op("Where", {kept, ones, wanted})});
  return a.b.op("Reshape", {expanded, a.shape(kv, {count * group, kHead})});
}

const std::vector<Case> kCases = {
    {"an encoder: biases, a mask, shapes that are computed",
     [] {
       Attention a;
       const ValueId q = a.heads(a.dense(a.x, kWidth, 5 * kHead), 5);
       const ValueId k = a.heads(a.dense(a.x, kWidth, 5 * kHead), 5);
       const ValueId v = a.heads(a.dense(a.x, kWidth, 5 * kHead), 5);
       return a.done(a.attend(q, k, v, a.weights({1, 1, 5, 5})), 5);
     },
     5},
    {"queries, keys and values of one product",
     [] {
       Attention a;
       const auto parts =
           a.b.op_n("Split", 3, {a.dense(a.x, kWidth, 12 * kHead)}, {attr("axis", int64_t{2})});
       std::vector<ValueId> qkv;
       for (const ValueId part : parts) qkv.push_back(a.heads(part, 4));
       return a.done(a.attend(qkv[0], qkv[1], qkv[2]), 4);
     },
     4},
    {"keys that several queries share, lengths that are open",
     [] {
       Attention a(kSymbol);
       const ValueId q = a.heads(a.dense(a.x, kWidth, 6 * kHead), 6);
       const ValueId k = a.heads(a.dense(a.x, kWidth, 3 * kHead), 3);
       const ValueId v = a.heads(a.dense(a.x, kWidth, 3 * kHead), 3);
       return a.done(a.attend(q, shared_heads(a, k, 3, 2), shared_heads(a, v, 3, 2)), 6);
     },
     3},
    {"one key and value for all heads",
     [] {
       Attention a;
       const ValueId q = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       const ValueId k = a.heads(a.dense(a.x, kWidth, kHead), 1);
       const ValueId v = a.heads(a.dense(a.x, kWidth, kHead), 1);
       return a.done(a.attend(q, k, v), 4);
     },
     4},
    {"a number of heads that is asked for and only shapes them again",
     [] {
       Attention a(kSymbol);
       ValueId q = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       const ValueId pairs = a.b.op("Reshape", {q, a.shape(q, {4, kHead / 2, 2})});
       const ValueId first = a.b.op("Slice", {a.b.op("Shape", {pairs}), a.ints({0}), a.ints({3})});
       const ValueId whole = a.b.op("Concat", {first, a.ints({-1})}, {attr("axis", int64_t{0})});
       q = a.b.op("Reshape", {a.b.op("Neg", {pairs}), whole});
       const ValueId k = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       const ValueId v = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       return a.done(a.attend(q, k, v), 4);
     },
     4},
};

std::vector<NamedTensor> feed() { return {{"x", wide({2, 5, kWidth}, 99)}}; }

TEST_CASE("a model without heads computes what it does with zeros there", "[prune]") {
  for (const Case& row : kCases) {
    const Model before = row.make();
    for (const Json& options :
         {Json{{"sparsity", 0.5}}, Json{{"sparsity", 0.3}}, Json{{"sparsity", 1.0}},
          Json{{"sparsity", 0.5}, {"scope", "global"}}}) {
      INFO(row.name << " " << options.dump());
      Json given = options;
      given["granularity"] = "head";
      Model after = before;
      const PipelineResult result = run_step(after, "prune", given);
      const PassRecord& pass = result.passes.back();
      for (const Skipped& skip : pass.skipped) INFO(skip.node << ": " << skip.reason);
      REQUIRE(result.changed);
      CHECK(pass.details["heads"] == row.heads);
      CHECK(pass.details["removed"] ==
            std::min<int64_t>(row.heads - 1, std::llround(options["sparsity"].get<double>() *
                                                          static_cast<double>(row.heads))));
      CHECK(pass.details["parameters"] < pass.details["parameters_before"]);
      const Model oracle = test::masked_channels(before, options, "head");
      CHECK(test::relative_error(test::run(after, feed()), test::run(oracle, feed())) < 1e-12);
      CHECK(test::relative_error(test::run(after, feed()), test::run(before, feed())) > 1e-3);
    }
  }
}

struct Holder {
  std::string name;
  std::function<Model()> make;
  std::string reason;
};

const std::vector<Holder> kHolders = {
    {"a cache that the model hands out",
     [] {
       Attention a;
       const ValueId q = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       const ValueId k = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       const ValueId v = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       a.b.output(a.b.op("Identity", {k}), "present");
       return a.done(a.attend(q, k, v), 4);
     },
     "output"},
    {"a number of heads that is computed with",
     [] {
       Attention a(kSymbol);
       const ValueId q = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       const ValueId k = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       const ValueId v = a.heads(a.dense(a.x, kWidth, 4 * kHead), 4);
       const ValueId some = a.b.op("Slice", {a.b.op("Shape", {q}), a.ints({0}), a.ints({3})});
       a.b.output(a.b.op("ReduceProd", {some}), "count");
       return a.done(a.attend(q, k, v), 4);
     },
     "Shape"},
    {"a number of heads that shapes something else",
     [] {
       Attention a(kSymbol);
       const ValueId q = a.heads(a.dense(a.x, kWidth, 2 * kHead), 2);
       const ValueId k = a.heads(a.dense(a.x, kWidth, 2 * kHead), 2);
       const ValueId v = a.heads(a.dense(a.x, kWidth, 2 * kHead), 2);
       const ValueId some = a.b.op("Slice", {a.b.op("Shape", {q}), a.ints({1}), a.ints({3})});
       const ValueId shape = a.b.op("Concat", {some, a.ints({-1})}, {attr("axis", int64_t{0})});
       a.b.output(a.b.op("Reshape", {a.x, shape}), "other");
       return a.done(a.attend(q, k, v), 2);
     },
     "shapes"},
    {"layers without heads",
     [] {
       Attention a;
       a.b.output(a.dense(a.b.op("Relu", {a.dense(a.x, kWidth, 8)}), 8, kWidth), "y");
       return std::move(a.b).model();
     },
     "no heads of attention"},
};

TEST_CASE("heads that something needs stay, with the reason", "[prune]") {
  for (const Holder& row : kHolders) {
    INFO(row.name);
    Model model = row.make();
    const Model before = model;
    const PipelineResult result = run_step(model, "prune", {{"granularity", "head"}});
    CHECK_FALSE(result.changed);
    CHECK(same_graph(model.graph, before.graph));
    const std::vector<Skipped>& skipped = result.passes.back().skipped;
    const bool says = std::any_of(skipped.begin(), skipped.end(), [&](const Skipped& skip) {
      return skip.reason.find(row.reason) != std::string::npos;
    });
    if (!says) {
      for (const Skipped& skip : skipped) WARN(skip.node << ": " << skip.reason);
    }
    CHECK(says);
  }
}

TEST_CASE("channels leave heads whole", "[prune]") {
  Model model = kCases[0].make();
  const Model before = model;
  const PipelineResult result = run_step(model, "prune", {{"granularity", "channel"}});
  CHECK_FALSE(result.changed);
  CHECK(same_graph(model.graph, before.graph));
}

}  // namespace
}  // namespace compress
