// --help, and what shells and man(1) read, from the same tables.
#include <algorithm>
#include <cctype>
#include <filesystem>

#include "cli/command.h"
#include "cli/machine.h"
#include "compress/error.h"
#include "formats/file.h"

namespace compress {
namespace {

std::vector<const CLI::App*> commands_of(const CLI::App& program) {
  return program.get_subcommands([](const CLI::App* command) {
    return !command->get_group().empty();  // hidden ones have none
  });
}

// Those with a name that starts with a dash.
std::vector<const CLI::Option*> flags_of(const CLI::App& command) {
  return command.get_options([](const CLI::Option* option) {
    return option->nonpositional() && !option->get_group().empty();
  });
}

bool takes_value(const CLI::Option& option) { return option.get_type_size() != 0; }

// "FILE" of "FILE:INT in [1 - 9]" and of "FILE:{a,b}": CLI11 appends what its checks say. Our own
// names may have colons, as NAME[:AXIS].
std::string value_name(const CLI::Option& option) {
  const std::string name = option.get_type_name();
  for (size_t at = name.find(':'); at != std::string::npos; at = name.find(':', at + 1)) {
    const std::string_view rest = std::string_view(name).substr(at + 1);
    if (rest.starts_with('{') || rest.find(" in [") != std::string_view::npos) {
      return name.substr(0, at);
    }
  }
  return name;
}

// "a|b|c" where that is the list of all values; else nothing.
std::vector<std::string> values_of(const CLI::Option& option) {
  const std::string name = value_name(option);
  const auto is_plain = [](unsigned char c) { return std::islower(c) || std::isdigit(c); };
  const bool listed =
      name.find('|') != std::string::npos && std::all_of(name.begin(), name.end(), [&](char c) {
        return is_plain(static_cast<unsigned char>(c)) || c == '|' || c == '-' || c == '_';
      });
  std::vector<std::string> values;
  for (size_t at = 0; listed && at <= name.size();) {
    const size_t end = std::min(name.find('|', at), name.size());
    values.push_back(name.substr(at, end - at));
    at = end + 1;
  }
  return values;
}

std::string joined(const std::vector<std::string>& parts, std::string_view between) {
  return fmt::format("{}", fmt::join(parts, between));
}

// All spellings of an option.
std::vector<std::string> spellings(const CLI::Option& option) {
  std::vector<std::string> out;
  for (const std::string& name : option.get_snames()) out.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) out.push_back("--" + name);
  return out;
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
    text.replace(at, from.size(), to);
  }
  return text;
}

// --- --help --------------------------------------------------------------------------------------

constexpr size_t kNameColumn = 38, kWidth = 100;

// Broken at spaces; lines that are broken already stay so.
std::string wrapped(const std::string& text, size_t width) {
  std::string out;
  size_t column = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_of(" \n", at), text.size());
    if (column > 0 && column + end - at > width) {
      out.back() = '\n';
      column = 0;
    }
    out.append(text, at, end + 1 - at);
    column = end < text.size() && text[end] == '\n' ? 0 : column + end + 1 - at;
    at = end + 1;
  }
  return out;
}

class HelpFormatter : public CLI::Formatter {
 public:
  // Without the conditions on values: their errors say them.
  std::string make_option_opts(const CLI::Option* option) const override {
    return option->nonpositional() && takes_value(*option) ? " " + value_name(*option) : "";
  }
  std::string make_option_desc(const CLI::Option* option) const override {
    return wrapped(option->get_description(), kWidth - kNameColumn);
  }
};

// --- Shells --------------------------------------------------------------------------------------

