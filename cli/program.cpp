#include "cli/program.h"

#include "cli/machine.h"
#include "compress/core/nearest.h"
#include "compress/error.h"
#include "passes/plugin/plugin.h"

namespace compress {

Program::Program(std::vector<std::string> words)
    : words_(std::move(words)),
      app_("Makes ONNX models smaller and faster, and proves it.", "compress") {
  app_.set_version_flag("--version",
                        "compress " + program_version() + " (" + program_build() + ")");
  app_.require_subcommand(1);
  app_.formatter(help_formatter());
  app_.footer(
      "Examples:\n"
      "  compress inspect model.onnx\n"
      "  compress quantize model.onnx -o int8.onnx --mode static --data images.json\n"
      "  compress verify model.onnx int8.onnx --data test.npz --gate 'top1_drop<=1%'\n\n"
      "Exit codes: 0 done, 1 error, 2 wrong usage, 3 a gate failed.\n");
  load_plugins();
  std::vector<Run> runs = add_steps(app_);
  for (Run (*add)(CLI::App&) : {add_run, add_batch, add_merge_reports, add_report, add_recipes,
                                add_schema, add_calibrate, add_sensitivity, add_verify, add_infer,
                                add_inspect, add_diff, add_completion, add_man, add_measure}) {
    runs.push_back(add(app_));
  }
  for (CLI::App* command : app_.get_subcommands([](CLI::App*) { return true; })) {
    entries_.push_back({command, runs[entries_.size()]});
  }
  for (const StepDef& step : all_steps()) add_plugin_flag(std::string(step.name));
  for (const char* name : {"run", "batch", "calibrate", "inspect"}) add_plugin_flag(name);
}

void Program::load_plugins() {
  constexpr std::string_view kFlag = "--plugin";
  std::vector<std::string> paths;
  for (size_t i = 0; i < words_.size(); ++i) {
    const std::string& word = words_[i];
    if (word == kFlag && i + 1 < words_.size()) paths.push_back(words_[i + 1]);
    if (word.starts_with("--plugin=")) paths.push_back(word.substr(kFlag.size() + 1));
  }
  use_plugins(paths);
}

void Program::add_plugin_flag(const std::string& command) {
  app_.get_subcommand(command)
      ->add_option("--plugin", plugins_,
                   "a library of passes (compress_plugin.h); its options join those of their step "
                   "(repeatable)")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group("Running")
      ->type_name("FILE.so");
}

void Program::unknown_command(const std::string& name, const std::string& hint) const {
  std::vector<std::string_view> names;
  for (const Entry& entry : entries_) {
    if (!entry.command->get_group().empty()) names.push_back(entry.command->get_name());
  }
  fail(ErrorCode::usage, "unknown command '{}'{}; {}", name, suggestion(name, names), hint);
}

void Program::check_flags(const CLI::App& command, const std::string& hint) const {
  std::vector<std::string> flags;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group().empty()) continue;
    for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
  }
  const std::vector<std::string_view> names(flags.begin(), flags.end());
  for (const std::string& word : words_) {
    const std::string name = word.substr(0, word.find('='));
    if (!name.starts_with("--") || name == "--" || command.get_option_no_throw(name) != nullptr) {
      continue;
    }
    const std::string_view near = nearest(name, names);
    fail(ErrorCode::usage, "unknown flag '{}'{}; {}", name,
         near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near), hint);
  }
}

void Program::usage_error(const CLI::ParseError& error) const {
  std::string hint = "see compress --help";
  const CLI::App* command = nullptr;
  for (const Entry& entry : entries_) {
    if (entry.command->parsed() && !entry.command->get_name().empty()) {
      command = entry.command;
      hint = "see compress " + entry.command->get_name() + " --help";
    }
  }
  const bool extra = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  if (command != nullptr && extra) check_flags(*command, hint);
  const bool named = !words_.empty() && !words_[0].starts_with('-');
  if (named && app_.get_subcommands().empty()) unknown_command(words_[0], hint);
  fail(ErrorCode::usage, "{}; {}", error.what(), hint);
}

int Program::run() {
  try {
    app_.parse(std::vector<std::string>(words_.rbegin(), words_.rend()));  // it takes them so
  } catch (const CLI::Success& success) {                                  // --help, --version
    return app_.exit(success) == 0 ? kDone : kError;
  } catch (const CLI::ParseError& error) {
    usage_error(error);
  }
  for (const Entry& entry : entries_) {
    if (entry.command->parsed()) return entry.run();
  }
  return kUsage;
}

const CLI::App& Program::command(const std::string& name) const {
  for (const Entry& entry : entries_) {
    if (entry.command->get_name() == name) return *entry.command;
  }
  unknown_command(name, "see compress --help");
}

}  // namespace compress
