// TfIdfVectorizer over integers: how often the n-grams of a pool occur in each row.
#include <algorithm>
#include <map>

#include "compress/ops/special_families.h"
#include "compress/ops/support.h"

namespace compress {
namespace {

using namespace ops;

// Far above any real vocabulary.
constexpr int64_t kLimit = int64_t{1} << 30;

enum class Weighting { tf, idf, tf_idf };

struct Vocabulary {
  std::map<std::vector<int64_t>, size_t> place;  // of an n-gram in the output
  int64_t shortest, longest;                     // n-grams that count
  int64_t skips;                                 // tokens that may lie between two of an n-gram
  int64_t size;                                  // of a row of the output
  Weighting weighting;
  std::vector<float> weights;
};

int64_t output_size(const NodeContext& context) {
  int64_t size = 0;
  for (const int64_t index : context.node().ints_or("ngram_indexes", {})) {
    if (index < 0 || index >= kLimit) context.invalid(fmt::format("ngram_indexes holds {}", index));
    size = std::max(size, index + 1);
  }
  if (size == 0) context.invalid("without ngram_indexes");
  return size;
}

Weighting weighting_of(const NodeContext& context) {
  const std::string mode = context.node().string_or("mode", "");
  if (mode == "TF") return Weighting::tf;
  if (mode == "IDF") return Weighting::idf;
  if (mode == "TFIDF") return Weighting::tf_idf;
  context.invalid(fmt::format("mode '{}'", printable(mode)));
}

// The pool holds all 1-grams, then all 2-grams, and so on; ngram_counts says where each begins.
void read_pool(const NodeContext& context, Vocabulary& vocabulary) {
  if (context.node().attribute("pool_strings") != nullptr) context.unsupported("a pool of strings");
  const std::vector<int64_t> pool = context.node().ints_or("pool_int64s", {});
  const std::vector<int64_t> starts = context.node().ints_or("ngram_counts", {});
  const std::vector<int64_t> places = context.node().ints_or("ngram_indexes", {});
  const auto total = static_cast<int64_t>(pool.size());
  size_t gram = 0;
  for (size_t i = 0; i < starts.size(); ++i) {
    const auto length = static_cast<int64_t>(i) + 1;
    const int64_t begin = starts[i], end = i + 1 < starts.size() ? starts[i + 1] : total;
    if (begin < 0 || begin > end || end > total || (end - begin) % length != 0) {
      context.invalid(fmt::format("n-grams of {} from {} to {} of {}", length, begin, end, total));
    }
    for (auto at = pool.begin() + begin; at != pool.begin() + end; at += length) {
      if (gram == places.size()) context.invalid("ngram_indexes is shorter than the pool");
      const auto place = static_cast<size_t>(places[gram++]);
      if (length < vocabulary.shortest || length > vocabulary.longest) continue;
      vocabulary.place[{at, at + length}] = place;
    }
  }
}

Vocabulary read_vocabulary(const NodeContext& context) {
  Vocabulary vocabulary{{},
                        context.node().int_or("min_gram_length", 0),
                        context.node().int_or("max_gram_length", 0),
                        context.node().int_or("max_skip_count", 0),
                        output_size(context),
                        weighting_of(context),
                        context.node().floats_or("weights", {})};
  if (vocabulary.shortest < 1 || vocabulary.longest < vocabulary.shortest || vocabulary.skips < 0) {
    context.invalid(fmt::format("n-grams of {} to {} with {} skips", vocabulary.shortest,
                                vocabulary.longest, vocabulary.skips));
  }
  // Weights go by the output's index, as ONNX Runtime and ONNX's reference apply them.
  if (!vocabulary.weights.empty() &&
      static_cast<int64_t>(vocabulary.weights.size()) < vocabulary.size) {
    context.invalid(
        fmt::format("{} weights for {} outputs", vocabulary.weights.size(), vocabulary.size));
  }
  read_pool(context, vocabulary);
  return vocabulary;
}

// Counts the n-grams whose tokens are `step` apart; single tokens only where step is 1.
template <class T>
void count_grams(const Vocabulary& vocabulary, const T* row, int64_t width, int64_t step,
                 float* counts) {
  std::vector<int64_t> gram;
  for (int64_t start = 0; start < width; ++start) {
    gram.clear();
    for (int64_t at = start; at < width && static_cast<int64_t>(gram.size()) < vocabulary.longest;
         at += step) {
      gram.push_back(row[at]);
      const bool counts_here = static_cast<int64_t>(gram.size()) >= vocabulary.shortest &&
                               (step == 1 || gram.size() > 1);
      const auto found = counts_here ? vocabulary.place.find(gram) : vocabulary.place.end();
      if (found != vocabulary.place.end()) counts[found->second] += 1;
    }
  }
}

void weigh(const Vocabulary& vocabulary, float* counts) {
  if (vocabulary.weighting == Weighting::tf) return;
  for (size_t i = 0; i < static_cast<size_t>(vocabulary.size); ++i) {
    if (vocabulary.weighting == Weighting::idf && counts[i] > 0) counts[i] = 1;
    if (!vocabulary.weights.empty()) counts[i] *= vocabulary.weights[i];
  }
}

void infer_vectorizer(NodeContext& context) {
  require_inputs(context, 1, 1);
  const int64_t size = output_size(context);
  if (!context.in(0).has_shape) return context.set_output(0, DType::float32);
  const Shape& x = context.shape(0);
  if (x.rank() > 2) context.invalid(fmt::format("the input has shape {}", x.to_string()));
  context.set_output(0, DType::float32, x.rank() == 2 ? Shape{x[0], size} : Shape{size});
}

Kernel prepare_vectorizer(const NodeContext& context) {
  auto vocabulary = std::make_shared<const Vocabulary>(read_vocabulary(context));
  const Shape& x = context.shape(0);
  const int64_t rows = x.rank() == 2 ? x[0] : 1;
  const int64_t width = x.rank() == 0 ? 1 : x[x.rank() - 1];
  return dispatch(Types<int32_t, int64_t>(), context, context.dtype(0), [&](auto tag) -> Kernel {
    using T = decltype(tag);
    return {"", [=](const KernelArgs& args) {
              const T* in = static_cast<const T*>(args.inputs[0].data);
              float* out = args.outputs[0].as<float>();
              // Beyond the row's length no n-gram of two tokens fits.
              const int64_t steps = std::min(vocabulary->skips, width) + 1;
              parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
                for (int64_t r = begin; r < end; ++r) {
                  float* counts = out + r * vocabulary->size;
                  std::fill_n(counts, vocabulary->size, 0.0f);
                  for (int64_t step = 1; step <= steps; ++step) {
                    count_grams(*vocabulary, in + r * width, width, step, counts);
                  }
                  weigh(*vocabulary, counts);
                }
              });
            }};
  });
}

constexpr OpDef kRows[] = {
    row("TfIdfVectorizer", 9, infer_vectorizer, prepare_vectorizer),
};

}  // namespace

constinit const std::span<const OpDef> kNgramOps = kRows;

}  // namespace compress