std::string bash_completion(const CLI::App& program) {
  std::vector<std::string> names;
  std::string flags, values;
  for (const CLI::App* command : commands_of(program)) {
    names.push_back(command->get_name());
    std::vector<std::string> all;
    for (const CLI::Option* option : flags_of(*command)) {
      for (const std::string& spelling : spellings(*option)) {
        all.push_back(spelling);
        const std::vector<std::string> choices = values_of(*option);
        if (choices.empty()) continue;
        values += fmt::format("    '{} {}') words='{}' ;;\n", command->get_name(), spelling,
                              joined(choices, " "));
      }
    }
    flags += fmt::format("    {}) words='{}' ;;\n", command->get_name(), joined(all, " "));
  }
  return fmt::format(R"(# bash completion of compress
_compress() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
  local command=${{COMP_WORDS[1]}} words=''
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '{} --help --version' -- "$current"))
    return
  fi
  case "$command $previous" in
{}  esac
  if [[ -z $words && $current == -* ]]; then
    case $command in
{}    esac
  fi
  if [[ -n $words ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  else
    COMPREPLY=($(compgen -f -- "$current"))
  fi
}}
complete -o filenames -F _compress compress
)",
                     joined(names, " "), values, replaced(flags, "    ", "      "));
}

// Inside '...' of zsh's _arguments, where brackets and colons mean something.
std::string zsh_text(std::string text) {
  for (const auto& [from, to] :
       {std::pair("'", "'\\''"), {"[", "\\["}, {"]", "\\]"}, {":", "\\:"}}) {
    text = replaced(std::move(text), from, to);
  }
  return text;
}

std::string zsh_completion(const CLI::App& program) {
  std::string out =
      "#compdef compress\n# zsh completion of compress\n_compress() {\n"
      "  local -a commands\n  commands=(\n";
  for (const CLI::App* command : commands_of(program)) {
    out += fmt::format("    '{}:{}'\n", command->get_name(), zsh_text(command->get_description()));
  }
  out +=
      "  )\n  if ((CURRENT == 2)); then\n    _describe command commands\n    return\n  fi\n"
      "  local command=$words[2]\n  shift words\n  ((CURRENT--))\n  case $command in\n";
  for (const CLI::App* command : commands_of(program)) {
    out += fmt::format("    {})\n      _arguments \\\n", command->get_name());
    for (const CLI::Option* option : flags_of(*command)) {
      for (const std::string& spelling : spellings(*option)) {
        out += fmt::format("        '*{}[{}]", spelling, zsh_text(option->get_description()));
        const std::vector<std::string> choices = values_of(*option);
        if (takes_value(*option)) {
          out += fmt::format(":{}:{}", zsh_text(value_name(*option)),
                             choices.empty() ? "_files" : "(" + joined(choices, " ") + ")");
        }
        out += "' \\\n";
      }
    }
    out += "        '*:file:_files'\n      ;;\n";
  }
  return out + "  esac\n}\n_compress \"$@\"\n";
}

std::string fish_completion(const CLI::App& program) {
  const auto quoted = [](std::string text) {
    return "'" + replaced(replaced(std::move(text), "\\", "\\\\"), "'", "\\'") + "'";
  };
  std::string out = "# fish completion of compress\n";
  for (const CLI::App* command : commands_of(program)) {
    const std::string name = command->get_name();
    out += fmt::format("complete -c compress -n __fish_use_subcommand -f -a {} -d {}\n", name,
                       quoted(command->get_description()));
    for (const CLI::Option* option : flags_of(*command)) {
      out += fmt::format("complete -c compress -n '__fish_seen_subcommand_from {}'", name);
      for (const std::string& s : option->get_snames()) out += " -s " + s;
      for (const std::string& l : option->get_lnames()) out += " -l " + l;
      const std::vector<std::string> choices = values_of(*option);
      if (!choices.empty()) {
        out += " -x -a " + quoted(joined(choices, " "));
      } else if (takes_value(*option)) {
        out += " -r";
      }
      out += " -d " + quoted(option->get_description()) + "\n";
    }
  }
  return out;
}

// --- man -----------------------------------------------------------------------------------------

// A line that starts with a dot or a quote would be a request; dashes are those of commands.
std::string roff(std::string text) {
  text = replaced(replaced(std::move(text), "\\", "\\e"), "-", "\\-");
  if (!text.empty() && (text[0] == '.' || text[0] == '\'')) text = "\\&" + text;
  return replaced(replaced(std::move(text), "\n.", "\n\\&."), "\n'", "\n\\&'");
}

