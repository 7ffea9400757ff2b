// Child processes that run side by side and are waited for together.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace compress {

class Workers {
 public:
  struct Ended {
    size_t job = 0;
    int exit_code = 0;  // 128 + the signal where one ended it
    double seconds = 0;
    uint64_t peak_bytes = 0;  // of resident memory
  };

  Workers() = default;
  // Whoever still runs is told to end (SIGTERM, which removes its temporaries) and waited for.
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // Runs argv[0] without a shell; both of its outputs go to the file `log`. A worker does not
  // outlive this process. Fails (io) where it cannot be started.
  void start(size_t job, const std::vector<std::string>& argv, const std::string& log);
  // One that has ended, or nullopt after `patience`.
  std::optional<Ended> wait(std::chrono::milliseconds patience);
  size_t running() const { return processes_.size(); }
  // Memory that all of them have now.
  uint64_t resident_bytes() const;
  // The one that was started last. REQUIRES running() > 0.
  size_t youngest() const;
  // Kills it; wait() will not return it.
  void stop(size_t job);

 private:
  struct Process {
    pid_t pid;
    size_t job;
    std::chrono::steady_clock::time_point start;
  };
  std::vector<Process> processes_;  // in the order of their start
};

}  // namespace compress
