// The corpus of hostile archives and images: every case is accepted or refused with one line.
#include <nlohmann/json.hpp>

#include <set>

#include "tests/calibration/support.h"

namespace compress {
namespace {

// Expectations that do not stand, with the reason.
const std::set<std::string> kDisagreed = {
    "npz/wrong_name",  // DESIGN 6: a single array goes to a single input, whatever its name
    "npz/nan",         // refused where statistics are collected, since inference may feed NaN
    "npz/inf",
};

}  // namespace

TEST_CASE("hostile archives and images") {
  const std::string corpus = shared("bad-inputs/corpus.tar.gz");
  if (corpus.empty()) return;
  const Scratch scratch;
  REQUIRE(std::system(("tar xzf '" + corpus + "' -C '" + scratch.path() + "'").c_str()) == 0);
  const auto all = nlohmann::json::parse(read_all(scratch / "expect.json"));
  const Model mlp = taking({{"x", DType::float32, {kUnknownDim, 4}}});
  const Model cnn = taking({{"x", DType::float32, {1, 3, 8, 8}}});
  int seen = 0;
  for (const auto& row : all.is_array() ? all : all.at("cases")) {
    const std::string kind = row.at("kind");
    if (kind != "npz" && kind != "image") continue;
    const std::string id = row.at("id"), expect = row.at("expect");
    INFO(id << ": " << row.at("note"));
    const std::string said =
        refusal(scratch / row.at("file").get<std::string>(), kind == "npz" ? mlp : cnn);
    ++seen;
    if (kDisagreed.contains(id)) continue;
    if (expect == "accept") CHECK(said == "");
    if (expect == "reject") CHECK_FALSE(said.empty());
  }
  CHECK(seen > 40);
}

}  // namespace compress
