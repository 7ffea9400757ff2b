#include "cli/generation.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "compress/error.h"
#include "compress/verify/generate.h"

namespace compress {
namespace {

constexpr int64_t kPromptTokens = 64;
// Ids below this are in every vocabulary.
constexpr uint64_t kMostId = 100;
constexpr double kMostSeconds = 20;

std::vector<int64_t> random_prompt(const CommonFlags& flags) {
  const auto shapes = input_shapes(flags);
  const auto row = shapes.find("input_ids");
  std::vector<int64_t> prompt(
      static_cast<size_t>(row == shapes.end() ? kPromptTokens : row->second.count()));
  std::mt19937_64 random(flags.seed);
  for (int64_t& id : prompt) id = static_cast<int64_t>(random() % kMostId);
  return prompt;
}

// The first row of the first sample, without the padding that its mask tells of.
std::vector<int64_t> prompt_of(const Sample& sample) {
  std::vector<int64_t> prompt, mask;
  for (const NamedTensor& input : sample.inputs) {
    if (input.name == "input_ids") prompt = input.tensor.to_ints();
    if (input.name == "attention_mask") mask = input.tensor.to_ints();
    if (input.name == "input_ids" && input.tensor.shape().rank() == 2) {
      prompt.resize(static_cast<size_t>(input.tensor.shape()[1]));
    }
  }
  if (mask.size() >= prompt.size()) {
    const auto padding = std::find(mask.begin(), mask.end(), 0);
    prompt.resize(std::min(prompt.size(), static_cast<size_t>(padding - mask.begin())));
  }
  return prompt;
}

}  // namespace

void generate_here(const Model& reference, const Model& candidate, const SessionOptions& options,
                   JobData& data, const CommonFlags& flags, const VerifyExtras& extras,
                   Report& report) {
  if (extras.generate == 0) return;
  const std::vector<int64_t> prompt =
      data.evaluation == nullptr ? random_prompt(flags)
                                 : prompt_of(data.evaluation->get(data.evaluation_indices.at(0)));
  if (prompt.empty()) fail(ErrorCode::usage, "--generate: the first sample holds no input_ids");
  Generator a(reference, options), b(candidate, options);
  GenerateOptions generate;
  generate.tokens = extras.generate;
  generate.seconds = std::min(flags.time_budget, kMostSeconds);
  report.generation = measure_generation(a, b, prompt, generate);
}

}  // namespace compress
