#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <new>

#include "cli/command.h"
#include "cli/machine.h"
#include "compress/core/nearest.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "formats/file.h"

namespace compress {
namespace {

extern "C" void on_signal(int number) {
  remove_temporaries();
  _exit(128 + number);
}

void handle_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
  // A write to a closed pipe is an error like any other, so that temporaries are removed.
  signal(SIGPIPE, SIG_IGN);
}

// Exactly one line, whatever a message holds.
int say_error(std::string_view message, int code) {
  std::fprintf(stderr, "error: %s\n", printable(message).c_str());
  return code;
}

struct Entry {
  CLI::App* command;
  Run run;
};

int usage_error(const CLI::App& program, const std::vector<Entry>& entries, int argc, char** argv,
                const CLI::ParseError& error) {
  std::string hint = "see compress --help";
  for (const Entry& entry : entries) {
    if (entry.command->parsed() && !entry.command->get_name().empty()) {
      hint = "see compress " + entry.command->get_name() + " --help";
    }
  }
  if (argc > 1 && program.get_subcommands().empty() && argv[1][0] != '-') {
    std::vector<std::string_view> names;
    for (const Entry& entry : entries) {
      if (!entry.command->get_group().empty()) names.push_back(entry.command->get_name());
    }
    return say_error(
        fmt::format("unknown command '{}'{}; {}", argv[1], suggestion(argv[1], names), hint),
        kUsage);
  }
  return say_error(fmt::format("{}; {}", error.what(), hint), kUsage);
}

int run_program(int argc, char** argv) {
  CLI::App program("Makes ONNX models smaller and faster, and proves it.", "compress");
  program.set_version_flag("--version",
                           "compress " + program_version() + " (" + program_build() + ")");
  program.require_subcommand(1);
  program.formatter(help_formatter());
  program.footer(
      "Examples:\n"
      "  compress inspect model.onnx\n"
      "  compress quantize model.onnx -o int8.onnx --mode static --data images.json\n"
      "  compress verify model.onnx int8.onnx --data test.npz --gate 'top1_drop<=1%'\n\n"
      "Exit codes: 0 done, 1 error, 2 wrong usage, 3 a gate failed.\n");
  std::vector<Run> runs = add_steps(program);
  for (Run (*add)(CLI::App&) : {add_run, add_batch, add_merge_reports, add_recipes, add_schema,
                                add_calibrate, add_sensitivity, add_verify, add_infer, add_inspect,
                                add_diff, add_completion, add_man, add_measure}) {
    runs.push_back(add(program));
  }
  // Subcommands stand in the order in which they were added.
  std::vector<Entry> entries;
  for (CLI::App* command : program.get_subcommands([](CLI::App*) { return true; })) {
    entries.push_back({command, runs[entries.size()]});
  }
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return program.exit(success) == 0 ? kDone : kError;
  } catch (const CLI::ParseError& error) {
    return usage_error(program, entries, argc, argv, error);
  }
  for (const Entry& entry : entries) {
    if (entry.command->parsed()) return entry.run();
  }
  return kUsage;
}

int guarded(int argc, char** argv) {
  try {
    return run_program(argc, argv);
  } catch (const Error& error) {
    return say_error(error.what(), error.code() == ErrorCode::usage ? kUsage : kError);
  } catch (const std::bad_alloc&) {
    return say_error("out of memory; a smaller --batch or a machine with more may do", kError);
  } catch (const std::exception& error) {
    return say_error(fmt::format("internal: {}; please report this", error.what()), kError);
  }
}

}  // namespace
}  // namespace compress

int main(int argc, char** argv) {
  compress::wait_passively(argv);
  compress::handle_signals();
  return compress::guarded(argc, argv);
}
