// Greedy generation with a language model: how long a prompt takes to its first token, and how many
// tokens a second follow.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "compress/runtime/session.h"

namespace compress {

// Where a decoder takes and gives what, by the names that exporters use: input_ids, attention_mask,
// position_ids; caches past_key_values.0.key -> present.0.key (Optimum, ONNX Runtime's generator)
// or past_0 -> present_0 (ONNX Runtime's transformers tools).
struct Decoder {
  struct Input {
    std::string name;  // "" where the model takes none
    DType dtype = DType::int64;
  };
  struct Cache {
    std::string past;
    size_t present = 0;  // index among the outputs
    DType dtype = DType::float32;
    Shape empty;  // of no tokens
  };
  Input ids;        // [1, tokens]
  Input mask;       // [1, tokens so far], ones
  Input positions;  // [1, tokens]
  size_t logits = 0;
  std::vector<Cache> caches;  // without one the whole text is read again for each token
};

// Fails (unsupported) saying what is missing, or naming the input that is not known.
Decoder find_decoder(const Model& model);

struct GeneratedText {
  std::vector<int64_t> tokens;   // without the prompt
  double prompt_ms = 0;          // to the first token
  double tokens_per_second = 0;  // of those after it
};

class Generator {
 public:
  Generator(const Model& model, const SessionOptions& options)
      : decoder_(find_decoder(model)), session_(model, options) {}
  // Always the most likely token. REQUIRES a prompt and count > 0.
  GeneratedText run(std::span<const int64_t> prompt, int64_t count);

 private:
  Decoder decoder_;
  Session session_;
};

struct GenerateOptions {
  int64_t tokens = 32;  // after the prompt
  double seconds = 30;  // no round is begun after them
  int max_rounds = 5;
};

struct GenerationSide {
  double prompt_ms = 0;  // medians over the rounds
  double tokens_per_second = 0;
  std::vector<int64_t> tokens;
};

struct Generation {
  int64_t prompt_tokens = 0;
  int rounds = 0;
  GenerationSide reference;
  GenerationSide candidate;
  double prompt_speedup = 0;
  double speedup = 0;       // of the tokens after the first
  int64_t same_tokens = 0;  // before the first that differs
};

// Both models in turns, after a short warm-up.
Generation measure_generation(Generator& reference, Generator& candidate,
                              std::span<const int64_t> prompt, const GenerateOptions& options);

}  // namespace compress
