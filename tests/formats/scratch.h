// Folders and outside tools for tests of files.
#pragma once

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace compress {

// A folder of this process, removed at the end.
class Scratch {
 public:
  Scratch() {
    static int number = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("compress-test-" + std::to_string(getpid()) + "-" + std::to_string(number++));
    std::filesystem::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(std::string_view name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

inline void write_bytes(const std::string& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
}

inline std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Runs a Python script of the tests with ONNX, NumPy and Pillow; false (with a visible note) where
// that Python is not installed.
inline bool run_python(const std::string& script, const std::string& arguments) {
  const std::string python = COMPRESS_PYTHON;
  if (!std::filesystem::exists(python)) {
    WARN("skipped: " << python << " is missing (scripts/setup)");
    return false;
  }
  const std::string command = "'" + python + "' '" + script + "' '" + arguments + "'";
  REQUIRE(std::system(command.c_str()) == 0);
  return true;
}

}  // namespace compress
