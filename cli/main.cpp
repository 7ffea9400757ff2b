#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <new>

#include "cli/console.h"
#include "cli/program.h"
#include "cli/ranks.h"
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
  wait_for_first_rank();
  std::fprintf(stderr, "%s %s\n", coloured("error:", Colour::red, STDERR_FILENO).c_str(),
               printable(message).c_str());
  end_other_ranks(code);
  return code;
}

int guarded(int argc, char** argv) {
  try {
    return Program({argv + 1, argv + argc}).run();
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
  compress::take_launch();
  return compress::guarded(argc, argv);
}
