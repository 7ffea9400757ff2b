// What a batch has finished, so that a later one does only what is missing or torn.
#pragma once

#include <map>
#include <string>

#include "compress/recipe.h"
#include "compress/report/batch.h"

namespace compress {

class BatchManifest {
 public:
  // Reads every manifest in `folder`; what this process finishes goes to `name` there. Fails (io)
  // where another process writes that one. A manifest that cannot be read counts as absent.
  BatchManifest(std::string folder, std::string name);
  ~BatchManifest();
  BatchManifest(const BatchManifest&) = delete;
  BatchManifest& operator=(const BatchManifest&) = delete;

  // The row of a finished job whose output is still what it was; nullptr where there is none.
  const BatchRow* find(const std::string& key) const;
  // Writes the manifest anew, atomically.
  void add(const std::string& key, const BatchRow& row);

 private:
  struct Entry {
    BatchRow row;
    std::string output_sha256;
  };
  void read(const std::string& path, bool own);

  std::string path_;
  int lock_ = -1;
  std::map<std::string, Entry> entries_;  // by key
  std::map<std::string, Entry> own_;
};

}  // namespace compress
