#include "compress/verify/resources.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>

extern char** environ;

namespace compress {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// "VmHWM:   1234 kB" of /proc/self/status, in bytes.
uint64_t status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind(field + ":", 0) != 0) continue;
    return std::strtoull(line.c_str() + field.size() + 1, nullptr, 10) * 1024;
  }
  return 0;
}

std::vector<std::string>& self_words() {
  static std::vector<std::string> words = {"/proc/self/exe"};
  return words;
}

double seconds_of(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
}

}  // namespace

uint64_t peak_resident_bytes() { return status_bytes("VmHWM"); }
uint64_t resident_bytes() { return status_bytes("VmRSS"); }

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}

ResourceMeter::ResourceMeter() : resident_(resident_bytes()) {}

void ResourceMeter::runs_begin() {
  cpu_ = cpu_seconds();
  start_ = Clock::now();
}

ResourceUse ResourceMeter::runs_end() const {
  ResourceUse use;
  const double wall = seconds_since(start_);
  if (wall > 0) use.cpu_percent = 100 * (cpu_seconds() - cpu_) / wall;
  const uint64_t peak = peak_resident_bytes();
  use.peak_memory_bytes = peak > resident_ ? peak - resident_ : 0;
  return use;
}

const std::vector<std::string>& self_command() { return self_words(); }
void set_self_command(std::vector<std::string> words) { self_words() = std::move(words); }

std::optional<std::string> run_self(const std::vector<std::string>& arguments, double seconds) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return std::nullopt;
  std::vector<std::string> words = self_command();
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  // What runs between fork and exec is async-signal-safe only: the parent has threads.
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);
    const int null = open("/dev/null", O_RDWR);
    dup2(null, STDIN_FILENO);
    dup2(null, STDERR_FILENO);
    dup2(ends[1], STDOUT_FILENO);
    execve(argv[0], argv.data(), environ);
    _exit(127);
  }
  close(ends[1]);
  std::string text;
  const auto start = Clock::now();
  bool complete = false;
  while (child > 0) {
    const double left = seconds - seconds_since(start);
    pollfd wait{ends[0], POLLIN, 0};
    if (left <= 0 || text.size() > 65536) break;
    if (poll(&wait, 1, static_cast<int>(left * 1000) + 1) <= 0) continue;
    char buffer[4096];
    const ssize_t got = read(ends[0], buffer, sizeof buffer);
    if (got == 0) complete = true;
    if (got <= 0) break;
    text.append(buffer, static_cast<size_t>(got));
  }
  close(ends[0]);
  if (child < 0) return std::nullopt;
  if (!complete) kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  if (!complete || !WIFEXITED(status) || WEXITSTATUS(status) != 0) return std::nullopt;
  return text;
}

}  // namespace compress
