// Recipes by name or path, and the ready ones that the program carries.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "compress/recipe.h"

namespace compress {

struct ReadyRecipe {
  std::string_view name;    // "cpu-int8"
  std::string_view suffix;  // of outputs in a batch: model_int8.onnx
  std::string_view goal;    // one line
  std::string_view text;    // JSON
};
std::span<const ReadyRecipe> ready_recipes();

struct NamedRecipe {
  std::string name;    // as the user wrote it
  std::string suffix;  // of a ready recipe, or the file's stem
  std::string folder;  // paths in the recipe are relative to it
  Recipe recipe;
};

// A file, or the name of a ready recipe where there is no such file. Fails (usage or io) naming the
// nearest ready recipe.
NamedRecipe load_recipe(const std::string& name);

}  // namespace compress
