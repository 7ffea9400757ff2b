#include <dlfcn.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "compress/core/sha256.h"
#include "compress/error.h"
#include "passes/plugin/plugin.h"

namespace compress {
namespace {

std::string hash_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(ErrorCode::io, "cannot read the plug-in {}", path);
  Sha256 hash;
  std::vector<char> block(1 << 16);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0) {
    hash.update(std::string_view(block.data(), static_cast<size_t>(file.gcount())));
  }
  return hash.finish();
}

// The description that the library's entry point gives.
const compress_plugin& describe(const std::string& path) {
  // A path, so that the loader does not search its own folders.
  const std::string file = std::filesystem::absolute(path).string();
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fail(ErrorCode::io, "cannot load the plug-in: {}", dlerror());
  void* entry = dlsym(library, "compress_plugin_entry");
  if (entry == nullptr) {
    fail(ErrorCode::usage, "{} is no plug-in: it exports no compress_plugin_entry", path);
  }
  const compress_plugin* plugin =
      reinterpret_cast<compress_plugin_entry_fn>(entry)(COMPRESS_PLUGIN_ABI);
  if (plugin == nullptr) {
    fail(ErrorCode::usage, "{} does not know version {} of the plug-in interface; build it anew",
         path, COMPRESS_PLUGIN_ABI);
  }
  if (plugin->size < sizeof(compress_plugin) || plugin->abi != COMPRESS_PLUGIN_ABI) {
    fail(ErrorCode::usage,
         "{} was built for version {} of the plug-in interface, and this program has version {}; "
         "build it anew",
         path, plugin->abi, COMPRESS_PLUGIN_ABI);
  }
  return *plugin;
}

class Copier {
 public:
  explicit Copier(Plugin& plugin) : plugin_(plugin) {}

  std::string_view text(const char* text, const char* what) {
    if (text == nullptr || *text == '\0') fail(ErrorCode::usage, "{} is missing", what);
    return plugin_.texts.emplace_back(text);
  }
  std::string_view text_or_empty(const char* text) {
    return plugin_.texts.emplace_back(text == nullptr ? "" : text);
  }
  // Of lower case, digits and `between`.
  std::string_view name(const char* given, char between, const char* what) {
    const std::string_view name = text(given, what);
    const auto fits = [&](char c) {
      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == between;
    };
    if (!std::all_of(name.begin(), name.end(), fits)) {
      fail(ErrorCode::usage, "{} '{}' holds other characters than a to z, digits and '{}'", what,
           name, between);
    }
    return name;
  }

  OptionDef option(const compress_option_spec* spec) {
    constexpr OptionType kTypes[] = {OptionType::flag, OptionType::integer, OptionType::number,
                                     OptionType::text, OptionType::choice};
    if (spec == nullptr || spec->size < sizeof(*spec))
      fail(ErrorCode::usage, "an option is missing");
    const std::string_view own = name(spec->name, '-', "the name of an option");
    if (spec->type < 0 || spec->type >= static_cast<int>(std::size(kTypes))) {
      fail(ErrorCode::usage, "option '{}' is of unknown type {}", own, spec->type);
    }
    OptionDef def{own, kTypes[spec->type], text_or_empty(spec->fallback),
                  text(spec->help, "the help of an option"), text_or_empty(spec->choices)};
    if (def.type == OptionType::choice && def.choices.empty()) {
      fail(ErrorCode::usage, "option '{}' has no choices", own);
    }
    if (!def.fallback.empty()) option_from_text(def, def.fallback);
    return def;
  }

  void pass(const compress_pass* pass) {
    if (pass == nullptr || pass->size < sizeof(*pass)) fail(ErrorCode::usage, "a pass is missing");
    PluginPass copy;
    copy.run = pass->run;
    PassDef& row = copy.row;
    row.name = name(pass->name, '_', "the name of a pass");
    row.step = name(pass->step, '_', "the step of a pass");
    row.summary = text(pass->summary, "the summary of a pass");
    row.bodies = (pass->flags & COMPRESS_PASS_BODIES) != 0;
    if (pass->run == nullptr) fail(ErrorCode::usage, "pass '{}' has no function", row.name);
    if (pass->option_count > 0 && pass->options == nullptr) {
      fail(ErrorCode::usage, "pass '{}' has no options, but says {}", row.name, pass->option_count);
    }
    for (uint32_t i = 0; i < pass->option_count; ++i) {
      copy.options.push_back(option(pass->options[i]));
    }
    plugin_.passes.push_back(std::move(copy));
  }

 private:
  Plugin& plugin_;
};

}  // namespace

Json to_json(const PluginIdentity& identity) {
  return {{"name", identity.name}, {"version", identity.version}, {"sha256", identity.sha256}};
}

std::unique_ptr<Plugin> load_plugin(const std::string& path) {
  auto plugin = std::make_unique<Plugin>();
  plugin->identity.sha256 = hash_of_file(path);
  const compress_plugin& given = describe(path);
  in_context([&] { return fmt::format("in the plug-in {}", path); },
             [&] {
               Copier copy(*plugin);
               plugin->identity.name = copy.text(given.name, "its name");
               plugin->identity.version = copy.text(given.version, "its version");
               if (given.pass_count == 0 || given.passes == nullptr) {
                 fail(ErrorCode::usage, "it holds no passes");
               }
               for (uint32_t i = 0; i < given.pass_count; ++i) copy.pass(given.passes[i]);
             });
  return plugin;
}

}  // namespace compress
