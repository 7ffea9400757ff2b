#include "compress/core/plug_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

namespace compress {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> places_of(const char* file, const char* variable) {
  if (const char* given = std::getenv(variable)) return {given};
  std::vector<std::string> paths;
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  if (!program.empty()) {
    for (const fs::path& folder : {program.parent_path(), program.parent_path() / "../lib"}) {
      if (fs::exists(folder / file, ignored)) paths.push_back((folder / file).string());
    }
  }
  paths.emplace_back(file);
  return paths;
}

}  // namespace

void* open_plug_library(const char* file, const char* variable, bool global, std::string& why) {
  for (const std::string& path : places_of(file, variable)) {
    void* library = dlopen(path.c_str(), RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL));
    if (library != nullptr) return library;
    why = dlerror();
  }
  return nullptr;
}

}  // namespace compress
