#include "cli/batch_plan.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <sstream>

#include "cli/machine.h"
#include "compress/core/nearest.h"
#include "compress/core/sha256.h"
#include "compress/error.h"
#include "formats/file.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxListBytes = uint64_t{64} << 20;

// One model with its own settings; empty ones are the batch's.
struct Entry {
  fs::path model;
  fs::path folder;  // of the output, relative
  std::vector<std::string> recipes;
  std::string data, labels;
};

std::string replace_all(std::string text, std::string_view what, const std::string& by) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) {
    text.replace(at, what.size(), by);
  }
  return text;
}

// The file or folder that a pattern names for a model; "" where the pattern names one that is not
// there, so that one pattern serves a zoo of which only a part has data.
std::string expand(const std::string& pattern, const fs::path& model) {
  if (pattern.empty()) return "";
  std::string path = replace_all(pattern, "{stem}", model.stem().string());
  path = replace_all(path, "{name}", model.filename().string());
  path =
      replace_all(path, "{folder}", model.has_parent_path() ? model.parent_path().string() : ".");
  if (path == pattern) return path;
  std::error_code ignored;
  return fs::exists(path, ignored) ? path : "";
}

std::vector<Entry> folder_entries(const fs::path& folder, const fs::path& outputs) {
  std::vector<Entry> entries;
  std::error_code error;
  auto walk = fs::recursive_directory_iterator(
      folder, fs::directory_options::skip_permission_denied, error);
  for (; !error && walk != fs::recursive_directory_iterator(); walk.increment(error)) {
    std::error_code ignored;
    // Outputs below the models are no models of the next run.
    if (walk->is_directory(ignored) && fs::equivalent(walk->path(), outputs, ignored)) {
      walk.disable_recursion_pending();
      continue;
    }
    if (walk->path().extension() != ".onnx" || walk->is_directory(ignored)) continue;
    const fs::path relative = walk->path().lexically_relative(folder);
    entries.push_back({walk->path(), relative.parent_path(), {}, "", ""});
  }
  if (error) fail(ErrorCode::io, "cannot list {}: {}", folder.string(), error.message());
  return entries;
}

std::vector<Entry> list_entries(const std::string& path) {
  std::vector<Entry> entries;
  std::istringstream lines(read_file(path, kMaxListBytes));
  const fs::path folder = fs::path(path).parent_path();
  for (std::string line; std::getline(lines, line);) {
    line.erase(line.find_last_not_of(" \t\r") + 1);
    line.erase(0, std::min(line.find_first_not_of(" \t"), line.size()));
    if (line.empty() || line[0] == '#') continue;
    entries.push_back({folder / line, "", {}, "", ""});
  }
  return entries;
}

