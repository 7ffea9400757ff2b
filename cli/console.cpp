#include "cli/console.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "compress/error.h"

namespace compress {
namespace {

Console& current() {
  static Console console;
  return console;
}

}  // namespace

void set_console(Console console) { current() = std::move(console); }

std::string coloured(std::string_view text, Colour colour, int stream) {
  const char* refused = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  const bool plain = (refused != nullptr && *refused != '\0') || terminal == nullptr ||
                     std::string_view(terminal) == "dumb" || isatty(stream) != 1;
  if (plain) return std::string(text);
  const int code = colour == Colour::red ? 31 : colour == Colour::green ? 32 : 33;
  return fmt::format("\033[{}m{}\033[0m", code, text);
}

void print(std::string_view text) {
  if (current().out) return current().out(text);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    fail(ErrorCode::io, "standard output cannot be written");
  }
}

void say(std::string_view line) {
  if (current().side) return current().side(line);
  constexpr std::string_view kWarning = "warning:";
  std::string text(line);
  if (line.starts_with(kWarning)) {
    text = coloured(kWarning, Colour::yellow, STDERR_FILENO) +
           std::string(line.substr(kWarning.size()));
  }
  std::fprintf(stderr, "%s\n", text.c_str());
}

}  // namespace compress
