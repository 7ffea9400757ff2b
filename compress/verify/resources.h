// What a model costs a process that does nothing else.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace compress {

struct ResourceUse {
  uint64_t peak_memory_bytes = 0;  // largest resident set, minus that before the model was opened
  double cpu_percent = 0;          // processor time / wall time of the runs; 200: two cores
};

// Largest resident set of this process so far, and now; bytes.
uint64_t peak_resident_bytes();
uint64_t resident_bytes();
// User and system time of this process, seconds.
double cpu_seconds();

// In the child: starts before the model is opened.
class ResourceMeter {
 public:
  ResourceMeter();
  void runs_begin();  // what follows counts as running, no longer as loading
  ResourceUse runs_end() const;

 private:
  uint64_t resident_ = 0;
  double cpu_ = 0;
  std::chrono::steady_clock::time_point start_;
};

// The words that start this program once more; "/proc/self/exe" unless it is part of another, which
// says how before anything runs.
const std::vector<std::string>& self_command();
void set_self_command(std::vector<std::string> words);

// In the parent: runs this program with `arguments` and returns what it printed on standard output,
// or nullopt where it failed, was killed or took longer than `seconds`.
std::optional<std::string> run_self(const std::vector<std::string>& arguments, double seconds);

}  // namespace compress
