#include "cli/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "compress/error.h"

namespace compress {
namespace {

constexpr size_t kErrorBytes = size_t{64} << 10;
constexpr size_t kLongestLine = size_t{256} << 20;
constexpr int kFirstFree = 10;  // of descriptors in the child, above those that it is given

void close_all(std::initializer_list<int> fds) {
  for (const int fd : fds) {
    if (fd >= 0) close(fd);
  }
}

// What the child says is kept in memory; what is beyond the limit is refused to it.
int limited_file(const char* name) {
  const int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return -1;
  if (ftruncate(fd, kErrorBytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

}  // namespace

Child::Child(const std::vector<std::string>& argv) : name_(argv[0]) {
  std::array<int, 2> in = {-1, -1}, out = {-1, -1}, failed = {-1, -1};
  memory_ = memfd_create("compress-model", MFD_CLOEXEC);
  errors_ = limited_file("compress-errors");
  const bool made = memory_ >= 0 && errors_ >= 0 && pipe2(in.data(), O_CLOEXEC) == 0 &&
                    pipe2(out.data(), O_CLOEXEC) == 0 && pipe2(failed.data(), O_CLOEXEC) == 0;
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  // What runs between fork and exec is async-signal-safe only: the parent has threads.
  const pid_t parent = getpid();
  pid_ = made ? fork() : -1;
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_DFL);
    if (getppid() != parent) _exit(127);
    const int input = fcntl(in[0], F_DUPFD_CLOEXEC, kFirstFree);
    const int output = fcntl(out[1], F_DUPFD_CLOEXEC, kFirstFree);
    const int file = fcntl(memory_, F_DUPFD_CLOEXEC, kFirstFree);
    const int errors = fcntl(errors_, F_DUPFD_CLOEXEC, kFirstFree);
    const int report = fcntl(failed[1], F_DUPFD_CLOEXEC, kFirstFree);
    dup2(input, STDIN_FILENO);
    dup2(output, STDOUT_FILENO);
    dup2(errors, STDERR_FILENO);
    dup2(file, 3);
    execvp(words[0], words.data());
    const int reason = errno;
    if (::write(report, &reason, sizeof reason) < 0) _exit(126);
    _exit(127);
  }
  close_all({in[0], out[1], failed[1]});
  to_ = in[1];
  from_ = out[0];
  int reason = 0;
  if (pid_ > 0) {
    ssize_t got = 0;
    do {
      got = ::read(failed[0], &reason, sizeof reason);
    } while (got < 0 && errno == EINTR);
    close(failed[0]);
    if (got <= 0) {
      fcntl(to_, F_SETFL, O_NONBLOCK);
      return;
    }
  } else {
    reason = errno;
    close_all({failed[0]});
  }
  stop();
  fail(ErrorCode::unsupported, "'{}' cannot be started: {}", name_, std::strerror(reason));
}

Child::~Child() { stop(); }

std::string Child::file_path() const { return fmt::format("/proc/self/fd/{}", memory_); }

void Child::stop() {
  close_all({to_, from_});
  to_ = from_ = -1;
  if (pid_ > 0) {
    // The end of its input is its sign to leave.
    int status = 0;
    for (int i = 0; i < 20 && waitpid(pid_, &status, WNOHANG) == 0; ++i) usleep(10'000);
    if (waitpid(pid_, &status, WNOHANG) == 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, &status, 0);
    }
    pid_ = -1;
  }
  close_all({memory_, errors_});
  memory_ = errors_ = -1;
}

std::string Child::last_words() const {
  std::string text(kErrorBytes, '\0');
  const ssize_t got = pread(errors_, text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  text.resize(std::min(text.find('\0'), text.size()));
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  const size_t line = text.rfind('\n');
  if (line != std::string::npos) text.erase(0, line + 1);
  return text.substr(0, 300);
}

void Child::give_up(bool timed_out, double seconds) {
  std::string how;
  if (timed_out) {
    how = fmt::format("gave no answer within {:.3g} s", seconds);
  } else {
    // Its pipe is closed; give it a moment to be gone.
    int status = 0;
    pid_t ended = 0;
    for (int i = 0; i < 100 && ended == 0; ++i) {
      ended = waitpid(pid_, &status, WNOHANG);
      if (ended == 0) usleep(10'000);
    }
    if (ended == pid_) {
      how = WIFSIGNALED(status) ? fmt::format("was killed by signal {} ({})", WTERMSIG(status),
                                              strsignal(WTERMSIG(status)))
                                : fmt::format("ended with status {}", WEXITSTATUS(status));
      pid_ = -1;
    } else {
      how = "closed its output";
    }
  }
  const std::string words = last_words();
  if (pid_ > 0) kill(pid_, SIGKILL);
  stop();
  fail(ErrorCode::unsupported, "the process of '{}' {}{}{}", name_, how,
       words.empty() ? "" : "; its last words: ", words);
}

void Child::wait_for(int fd, short events, Clock::time_point end, double seconds) {
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) give_up(true, seconds);
    pollfd wait{fd, events, 0};
    const int ready = poll(&wait, 1, static_cast<int>(std::min<int64_t>(left + 1, 1 << 30)));
    if (ready > 0) return;
    if (ready < 0 && errno != EINTR) give_up(false, seconds);
  }
}

void Child::write(std::span<const std::byte> bytes, double seconds) {
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(seconds));
  while (!bytes.empty()) {
    if (to_ < 0) fail(ErrorCode::unsupported, "the process of '{}' has ended", name_);
    const ssize_t sent = ::write(to_, bytes.data(), bytes.size());
    if (sent > 0) {
      bytes = bytes.subspan(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      wait_for(to_, POLLOUT, end, seconds);
    } else if (errno != EINTR) {
      give_up(false, seconds);
    }
  }
}

std::string Child::read_line(double seconds) {
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(seconds));
  size_t searched = 0;
  while (true) {
    const size_t at = pending_.find('\n', searched);
    if (at != std::string::npos) {
      std::string line = pending_.substr(0, at);
      pending_.erase(0, at + 1);
      return line;
    }
    searched = pending_.size();
    if (from_ < 0 || searched > kLongestLine) give_up(false, seconds);
    wait_for(from_, POLLIN, end, seconds);
    std::array<char, 65536> buffer;
    const ssize_t got = ::read(from_, buffer.data(), buffer.size());
    if (got == 0 || (got < 0 && errno != EINTR)) give_up(false, seconds);
    if (got > 0) pending_.append(buffer.data(), static_cast<size_t>(got));
  }
}

void Child::read(std::span<std::byte> bytes, double seconds) {
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                      std::chrono::duration<double>(seconds));
  const size_t ready = std::min(pending_.size(), bytes.size());
  std::memcpy(bytes.data(), pending_.data(), ready);
  pending_.erase(0, ready);
  bytes = bytes.subspan(ready);
  while (!bytes.empty()) {
    wait_for(from_, POLLIN, end, seconds);
    const ssize_t got = ::read(from_, bytes.data(), bytes.size());
    if (got == 0 || (got < 0 && errno != EINTR)) give_up(false, seconds);
    if (got > 0) bytes = bytes.subspan(static_cast<size_t>(got));
  }
}

}  // namespace compress
