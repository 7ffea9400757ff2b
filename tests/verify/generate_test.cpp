// Decoders whose next token is a sum over all that they have read, so that a cache, a mask or a
// position that is fed wrongly shows in the text.
#include <catch2/catch.hpp>

#include <numeric>
#include <vector>

#include "compress/error.h"
#include "compress/graph/builder.h"
#include "compress/verify/generate.h"

using namespace compress;
using Catch::Matchers::Contains;

namespace {

constexpr int64_t kWords = 11;

struct Names {
  std::string past, present;  // empty: no cache
  int rank = 4;               // of the cache
  bool mask = false;
  bool positions = false;
  DType ids = DType::int64;
};

ValueId to(GraphBuilder& b, ValueId id, DType dtype) {
  return b.op("Cast", {id}, {attr("to", static_cast<int64_t>(dtype))});
}

ValueId sum(GraphBuilder& b, ValueId id) {
  return b.op("ReduceSum", {to(b, id, DType::int64)}, {attr("keepdims", int64_t{0})});
}

ValueId ints(GraphBuilder& b, const std::vector<int64_t>& values) {
  return b.constant(Tensor::from<int64_t>({static_cast<int64_t>(values.size())},
                                          std::span<const int64_t>(values)));
}

// Next token: (tokens so far + their number, by the mask + the last position + bias) mod kWords.
Model decoder(const Names& names, int64_t bias = 0) {
  GraphBuilder b;
  const ValueId ids = b.input("input_ids", names.ids, {1, -1});
  ValueId total = sum(b, ids);
  if (!names.past.empty()) {
    const bool pair = names.rank == 5;
    const auto dims =
        pair ? std::vector<int64_t>{2, 1, 1, -1, 1} : std::vector<int64_t>{1, 1, -1, 1};
    const ValueId past = pair ? b.input(names.past, DType::float32, {2, -1, 1, -1, 1})
                              : b.input(names.past, DType::float32, {-1, 1, -1, 1});
    ValueId fresh = b.op("Reshape", {to(b, ids, DType::float32), ints(b, {1, 1, -1, 1})});
    if (pair) fresh = b.op("Expand", {fresh, ints(b, {2, 1, 1, 1, 1})});
    const ValueId present =
        b.op("Concat", {past, fresh}, {attr("axis", static_cast<int64_t>(names.rank - 2))});
    total = sum(b, present);
    if (pair) total = b.op("Div", {total, ints(b, {2})});
    b.output(present, names.present);
  }
  if (names.mask)
    total = b.op("Add", {total, sum(b, b.input("attention_mask", names.ids, {1, -1}))});
  if (names.positions) {
    const ValueId positions = to(b, b.input("position_ids", names.ids, {1, -1}), DType::int64);
    total = b.op("Add", {total, b.op("ReduceMax", {positions}, {attr("keepdims", int64_t{0})})});
  }
  total = b.op("Mod", {b.op("Add", {total, ints(b, {bias})}), ints(b, {kWords})});
  Tensor table = Tensor::zeros(DType::float32, {kWords, kWords});
  for (int64_t i = 0; i < kWords; ++i) {
    table.mutable_as<float>()[static_cast<size_t>(i * kWords + i)] = 1;
  }
  const ValueId row =
      b.op("Gather", {b.constant(table), b.op("Reshape", {total, ints(b, {1, 1})})});
  b.output(row, "logits");
  return std::move(b).model(18);
}

std::vector<int64_t> expected(const Names& names, std::vector<int64_t> text, int64_t count) {
  const size_t prompt = text.size();
  for (int64_t i = 0; i < count; ++i) {
    const auto size = static_cast<int64_t>(text.size());
    int64_t total = std::accumulate(text.begin(), text.end(), int64_t{0});
    if (names.mask) total += size;
    if (names.positions) total += size - 1;
    text.push_back(total % kWords);
  }
  return {text.begin() + static_cast<std::ptrdiff_t>(prompt), text.end()};
}

}  // namespace

TEST_CASE("a decoder goes on with what its caches hold") {
  const std::vector<Names> forms = {
      {"", ""},
      {"past_key_values.0.key", "present.0.key"},
      {"past_key_values.0.key", "present.0.key", 4, true, true},
      {"past_0", "present_0", 5, true, true, DType::int32},
      {"", "", 4, true, true},
  };
  for (const Names& names : forms) {
    CAPTURE(names.past, names.mask, names.positions);
    Generator generator(decoder(names), {});
    const std::vector<int64_t> prompt = {3, 1, 4, 1, 5};
    const GeneratedText text = generator.run(prompt, 9);
    CHECK(text.tokens == expected(names, prompt, 9));
    CHECK(text.prompt_ms > 0);
    CHECK(text.tokens_per_second > 0);
    CHECK(generator.run(prompt, 9).tokens == text.tokens);  // caches start anew
  }
}

TEST_CASE("two decoders are compared by their text and their time") {
  const Names names{"past_0", "present_0", 5};
  Generator a(decoder(names), {}), same(decoder(names), {}), other(decoder(names, 1), {});
  const std::vector<int64_t> prompt = {2, 7};
  GenerateOptions options;
  options.tokens = 6;
  options.max_rounds = 3;
  const Generation equal = measure_generation(a, same, prompt, options);
  CHECK(equal.prompt_tokens == 2);
  CHECK(equal.rounds == 3);
  CHECK(equal.same_tokens == 6);
  CHECK(equal.reference.tokens == equal.candidate.tokens);
  CHECK(equal.speedup ==
        Approx(equal.candidate.tokens_per_second / equal.reference.tokens_per_second));
  CHECK(measure_generation(a, other, prompt, options).same_tokens == 0);
}

TEST_CASE("what is no decoder is refused with the reason") {
  const auto refuse = [](auto build, const std::string& reason) {
    GraphBuilder b;
    build(b);
    const Model model = std::move(b).model();
    CHECK_THROWS_WITH(find_decoder(model), Contains(reason));
  };
  const auto scores = [](GraphBuilder& b, ValueId ids) {
    b.output(b.op("Cast", {ids}, {attr("to", int64_t{1})}), "logits");
  };
  refuse([&](GraphBuilder& b) { scores(b, b.input("x", DType::float32, {1, 3})); }, "input 'x'");
  refuse(
      [&](GraphBuilder& b) {
        scores(b, b.input("attention_mask", DType::int64, {1, -1}));
      },
      "no input 'input_ids'");
  refuse(
      [&](GraphBuilder& b) {
        scores(b, b.input("input_ids", DType::int64, {1, 128}));
      },
      "not a row of as many tokens");
  refuse(
      [&](GraphBuilder& b) {
        scores(b, b.input("input_ids", DType::int64, {1, -1}));
        b.output(b.op("Identity", {b.input("past_0", DType::float32, {2, 1, -1, -1, 8})}),
                 "present_0");
      },
      "does not say how many heads");
  refuse(
      [&](GraphBuilder& b) {
        scores(b, b.input("input_ids", DType::int64, {1, -1}));
        b.output(b.op("Identity", {b.input("past_0", DType::float32, {1, 4, 16, 8})}), "present_0");
      },
      "fixed number of tokens");
}
