#include "cli/batch_manifest.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "compress/error.h"
#include "formats/file.h"

namespace compress {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSchema = "compress.manifest/1";
constexpr uint64_t kMaxBytes = uint64_t{256} << 20;

}  // namespace

BatchManifest::BatchManifest(std::string folder, std::string name)
    : path_((fs::path(folder) / name).string()) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(ErrorCode::io, "cannot make the folder {}: {}", folder, error.message());
  const std::string lock = (fs::path(folder) / ("." + name + ".lock")).string();
  lock_ = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (lock_ < 0) fail(ErrorCode::io, "cannot write {}: {}", lock, std::strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    close(lock_);
    fail(ErrorCode::io, "another batch is writing to {}; give each its own --shard", folder);
  }
  std::vector<fs::path> files;
  for (const auto& file : fs::directory_iterator(folder, error)) {
    const std::string stem = file.path().filename().string();
    if (stem.starts_with("manifest") && stem.ends_with(".json")) files.push_back(file.path());
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) read(file.string(), file.string() == path_);
}

BatchManifest::~BatchManifest() {
  if (lock_ >= 0) close(lock_);
}

void BatchManifest::read(const std::string& path, bool own) {
  try {
    const Json json = parse_json(read_file(path, kMaxBytes), path);
    if (json.value("schema", "") != kSchema) return;
    for (const auto& [key, value] : json.at("finished").items()) {
      BatchSummary one = read_summary(value.at("summary").dump(), path);
      const Entry entry{one.rows.at(0), value.at("output_sha256").get<std::string>()};
      entries_[key] = entry;
      if (own) own_[key] = entry;
    }
  } catch (const Error&) {
    // Torn or foreign: its outputs are made again.
  } catch (const std::exception&) {
  }
}

const BatchRow* BatchManifest::find(const std::string& key) const {
  const auto entry = entries_.find(key);
  if (key.empty() || entry == entries_.end()) return nullptr;
  try {
    const BatchRow& row = entry->second.row;
    return sha256_file(row.output) == entry->second.output_sha256 ? &row : nullptr;
  } catch (const Error&) {
    return nullptr;
  }
}

void BatchManifest::add(const std::string& key, const BatchRow& row) {
  entries_[key] = own_[key] = {row, sha256_file(row.output)};
  Json json = {{"schema", kSchema}, {"finished", Json::object()}};
  for (const auto& [name, entry] : own_) {
    BatchSummary one;
    one.rows = {entry.row};
    json["finished"][name] = {{"summary", to_json(one)}, {"output_sha256", entry.output_sha256}};
  }
  AtomicFile file(path_, true);
  file.write(json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  file.commit();
}

}  // namespace compress
