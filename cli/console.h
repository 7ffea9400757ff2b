// Where the program's words go: standard output and standard error, or whoever runs it in process.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace compress {

struct Console {
  std::function<void(std::string_view text)> out;   // results
  std::function<void(std::string_view line)> side;  // one line beside them, without its end
};

// Empty members stand for the streams. Not while a command runs.
void set_console(Console console);

// The text in a colour where the stream is a terminal that takes one (NO_COLOR unset or empty, TERM
// not "dumb"), else as it is.
enum class Colour { red, green, yellow };
std::string coloured(std::string_view text, Colour colour, int stream);

// Results; fails (io) where standard output cannot be written.
void print(std::string_view text);
void say(std::string_view line);

}  // namespace compress
