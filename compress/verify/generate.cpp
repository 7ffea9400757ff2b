#include "compress/verify/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>

#include "compress/error.h"
#include "compress/verify/accuracy.h"
#include "compress/verify/distortion.h"

namespace compress {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void no_decoder(const Model& model, const std::string& why) {
  fail(ErrorCode::unsupported, "{} cannot generate: {}", model.path, why);
}

std::optional<size_t> output_named(const Graph& graph, const std::string& name) {
  for (size_t i = 0; i < graph.outputs().size(); ++i) {
    if (graph.value(graph.outputs()[i]).name == name) return i;
  }
  return std::nullopt;
}

// The output that a cache goes on as.
std::optional<size_t> present_of(const Graph& graph, const std::string& past) {
  for (const std::string_view prefix : {"past_key_values", "past"}) {
    if (!past.starts_with(prefix)) continue;
    if (const auto found = output_named(graph, "present" + past.substr(prefix.size()))) {
      return found;
    }
  }
  return std::nullopt;
}

// Keys and values lie as [batch, heads, tokens, size], or both as [2, batch, heads, tokens, size].
Shape empty_cache(const Model& model, const Value& past) {
  const Shape& declared = past.type.shape;
  if (!past.type.has_shape || declared.rank() < 4 || declared.rank() > 5) {
    no_decoder(model, fmt::format("cache '{}' has neither four nor five dimensions", past.name));
  }
  Shape shape = declared;
  const int batch = declared.rank() - 4, tokens = declared.rank() - 2;
  shape[batch] = 1;
  shape[tokens] = 0;
  if (declared[tokens] >= 0) {
    no_decoder(model, fmt::format("cache '{}' holds a fixed number of tokens", past.name));
  }
  if (!shape.is_concrete()) {
    no_decoder(model, fmt::format("cache '{}' does not say how many heads it has, of which size",
                                  past.name));
  }
  return shape;
}

Tensor row_of(const Decoder::Input& input, std::span<const int64_t> values) {
  const Shape shape{1, static_cast<int64_t>(values.size())};
  return convert(Tensor::from<int64_t>(shape, values), input.dtype);
}

int64_t most_likely(const Tensor& logits) {
  const TensorData data = logits.read();
  const Rows rows = rows_of(data.view());
  const int64_t token = rows.count() == 0 ? -1 : argmax(rows.row(rows.count() - 1));
  if (token < 0) fail(ErrorCode::invalid_model, "no score of the last token is a number");
  return token;
}

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

GenerationSide side_of(const std::vector<GeneratedText>& texts) {
  std::vector<double> prompts, rates;
  for (const GeneratedText& text : texts) {
    prompts.push_back(text.prompt_ms);
    rates.push_back(text.tokens_per_second);
  }
  return {median(std::move(prompts)), median(std::move(rates)), texts.front().tokens};
}

}  // namespace

Decoder find_decoder(const Model& model) {
  const Graph& graph = model.graph;
  Decoder decoder;
  for (const ValueId id : graph.inputs()) {
    const Value& input = graph.value(id);
    if (input.is_constant()) continue;
    const Decoder::Input found{input.name, input.type.dtype};
    if (input.name == "input_ids") {
      decoder.ids = found;
    } else if (input.name == "attention_mask") {
      decoder.mask = found;
    } else if (input.name == "position_ids") {
      decoder.positions = found;
    } else if (const auto present = present_of(graph, input.name)) {
      decoder.caches.push_back({input.name, *present, input.type.dtype, empty_cache(model, input)});
    } else {
      no_decoder(model, fmt::format("input '{}' is none that decoders are known to have "
                                    "(input_ids, attention_mask, position_ids, past_...)",
                                    input.name));
    }
  }
  if (decoder.ids.name.empty()) no_decoder(model, "it has no input 'input_ids'");
  const TypeInfo& ids = graph.value(graph.find_value("input_ids")).type;
  if (!is_integer(ids.dtype) || (ids.has_shape && (ids.shape.rank() != 2 || ids.shape[1] >= 0))) {
    no_decoder(model, "'input_ids' is not a row of as many tokens as there are");
  }
  if (const auto logits = output_named(graph, "logits")) {
    decoder.logits = *logits;
  } else if (graph.outputs().size() != decoder.caches.size() + 1) {
    no_decoder(model, "none of its outputs is named 'logits'");
  } else {
    const auto is_cache = [&](size_t i) {
      return std::any_of(decoder.caches.begin(), decoder.caches.end(),
                         [&](const Decoder::Cache& cache) { return cache.present == i; });
    };
    while (is_cache(decoder.logits)) ++decoder.logits;
  }
  return decoder;
}

