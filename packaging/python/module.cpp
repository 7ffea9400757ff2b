// The command line in process, for the Python package: words in, exit code and text out, arrays in
// place of data files. What functions and options there are, compress_onnx reads from the tables.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <mutex>

#include "cli/console.h"
#include "cli/machine.h"
#include "cli/program.h"
#include "compress/core/interruption.h"
#include "compress/core/nearest.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/verify/resources.h"
#include "packaging/python/sources.h"

namespace compress {
namespace {

namespace py = pybind11;

constexpr std::string_view kCodes[] = {"usage", "invalid_model", "unsupported", "io", "internal"};

// Names from files may hold anything.
py::str text_of(std::string_view text) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "replace"));
}

// Ctrl-C, and whatever else Python's handlers raise.
void check_signals() {
  const py::gil_scoped_acquire lock;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// Commands have the process's threads, console and data to themselves: one at a time.
class Turn {
 public:
  Turn() {
    if (ours_) fail(ErrorCode::usage, "a data set called compress_onnx while it was being read");
    while (!guard().try_lock_for(std::chrono::milliseconds(50))) check_signals();
    ours_ = true;
  }
  ~Turn() {
    set_console({});
    attach_data({});
    set_interruption(nullptr);
    ours_ = false;
    guard().unlock();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  static std::timed_mutex& guard() {
    static std::timed_mutex mutex;
    return mutex;
  }
  static thread_local bool ours_;
};
thread_local bool Turn::ours_ = false;

struct Outcome {
  int code = 0;
  std::string text;
  std::vector<std::string> notes;
};

Outcome run_words(const std::vector<std::string>& words, std::map<std::string, OpenSource> sources,
                  bool capture) {
  static const int machine_threads = thread_count();
  Outcome outcome;
  const Turn turn;
  set_thread_count(machine_threads);
  set_interruption(check_signals);
  attach_data(std::move(sources));
  if (capture) {
    set_console({[&](std::string_view text) { outcome.text += text; },
                 [&](std::string_view line) { outcome.notes.emplace_back(line); }});
  }
  outcome.code = Program(words).run();
  return outcome;
}

py::tuple run(const std::vector<std::string>& words, const py::dict& described, bool capture) {
  std::map<std::string, OpenSource> sources;
  for (const auto& [name, source] : described) {
    const auto text = py::cast<std::string>(name);
    sources[text] = source_of(text, source);
  }
  Outcome outcome;
  {
    const py::gil_scoped_release released;
    outcome = run_words(words, std::move(sources), capture);
  }
  py::list notes;
  for (const std::string& note : outcome.notes) notes.append(text_of(note));
  return py::make_tuple(outcome.code, text_of(outcome.text), notes);
}

// A command's flags as its tables have them.
py::list options(const std::string& command) {
  const Program program({});
  py::list out;
  for (const CLI::Option* option : program.command(command).get_options()) {
    if (!option->nonpositional() || option->get_lnames().empty()) continue;
    py::dict row;
    row["name"] = option->get_lnames()[0];
    row["flag"] = option->get_type_size() == 0;
    row["many"] = option->get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll;
    row["value"] = option->get_type_name();
    row["help"] = option->get_description();
    out.append(row);
  }
  return out;
}

}  // namespace
}  // namespace compress

PYBIND11_MODULE(_core, module) {
  namespace py = pybind11;
  using namespace compress;
  static py::exception<Error> error(module, "CompressError");
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const Error& caught) {
      const py::object type = error;  // itself, called, would raise
      py::object instance = type(text_of(caught.what()));
      instance.attr("code") = kCodes[static_cast<size_t>(caught.code())];
      PyErr_SetObject(error.ptr(), instance.ptr());
    }
  });
  module.attr("version") = program_version();
  module.def("run", &run);
  module.def("options", &options);
  module.def("set_self_command", &set_self_command);
  module.def("suggestion", [](const std::string& name, const std::vector<std::string>& names) {
    return suggestion(name, std::vector<std::string_view>(names.begin(), names.end()));
  });
}
