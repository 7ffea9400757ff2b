// Passes from shared libraries (--plugin), behind the C interface of compress_plugin.h.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "passes/pass.h"
#include "passes/plugin/compress_plugin.h"

namespace compress {

// What reports and the written model say of a plug-in.
struct PluginIdentity {
  std::string name;
  std::string version;
  std::string sha256;  // of the library's file
};
Json to_json(const PluginIdentity& identity);

struct PluginPass {
  PassDef row;  // without `run`
  std::vector<OptionDef> options;
  int (*run)(const compress_host*, compress_context*) = nullptr;
};

// A plug-in's description, copied out of the library and checked. The library stays loaded.
struct Plugin {
  PluginIdentity identity;
  std::vector<PluginPass> passes;
  std::deque<std::string> texts;  // what names in the rows refer to
};

// Fails (io) where the file cannot be read or loaded, (usage) where it is no plug-in of this
// version, or describes what cannot be.
std::unique_ptr<Plugin> load_plugin(const std::string& path);

PassResult run_plugin_pass(const Plugin& plugin, const PluginPass& pass, Model& model,
                           PassContext& context);

// From now on all_passes() and all_steps() hold the passes of these libraries and of no others:
// each after its step's own, its options among the step's. Not while a pipeline runs. Fails as
// load_plugin, and (usage) where a step is unknown or a name is taken.
void use_plugins(const std::vector<std::string>& paths);
std::vector<PluginIdentity> plugins_in_use();

}  // namespace compress