GeneratedText Generator::run(std::span<const int64_t> prompt, int64_t count) {
  std::vector<int64_t> text(prompt.begin(), prompt.end());
  std::vector<NamedTensor> feeds;
  std::vector<Tensor> caches;
  for (const Decoder::Cache& cache : decoder_.caches) {
    caches.push_back(Tensor::zeros(cache.dtype, cache.empty));
  }
  size_t read = 0;  // tokens that the caches hold
  const auto step = [&] {
    feeds.clear();
    const std::span<const int64_t> fresh = std::span(text).subspan(read);
    feeds.push_back({decoder_.ids.name, row_of(decoder_.ids, fresh)});
    if (!decoder_.mask.name.empty()) {
      const std::vector<int64_t> ones(text.size(), 1);
      feeds.push_back({decoder_.mask.name, row_of(decoder_.mask, ones)});
    }
    if (!decoder_.positions.name.empty()) {
      std::vector<int64_t> positions(fresh.size());
      for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int64_t>(read + i);
      feeds.push_back({decoder_.positions.name, row_of(decoder_.positions, positions)});
    }
    for (size_t i = 0; i < caches.size(); ++i) {
      feeds.push_back({decoder_.caches[i].past, std::move(caches[i])});
    }
    std::vector<Tensor> outputs = session_.run(feeds);
    for (size_t i = 0; i < caches.size(); ++i) {
      caches[i] = std::move(outputs[decoder_.caches[i].present]);
    }
    if (!caches.empty()) read = text.size();
    text.push_back(most_likely(outputs[decoder_.logits]));
  };
  GeneratedText out;
  const auto start = Clock::now();
  step();
  const auto first = Clock::now();
  for (int64_t i = 1; i < count; ++i) step();
  const double seconds = seconds_between(first, Clock::now());
  out.tokens.assign(text.begin() + static_cast<std::ptrdiff_t>(prompt.size()), text.end());
  out.prompt_ms = 1e3 * seconds_between(start, first);
  if (count > 1) out.tokens_per_second = static_cast<double>(count - 1) / seconds;
  return out;
}

Generation measure_generation(Generator& reference, Generator& candidate,
                              std::span<const int64_t> prompt, const GenerateOptions& options) {
  reference.run(prompt, std::min<int64_t>(options.tokens, 2));
  candidate.run(prompt, std::min<int64_t>(options.tokens, 2));
  std::vector<GeneratedText> ours, theirs;
  const auto start = Clock::now();
  do {
    ours.push_back(reference.run(prompt, options.tokens));
    theirs.push_back(candidate.run(prompt, options.tokens));
  } while (static_cast<int>(ours.size()) < options.max_rounds &&
           seconds_between(start, Clock::now()) < options.seconds);
  Generation out;
  out.prompt_tokens = static_cast<int64_t>(prompt.size());
  out.rounds = static_cast<int>(ours.size());
  out.reference = side_of(ours);
  out.candidate = side_of(theirs);
  out.prompt_speedup = out.reference.prompt_ms / out.candidate.prompt_ms;
  if (options.tokens > 1) {
    out.speedup = out.candidate.tokens_per_second / out.reference.tokens_per_second;
  }
  const auto& a = out.reference.tokens;
  const auto& b = out.candidate.tokens;
  out.same_tokens = std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin();
  return out;
}

}  // namespace compress
