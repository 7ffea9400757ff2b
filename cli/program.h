// The whole command line as a function: what main() and the Python module share.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace compress {

// For one run: flags keep what they were given.
class Program {
 public:
  // The words of the command line, without the program's name.
  explicit Program(std::vector<std::string> words);
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // The exit code; --help and --version are carried out. Fails (usage) where the words are no
  // command line.
  int run();
  // Fails (usage) naming the nearest.
  const CLI::App& command(const std::string& name) const;

 private:
  struct Entry {
    CLI::App* command;
    Run run;
  };
  // Before the tables are read: passes of plug-ins are rows, and their options flags, like the
  // others.
  void load_plugins();
  void add_plugin_flag(const std::string& command);
  [[noreturn]] void unknown_command(const std::string& name, const std::string& hint) const;
  // Fails where a word is a flag that the command does not have.
  void check_flags(const CLI::App& command, const std::string& hint) const;
  [[noreturn]] void usage_error(const CLI::ParseError& error) const;

  std::vector<std::string> words_;
  std::vector<std::string> plugins_;
  CLI::App app_;
  std::vector<Entry> entries_;  // in the order in which they were added
};

}  // namespace compress
