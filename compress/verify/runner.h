// Something that runs one model: a session of ours, or another engine.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "compress/runtime/session.h"

namespace compress {

struct Runner {
  std::vector<std::string> outputs;
  std::function<std::vector<Tensor>(std::span<const NamedTensor>)> run;
  // Chooses what time() runs on, and runs it once; the feeds outlive the calls of time().
  std::function<void(std::span<const NamedTensor>)> prepare;
  std::function<double()> time;  // milliseconds of one run
};

// The session outlives the runner.
Runner runner_of(Session& session);

}  // namespace compress
