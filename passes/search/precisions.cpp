// What a search varies of quantize: the precision of each layer.
#include <algorithm>
#include <cmath>

#include "compress/error.h"
#include "passes/quantize/precision.h"
#include "passes/search/search.h"

namespace compress {
namespace {

bool may_change(const Model& model, const SearchLayer& layer, const Json& given) {
  if (given.contains("op-types")) {
    const Json& types = given["op-types"];
    if (std::find(types.begin(), types.end(), layer.op) == types.end()) return false;
  }
  Json json = Json::object();
  for (const char* name : {"include", "exclude"}) {
    if (given.contains(name)) json[name] = given[name];
  }
  return Selection(Options(find_step("quantize").options, json))
      .refusal(model.graph.node(layer.node))
      .empty();
}

bool is_float(const std::string& precision) {
  return precision == "float32" || precision.ends_with("float16");
}

// A middle precision first.
std::vector<std::string> measured_of(std::vector<std::string> ladder) {
  std::erase_if(ladder, is_float);
  const auto is_four = [](const std::string& rung) { return rung.find("int4") != rung.npos; };
  const auto first = std::find_if(ladder.rbegin(), ladder.rend(), is_four);
  if (first != ladder.rend()) std::rotate(ladder.begin(), first.base() - 1, first.base());
  return ladder;
}

std::vector<SearchLayer> layers_of(const Model& model, const SearchSettings& settings) {
  std::vector<SearchLayer> layers = search_layers(model);
  std::erase_if(layers, [&](const SearchLayer& layer) {
    return !may_change(model, layer, settings.options);
  });
  const bool transformer = is_transformer(model);
  for (SearchLayer& layer : layers) {
    if (settings.minimize == Minimize::latency) {
      layer.ladder = {transformer ? "dynamic/int8" : "static/int8/channel", "float32"};
    }
    layer.measured = measured_of(layer.ladder);
  }
  return layers;
}

using Families = std::vector<std::vector<SearchSetting>>;

// Each alone: they do not stand in a row.
Families families_of(const Model& model, const SearchSettings& settings) {
  const bool transformer = is_transformer(model);
  const bool small = settings.minimize == Minimize::size;
  Families all;
  const auto add = [&](std::string label, const Json& changes) {
    Json options = settings.options;
    for (const auto& [name, value] : changes.items()) {
      // What the user chose is not tried otherwise.
      if (options.contains(name) && options[name] != value) return;
      options[name] = value;
    }
    all.push_back({{std::move(label), std::move(options)}});
  };
  if (!transformer) {
    add("static int8", {{"mode", "static"}});
    add("static int8, bias", {{"mode", "static"}, {"recover", {"bias"}}});
    add("static int8, gptq, bias",
        {{"mode", "static"}, {"algorithm", "gptq"}, {"recover", {"bias"}}});
    if (small) {
      add("static int4, gptq, bias",
          {{"mode", "static"}, {"weights", "int4"}, {"algorithm", "gptq"}, {"recover", {"bias"}}});
    }
  } else {
    const Json types = {"MatMul", "Gemm", "Gather"};
    add("dynamic int8", {{"mode", "dynamic"}});
    add("static int8", {{"mode", "static"}, {"op-types", types}});
  }
  if (!small) return all;
  for (const char* block : {"block:32", "block:64", "block:128"}) {
    for (const char* algorithm : {"rtn", "gptq"}) {
      if (!transformer && std::string_view(block) != "block:32") continue;
      add(fmt::format("weight-only int4 {}, {}", block, algorithm), {{"mode", "weight-only"},
                                                                     {"weights", "int4"},
                                                                     {"granularity", block},
                                                                     {"algorithm", algorithm}});
    }
  }
  if (transformer) {
    add("weight-only int8",
        {{"mode", "weight-only"}, {"weights", "int8"}, {"granularity", "block:128"}});
  }
  add("weight-only float16", {{"mode", "weight-only"}, {"weights", "float16"}});
  return all;
}

// What made up best for the harm of static int8 serves mixed settings as well; for blocks of
// weights alike.
Json mixed_of(const Model& model, const SearchSettings& settings,
              const std::vector<SearchTrial>& trials) {
  const char* mode = is_transformer(model) ? "weight-only" : "static";
  const SearchTrial* best = nullptr;
  for (const SearchTrial& trial : trials) {
    if (!trial.failure.empty() || trial.options.value("mode", "") != mode) continue;
    if (trial.options.value("weights", "") == "float16") continue;
    if (best == nullptr || trial.damage < best->damage) best = &trial;
  }
  Json mixed = settings.options;
  if (best == nullptr) {
    mixed["mode"] = mode;
    return mixed;
  }
  for (const char* name : {"mode", "recover", "algorithm"}) {
    if (best->options.contains(name)) mixed[name] = best->options[name];
  }
  return mixed;
}

double small_damage(std::string_view precision) { return precision == "float32" ? 0 : 1e-9; }

// A bit is 6 dB.
double harm_ratio(const std::string& from, const std::string& to) {
  constexpr int64_t kMany = 1 << 20;
  const auto bits = [](const std::string& precision) {
    return static_cast<double>(bytes_in(precision, kMany)) * 8 / kMany;
  };
  return std::pow(4.0, bits(from) - bits(to));
}

}  // namespace

const SearchKind& precision_search() {
  static const SearchKind kind = {"quantize",
                                  layers_of,
                                  families_of,
                                  mixed_of,
                                  small_damage,
                                  bytes_in,
                                  harm_ratio,
                                  options_for_layer,
                                  {"fuse_pad", "fuse_batch_norm", "deduplicate_constants",
                                   "prepare_channels", "smooth_inputs"}};
  return kind;
}

}  // namespace compress
