#include "cli/workers.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "compress/error.h"

namespace compress {
namespace {

// From /proc; 0 where the process is gone.
uint64_t resident_of(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/statm", pid));
  uint64_t total = 0, resident = 0;
  file >> total >> resident;
  return file ? resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) : 0;
}

}  // namespace

Workers::~Workers() {
  for (const Process& process : processes_) kill(process.pid, SIGTERM);
  for (const Process& process : processes_) waitpid(process.pid, nullptr, 0);
}

void Workers::start(size_t job, const std::vector<std::string>& argv, const std::string& log) {
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (out < 0) fail(ErrorCode::io, "cannot write {}: {}", log, std::strerror(errno));
  const int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  // What runs between fork and exec is async-signal-safe only.
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    signal(SIGPIPE, SIG_DFL);
    if (getppid() != parent) _exit(127);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    execv(words[0], words.data());
    _exit(127);
  }
  const int reason = errno;
  close(out);
  if (in >= 0) close(in);
  if (pid < 0) fail(ErrorCode::io, "cannot start a process: {}", std::strerror(reason));
  processes_.push_back({pid, job, std::chrono::steady_clock::now()});
}

std::optional<Workers::Ended> Workers::wait(std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (!processes_.empty()) {
    for (auto process = processes_.begin(); process != processes_.end(); ++process) {
      int status = 0;
      rusage use{};
      if (wait4(process->pid, &status, WNOHANG, &use) != process->pid) continue;
      Ended ended;
      ended.job = process->job;
      ended.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      ended.seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - process->start).count();
      ended.peak_bytes = static_cast<uint64_t>(use.ru_maxrss) * 1024;
      processes_.erase(process);
      return ended;
    }
    if (std::chrono::steady_clock::now() >= end) return std::nullopt;
    usleep(10'000);
  }
  return std::nullopt;
}

uint64_t Workers::resident_bytes() const {
  uint64_t sum = 0;
  for (const Process& process : processes_) sum += resident_of(process.pid);
  return sum;
}

size_t Workers::youngest() const { return processes_.back().job; }

void Workers::stop(size_t job) {
  const auto process = std::find_if(processes_.begin(), processes_.end(),
                                    [&](const Process& row) { return row.job == job; });
  if (process == processes_.end()) return;
  kill(process->pid, SIGKILL);
  waitpid(process->pid, nullptr, 0);
  processes_.erase(process);
}

}  // namespace compress
