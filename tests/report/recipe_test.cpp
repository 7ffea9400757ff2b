#include "compress/recipe.h"

#include <catch2/catch.hpp>

#include <string>

#include "compress/error.h"

using namespace compress;
using Catch::Matchers::Contains;

namespace {

constexpr OptionDef kDefs[] = {
    {"mode", OptionType::choice, "static", "", "static|dynamic|weight-only"},
    {"block-size", OptionType::integer, "32", "", "16..256"},
    {"sparsity", OptionType::number, "", "", "0..1"},
    {"embeddings", OptionType::flag, "true", ""},
    {"external-data", OptionType::flag, "", ""},
    {"exclude", OptionType::list, "", ""},
};

std::string message(const auto& body) {
  try {
    body();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::usage);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("options take defaults and what was given") {
  const Options options(kDefs, Json{{"block-size", 64}, {"exclude", {"a", "b"}}, {"sparsity", 1}});
  CHECK(options.text("mode") == "static");
  CHECK(options.integer("block-size") == 64);
  CHECK(options.number("sparsity") == 1.0);
  CHECK(options.flag("embeddings"));
  CHECK_FALSE(options.flag("external-data"));
  CHECK(options.list("exclude") == std::vector<std::string>{"a", "b"});
  CHECK(options.given("block-size"));
  CHECK_FALSE(options.given("mode"));
  const Options bare(kDefs, Json::object());
  CHECK_FALSE(bare.has("sparsity"));
  CHECK(
      bare.json().dump() ==
      R"({"mode":"static","block-size":32,"embeddings":true,"external-data":false,"exclude":[]})");
}

TEST_CASE("options refuse what does not fit and name it") {
  const auto refused = [](const Json& given) { return message([&] { Options(kDefs, given); }); };
  CHECK_THAT(refused({{"block-sise", 32}}), Contains("did you mean 'block-size'"));
  CHECK_THAT(refused({{"mode", "statik"}}), Contains("did you mean 'static'"));
  CHECK_THAT(refused({{"block-size", 8}}), Contains("outside 16..256"));
  CHECK_THAT(refused({{"block-size", 32.5}}), Contains("wants an integer"));
  CHECK_THAT(refused({{"sparsity", 1.01}}), Contains("outside 0..1"));
  CHECK_THAT(refused({{"sparsity", "0.5"}}), Contains("wants a number"));
  CHECK_THAT(refused({{"embeddings", 1}}), Contains("true or false"));
  CHECK_THAT(refused({{"exclude", {1}}}), Contains("list of strings"));
  CHECK_THAT(refused(Json::array()), Contains("object"));
}

TEST_CASE("options read the command line's text") {
  CHECK(option_from_text(kDefs[1], "64") == 64);
  CHECK(option_from_text(kDefs[2], "0.5") == 0.5);
  CHECK(option_from_text(kDefs[5], "a,b{1,2},[,]") == Json({"a", "b{1,2}", "[,]"}));
  CHECK_THAT(message([] { option_from_text(kDefs[1], "64x"); }), Contains("'64x'"));
  CHECK_THAT(message([] { option_from_text(kDefs[2], "nan"); }), Contains("outside"));
}

TEST_CASE("json keeps order, refuses depth and duplicate keys") {
  CHECK(parse_json(R"({"b": [1, 2.5, null, {"c": "x"}], "a": true})", "f").dump() ==
        R"({"b":[1,2.5,null,{"c":"x"}],"a":true})");
  CHECK_NOTHROW(parse_json(std::string(64, '[') + std::string(64, ']'), "f"));
  CHECK_THAT(message([] { parse_json(std::string(65, '['), "f"); }), Contains("deeper than 64"));
  CHECK_THAT(message([] { parse_json(std::string(1'000'000, '['), "f"); }), Contains("deeper"));
  CHECK_THAT(message([] { parse_json(R"({"a": 1, "b": {"a": 2}, "a": 3})", "f"); }),
             Contains("'a' stands twice"));
  CHECK_NOTHROW(parse_json(R"({"a": {"a": 2}})", "f"));
  CHECK_THAT(message([] { parse_json("{\n\"a\": }", "spec.json"); }),
             Contains("spec.json") && Contains("line 2"));
  CHECK_THAT(message([] { parse_json("", "f"); }), Contains("not valid JSON"));
  CHECK_THAT(message([] { parse_json("{} {}", "f"); }), Contains("not valid JSON"));
  CHECK_THAT(message([] { parse_json("1e999", "f"); }), Contains("not valid JSON"));
}

TEST_CASE("recipes survive a round trip and name the key at fault") {
  const std::string text = R"({"schema": "compress.recipe/1",
    "steps": [{"prune": {"sparsity": 0.5}}, {"quantize": {"mode": "static"}}],
    "data": {"calibration": "c.npz"}, "seed": 7, "gates": ["top1_drop<=1%"]})";
  const Recipe recipe = Recipe::parse(text);
  REQUIRE(recipe.steps.size() == 2);
  CHECK(recipe.steps[1].name == "quantize");
  CHECK(recipe.steps[1].options["mode"] == "static");
  CHECK(recipe.seed == 7);
  CHECK(recipe.to_json() == parse_json(text, "f"));
  CHECK(Recipe::parse(recipe.to_json().dump()).to_json() == recipe.to_json());

  const auto refused = [](const char* json) { return message([&] { Recipe::parse(json); }); };
  CHECK_THAT(refused("[]"), Contains("not a JSON object"));
  CHECK_THAT(refused("{}"), Contains("schema"));
  CHECK_THAT(refused(R"({"schema": "compress.recipe/1", "stepss": []})"),
             Contains("did you mean 'steps'"));
  CHECK_THAT(refused(R"({"schema": "compress.recipe/1", "steps": [{"a": {}, "b": {}}]})"),
             Contains("steps[0]"));
  CHECK_THAT(refused(R"({"schema": "compress.recipe/1", "seed": -1})"), Contains("seed"));
  CHECK_THAT(refused(R"({"schema": "compress.recipe/1", "gates": "x"})"), Contains("gates"));
}
