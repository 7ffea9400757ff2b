// Errors: a code that decides the exit status, one message, and the chain of what was being done.
//
// User input and files lead to an Error, thrown where the fact is known; callers add context on the
// way up (in_context). Programmer mistakes are assert()s. "Does not apply" is a returned reason.
#pragma once

#include <fmt/format.h>

#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace compress {

enum class ErrorCode {
  usage,          // the command line or a recipe asks for something that cannot be (exit 2)
  invalid_model,  // the model, or a data file, breaks its format (exit 1)
  unsupported,    // legal, but beyond what this program does (exit 1)
  io,             // the operating system said no (exit 1)
  internal,       // an invariant of ours broke (exit 1)
};

class Error : public std::exception {
 public:
  Error(ErrorCode code, std::string message);

  ErrorCode code() const { return code_; }
  const std::string& message() const { return message_; }
  // One line: the message, then the contexts from the innermost outwards in parentheses. Control
  // characters of names that came from a file are escaped.
  const char* what() const noexcept override { return line_.c_str(); }
  void add_context(std::string context);

 private:
  ErrorCode code_;
  std::string message_;
  std::string contexts_;
  std::string line_;
};

// The text with control characters and invalid UTF-8 bytes written as \xNN.
std::string printable(std::string_view text);

template <class... Args>
[[noreturn]] void fail(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

// Runs `body`; an Error that leaves it gains the text that `describe()` returns.
template <class Describe, class Body>
decltype(auto) in_context(Describe&& describe, Body&& body) {
  try {
    return body();
  } catch (Error& error) {
    error.add_context(describe());
    throw;
  }
}

}  // namespace compress
