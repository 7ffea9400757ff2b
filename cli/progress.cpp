#include "cli/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace compress {

using Clock = std::chrono::steady_clock;

Progress::Progress(bool enabled)
    : enabled_(enabled && isatty(STDERR_FILENO) == 1), start_(Clock::now()), last_(start_) {}

Progress::~Progress() { clear(); }

void Progress::stage(std::string name) {
  stage_ = std::move(name);
  start_ = last_ = Clock::now();
}

void Progress::update(int64_t done, int64_t total, const std::string& note) {
  constexpr auto kPatience = std::chrono::seconds(2);
  constexpr auto kInterval = std::chrono::milliseconds(100);
  const auto now = Clock::now();
  if (!enabled_ || now - start_ < kPatience || now - last_ < kInterval) return;
  last_ = now;
  shown_ = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double left =
      done > 0 ? seconds * static_cast<double>(total - done) / static_cast<double>(done) : 0;
  std::string line = fmt::format("{} {}/{}", stage_, done, total);
  if (done > 0) line += fmt::format(", {:.0f} s left", left);
  if (!note.empty()) line += ": " + note;
  // One line of the terminal, since it is written over.
  winsize window{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1;
  line.resize(std::min<size_t>(line.size(), known ? window.ws_col - 1U : 100));
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
}

std::function<void(int64_t, int64_t)> Progress::callback() {
  if (!enabled_) return {};
  return [this](int64_t done, int64_t total) { update(done, total); };
}

void Progress::clear() {
  if (!shown_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace compress
