#include <chrono>

#include "cli/verification.h"
#include "compress/runtime/session.h"
#include "formats/onnx.h"

namespace compress {
namespace {

struct Command {
  CommonFlags flags;
  std::string model;
};

int run(const Command& command) {
  ResourceMeter meter;
  apply(command.flags);
  SessionOptions options;
  options.lower = !command.flags.no_lower;
  const Model model = read_onnx(command.model);
  Session session(model, options);
  const auto feed = random_feed(model, input_shapes(command.flags), command.flags.seed);
  session.run(feed);
  // Long enough for the clock of processor time, which ticks in milliseconds.
  constexpr auto kRuns = std::chrono::milliseconds(300);
  const auto start = std::chrono::steady_clock::now();
  meter.runs_begin();
  do {
    session.run_discarding(feed);
  } while (std::chrono::steady_clock::now() - start < kRuns);
  const ResourceUse use = meter.runs_end();
  print(
      Json{{"peak_memory_bytes", use.peak_memory_bytes}, {"cpu_percent", use.cpu_percent}}.dump());
  return kDone;
}

}  // namespace

Run add_measure(CLI::App& program) {
  CLI::App* command = program.add_subcommand("measure-one", "");
  command->group("");  // hidden: verification runs it
  auto state = std::make_shared<Command>();
  command->add_option("MODEL", state->model)->required();
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  return [state] { return run(*state); };
}

}  // namespace compress
