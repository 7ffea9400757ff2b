// A line on a terminal for what takes longer than two seconds.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

namespace compress {

class Progress {
 public:
  // Shows nothing where standard error is no terminal or `enabled` is false.
  explicit Progress(bool enabled);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // "calibrating", "verifying": the name of what follows.
  void stage(std::string name);
  // Another name for the stage that runs.
  void rename(std::string name) { stage_ = std::move(name); }
  // `note`: what is being done now.
  void update(int64_t done, int64_t total, const std::string& note = "");
  // update() as a callback; empty where nothing is to be shown.
  std::function<void(int64_t, int64_t)> callback();
  void clear();

 private:
  bool enabled_;
  bool shown_ = false;
  std::string stage_;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace compress
