// A child process that answers requests over pipes, with a limit on every wait.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace compress {

class Child {
 public:
  // Runs argv[0], looked up on PATH, without a shell. Fails (unsupported) where it cannot be
  // started. File descriptor 3 of the child is an empty file in memory: file_path() here.
  explicit Child(const std::vector<std::string>& argv);
  // The child is told to end by the end of its input, then killed; never left as a zombie. It dies
  // with this process as well.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  // All of these fail (unsupported) where the child ends or lets `seconds` pass, with how it ended
  // and the last line that it wrote to standard error; it is dead then.
  void write(std::span<const std::byte> bytes, double seconds);
  std::string read_line(double seconds);
  void read(std::span<std::byte> bytes, double seconds);

  std::string file_path() const;

 private:
  using Clock = std::chrono::steady_clock;
  [[noreturn]] void give_up(bool timed_out, double seconds);
  void wait_for(int fd, short events, Clock::time_point end, double seconds);
  void stop();
  std::string last_words() const;

  std::string name_;
  pid_t pid_ = -1;
  int to_ = -1;
  int from_ = -1;
  int memory_ = -1;  // the child's descriptor 3
  int errors_ = -1;  // the child's standard error, in memory and of limited size
  std::string pending_;
};

}  // namespace compress