std::string head(const std::string& page, const std::string& summary) {
  std::string title = page;
  std::transform(title.begin(), title.end(), title.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return fmt::format(".TH {} 1 \"\" \"compress {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n",
                     roff(title), program_version(), roff(page), roff(summary));
}

std::string foot(const CLI::App& command) {
  if (command.get_footer().empty()) return "";
  return fmt::format(".SH NOTES\n.nf\n{}\n.fi\n", roff(command.get_footer()));
}

std::string command_page(const CLI::App& command) {
  const std::string page = "compress-" + command.get_name();
  std::string out = head(page, command.get_description());
  out += fmt::format(".SH SYNOPSIS\n.B compress {}\n[OPTIONS]", roff(command.get_name()));
  std::string operands;
  for (const CLI::Option* option : command.get_options()) {
    if (option->nonpositional()) continue;
    const std::string name = option->get_name(true);
    out += option->get_required() ? " " + roff(name) : " [" + roff(name) + "]";
    operands += fmt::format(".TP\n.I {}\n{}\n", roff(name), roff(option->get_description()));
  }
  out += "\n";
  if (!operands.empty()) out += ".SH OPERANDS\n" + operands;
  std::vector<std::string> groups;
  for (const CLI::Option* option : flags_of(command)) {
    if (std::find(groups.begin(), groups.end(), option->get_group()) == groups.end()) {
      groups.push_back(option->get_group());
    }
  }
  for (const std::string& group : groups) {
    out += fmt::format(".SH \"{}\"\n", roff(group));
    for (const CLI::Option* option : flags_of(command)) {
      if (option->get_group() != group) continue;
      out += fmt::format(".TP\n.B {}", roff(joined(spellings(*option), ", ")));
      if (takes_value(*option)) out += fmt::format(" \\fI{}\\fR", roff(value_name(*option)));
      out += "\n" + roff(option->get_description()) + "\n";
    }
  }
  return out + foot(command) + ".SH \"SEE ALSO\"\n.BR compress (1)\n";
}

std::string program_page(const CLI::App& program) {
  std::string out = head("compress", program.get_description());
  out += ".SH SYNOPSIS\n.B compress\n.I COMMAND\n[OPTIONS]\n.SH COMMANDS\n";
  for (const CLI::App* command : commands_of(program)) {
    out += fmt::format(".TP\n.BR compress\\-{} (1)\n{}\n", roff(command->get_name()),
                       roff(command->get_description()));
  }
  return out + foot(program);
}

void write_page(const std::string& folder, const std::string& name, const std::string& text) {
  AtomicFile file((std::filesystem::path(folder) / (name + ".1")).string(), true);
  file.write(text);
  file.commit();
}

}  // namespace

std::shared_ptr<CLI::FormatterBase> help_formatter() {
  auto formatter = std::make_shared<HelpFormatter>();
  formatter->column_width(kNameColumn);
  return formatter;
}

Run add_completion(CLI::App& program) {
  CLI::App* command = program.add_subcommand("completion", "print completions for a shell");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->footer(
      "Examples:\n"
      "  source <(compress completion bash)\n"
      "  compress completion zsh > ~/.zfunc/_compress\n"
      "  compress completion fish > ~/.config/fish/completions/compress.fish\n");
  return [shell, &program] {
    const std::string text = *shell == "bash"  ? bash_completion(program)
                             : *shell == "zsh" ? zsh_completion(program)
                                               : fish_completion(program);
    std::fputs(text.c_str(), stdout);
    return kDone;
  };
}

Run add_man(CLI::App& program) {
  CLI::App* command = program.add_subcommand("man", "write manual pages into a folder");
  auto folder = std::make_shared<std::string>();
  command->add_option("FOLDER", *folder, "where compress.1 and a page for each command go")
      ->required();
  command->footer("Examples:\n  compress man ~/.local/share/man/man1 && man compress-quantize\n");
  return [folder, &program] {
    std::error_code error;
    std::filesystem::create_directories(*folder, error);
    if (error) fail(ErrorCode::io, "cannot make the folder {}: {}", *folder, error.message());
    write_page(*folder, "compress", program_page(program));
    for (const CLI::App* page : commands_of(program)) {
      write_page(*folder, "compress-" + page->get_name(), command_page(*page));
    }
    return kDone;
  };
}

}  // namespace compress
