// Recipes by name or path, and the ready ones that the program carries.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "cli/command.h"
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

// What the step {"verify": {...}} of a recipe may say. It can only come last: whatever the steps
// before it make is verified in any case, and it says how.
std::span<const OptionDef> verify_options();
// Takes that step out of the recipe and into the flags; what stood on the command line (`given`
// says so for a long flag) wins. The step as it was, or null. Fails (usage).
Json take_verification(Recipe& recipe, CommonFlags& flags,
                       const std::function<bool(const std::string&)>& given);

}  // namespace compress