// {"models": [{"model": "a.onnx", "recipes": ["int8.json"], "data": "a.npz", "labels": "a.csv"}]};
// paths are relative to the manifest.
std::vector<Entry> manifest_entries(const std::string& path) {
  const Json json = parse_json(read_file(path, kMaxListBytes), path);
  if (!json.is_object() || !json.contains("models") || !json["models"].is_array()) {
    fail(ErrorCode::usage, "{}: a manifest is {{\"models\": [{{\"model\": \"a.onnx\", ...}}]}}",
         path);
  }
  const fs::path folder = fs::path(path).parent_path();
  std::vector<Entry> entries;
  for (const Json& item : json["models"]) {
    Entry entry;
    if (!item.is_object()) fail(ErrorCode::usage, "{}: an item of models is no object", path);
    for (const auto& [key, value] : item.items()) {
      const auto text = [&, name = key](const Json& one) {
        if (!one.is_string()) fail(ErrorCode::usage, "{}: '{}' must be a string", path, name);
        return one.get<std::string>();
      };
      const auto file = [&](const Json& one) { return (folder / text(one)).string(); };
      if (key == "model") {
        entry.model = file(value);
      } else if (key == "recipes") {
        if (!value.is_array()) fail(ErrorCode::usage, "{}: 'recipes' must be a list", path);
        for (const Json& one : value) {
          std::error_code ignored;
          entry.recipes.push_back(fs::exists(folder / text(one), ignored) ? file(one) : text(one));
        }
      } else if (key == "data") {
        entry.data = file(value);
      } else if (key == "labels") {
        entry.labels = file(value);
      } else {
        constexpr std::string_view kKeys[] = {"model", "recipes", "data", "labels"};
        fail(ErrorCode::usage, "{}: unknown key '{}'{}", path, key, suggestion(key, kKeys));
      }
    }
    if (entry.model.empty()) fail(ErrorCode::usage, "{}: an item has no model", path);
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::vector<Entry> find_entries(const BatchRequest& request) {
  std::error_code ignored;
  if (fs::is_directory(request.source, ignored)) {
    return folder_entries(request.source, request.folder);
  }
  if (!fs::exists(request.source, ignored)) {
    fail(ErrorCode::io, "{}: no such file or folder", request.source);
  }
  const fs::path path(request.source);
  if (path.extension() == ".onnx") return {{path, "", {}, "", ""}};
  return path.extension() == ".json" ? manifest_entries(request.source)
                                     : list_entries(request.source);
}

// Names, sizes and times: content would be read again for every model.
void hash_data(Sha256& hash, const std::string& path) {
  std::error_code ignored;
  const auto add = [&](const fs::path& file) {
    const auto time = fs::last_write_time(file, ignored).time_since_epoch().count();
    hash.update(fmt::format("{} {} {}\n", file.string(), fs::file_size(file, ignored), time));
  };
  if (!fs::is_directory(path, ignored)) return add(path);
  std::vector<fs::path> files;
  for (auto walk = fs::recursive_directory_iterator(path, ignored);
       walk != fs::recursive_directory_iterator(); walk.increment(ignored)) {
    if (!walk->is_directory(ignored)) files.push_back(walk->path());
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) add(file);
}

std::string key_of(const BatchJob& job, const NamedRecipe& recipe, const BatchRequest& request,
                   const std::string& model_hash) {
  Sha256 hash;
  hash.update(program_version() + "\n" + model_hash + "\n" + recipe.recipe.to_json().dump() + "\n");
  hash.update(job.output + "\n");
  for (const std::string& path : {job.data, job.labels}) {
    hash.update("data\n");
    if (!path.empty()) hash_data(hash, path);
  }
  for (const std::string& flag : request.flags) hash.update(flag + "\n");
  for (const std::string& plugin : request.plugins) hash.update("plugin " + plugin + "\n");
  return hash.finish();
}

}  // namespace

std::vector<BatchJob> plan_batch(const BatchRequest& request) {
  std::vector<Entry> entries = find_entries(request);
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.model < b.model; });
  std::map<std::string, NamedRecipe> recipes;
  const auto recipe_of = [&](const std::string& name) -> const NamedRecipe& {
    const auto row = recipes.find(name);
    return row != recipes.end() ? row->second
                                : recipes.emplace(name, load_recipe(name)).first->second;
  };
  for (const std::string& name : request.recipes) recipe_of(name);
  std::map<std::string, std::string> outputs;  // and who writes them
  std::vector<BatchJob> jobs;
  int64_t number = 0;
  for (const Entry& entry : entries) {
    const std::vector<std::string>& names = entry.recipes.empty() ? request.recipes : entry.recipes;
    if (names.empty()) {
      fail(ErrorCode::usage,
           "no recipe for {}; name one with --recipe (compress recipes lists "
           "ready ones)",
           entry.model.string());
    }
    std::string model_hash;
    for (const std::string& name : names) {
      const NamedRecipe& recipe = recipe_of(name);
      BatchJob job;
      job.model = entry.model.string();
      job.recipe = name;
      job.output = (fs::path(request.folder) / entry.folder /
                    (entry.model.stem().string() + "_" + recipe.suffix + ".onnx"))
                       .lexically_normal()
                       .string();
      const auto [row, is_new] = outputs.emplace(job.output, job.model + " by " + name);
      if (!is_new) {
        fail(ErrorCode::usage, "{} and {} by {} would both write {}", row->second, job.model, name,
             job.output);
      }
      if (number++ % request.shards != request.shard - 1) continue;
      job.data = entry.data.empty() ? expand(request.data, entry.model) : entry.data;
      job.labels = entry.labels.empty() ? expand(request.labels, entry.model) : entry.labels;
      std::error_code ignored;
      const auto bytes = fs::file_size(entry.model, ignored);
      job.input_bytes = ignored ? 0 : bytes;
      try {
        if (model_hash.empty()) model_hash = sha256_file(job.model);
        job.key = key_of(job, recipe, request, model_hash);
      } catch (const Error&) {
        // Its run will say what is wrong with it.
      }
      jobs.push_back(std::move(job));
    }
  }
  if (outputs.empty()) fail(ErrorCode::usage, "{} has no models (.onnx)", request.source);
  return jobs;
}

}  // namespace compress
