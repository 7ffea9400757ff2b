#include "cli/console.h"

#include <cstdio>
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

void print(std::string_view text) {
  if (current().out) return current().out(text);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    fail(ErrorCode::io, "standard output cannot be written");
  }
}

void say(std::string_view line) {
  if (current().side) return current().side(line);
  std::fprintf(stderr, "%s\n", std::string(line).c_str());
}

}  // namespace compress
