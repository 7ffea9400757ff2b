#pragma once

#include <map>
#include <string>

#include "compress/core/shape.h"

namespace bench {

// Sizes for inputs whose shapes the models leave open, by the start of the model's name.
inline std::map<std::string, compress::Shape> shapes_for(const std::string& model) {
  if (model.starts_with("minilm_l6_v2")) {
    return {{"input_ids", {1, 64}}, {"attention_mask", {1, 64}}, {"token_type_ids", {1, 64}}};
  }
  if (model.starts_with("stories260k")) return {{"input_ids", {1, 128}}};
  if (model.starts_with("ppocr_v2_cls")) return {{"x", {1, 3, 48, 192}}};
  if (model.starts_with("ppocr_v4_rec")) return {{"x", {1, 3, 48, 320}}};
  if (model.starts_with("yunet_n_dynamic")) return {{"input", {1, 3, 320, 320}}};
  if (model.starts_with("silero_vad_16k")) return {{"input", {1, 512}}, {"state", {2, 1, 128}}};
  if (model.starts_with("tiny_random_gpt2")) {
    std::map<std::string, compress::Shape> shapes{
        {"input_ids", {1, 8}}, {"position_ids", {1, 8}}, {"attention_mask", {1, 16}}};
    for (int i = 0; i < 5; ++i) shapes["past_" + std::to_string(i)] = {2, 1, 4, 8, 8};
    return shapes;
  }
  return {};
}

}  // namespace bench
