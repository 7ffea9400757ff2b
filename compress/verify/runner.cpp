#include "compress/verify/runner.h"

#include <chrono>
#include <memory>

namespace compress {

Runner runner_of(Session& session) {
  const auto feeds = std::make_shared<std::span<const NamedTensor>>();
  Runner out;
  out.outputs = session.output_names();
  out.run = [&session](std::span<const NamedTensor> inputs) { return session.run(inputs); };
  out.prepare = [&session, feeds](std::span<const NamedTensor> inputs) {
    *feeds = inputs;
    session.run(inputs);
  };
  out.time = [&session, feeds] {
    const auto start = std::chrono::steady_clock::now();
    session.run_discarding(*feeds);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
  };
  return out;
}

}  // namespace compress
