#include "compress/core/interruption.h"

#include <atomic>
#include <chrono>

namespace compress {
namespace {

using Clock = std::chrono::steady_clock;
constexpr Clock::duration kInterval = std::chrono::milliseconds(50);

std::atomic<void (*)()> interruption = nullptr;
std::atomic<Clock::duration> last_asked{};

}  // namespace

void set_interruption(void (*check)()) { interruption = check; }

void check_interruption() {
  void (*const check)() = interruption;
  if (check == nullptr) return;
  const Clock::duration now = Clock::now().time_since_epoch();
  if (now - last_asked.load() < kInterval) return;
  last_asked = now;
  check();
}

}  // namespace compress
