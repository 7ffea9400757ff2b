#include <cerrno>
#include <cstdlib>

#include "cli/command.h"
#include "compress/core/nearest.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/kernels/isa.h"

namespace compress {
namespace {

constexpr const char* kData = "Data";
constexpr const char* kVerification = "Verification";
constexpr const char* kOutput = "Output";
constexpr const char* kRunning = "Running";

CLI::Option* add_list(CLI::App& command, const std::string& name, std::vector<std::string>& into,
                      const std::string& help, const char* group) {
  // One value an occurrence, so that a list never swallows a positional argument.
  return command.add_option(name, into, help)
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(group);
}

bool allows(const TypeInfo& declared, const Shape& shape) {
  if (!declared.has_shape) return true;
  if (declared.shape.rank() != shape.rank()) return false;
  for (int i = 0; i < shape.rank(); ++i) {
    if (declared.shape[i] >= 0 && declared.shape[i] != shape[i]) return false;
  }
  return true;
}

}  // namespace

void add_run_flags(CLI::App& command, CommonFlags& flags) {
  command.add_option("--threads", flags.threads, "processor threads (default: all)")
      ->check(CLI::Range(1, 1024))
      ->group(kRunning)
      ->type_name("N");
  command.add_option("--seed", flags.seed, "of everything random (default 0)")
      ->group(kRunning)
      ->type_name("S");
  command
      .add_option("--device", flags.device,
                  "where models run: cpu (default), cuda, or all: the CPU, and the same on a GPU "
                  "where there is one")
      ->check(CLI::IsMember({"cpu", "cuda", "all"}))
      ->group(kRunning)
      ->type_name("cpu|cuda|all");
  command
      .add_option("--max-memory", flags.max_memory,
                  "most memory for a model's values, as 500M or 4G; more is an error")
      ->group(kRunning)
      ->type_name("BYTES");
  command.add_flag("-q,--quiet", flags.quiet, "print errors only")->group(kRunning);
  command.add_flag("-v,--verbose", flags.verbose, "print what each pass did")->group(kRunning);
  command.add_flag("--no-progress", flags.no_progress, "no progress line on a terminal")
      ->group(kRunning);
}

void add_model_flags(CLI::App& command, CommonFlags& flags) {
  add_list(command, "--input-shape", flags.input_shapes,
           "shape of an input whose size is not fixed, as name:1x3x224x224 (repeatable)", kRunning)
      ->type_name("NAME:SHAPE");
  // Of the steps that train it is an option of their own.
  if (command.get_option_no_throw("--batch") == nullptr) {
    command.add_option("--batch", flags.batch, "samples in one run (default 1)")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
        ->group(kRunning)
        ->type_name("N");
  }
  command
      .add_flag("--no-lower", flags.no_lower,
                "run op by op with reference kernels: slow, the arithmetic of the file")
      ->group(kRunning);
}

void add_report_flags(CLI::App& command, CommonFlags& flags) {
  add_list(command, "--report", flags.reports,
           "write the report; .json, .md, .html, .csv or .xml (JUnit) by extension (repeatable)",
           kVerification)
      ->type_name("FILE");
  add_list(command, "--gate", flags.gates,
           "a condition, as 'top1_drop<=1%' or 'speedup>=1.2'; exit 3 where it fails (repeatable)",
           kVerification)
      ->type_name("EXPR");
  command
      .add_option("--baseline", flags.baseline,
                  "an earlier JSON report: _drop gates compare with its candidate")
      ->group(kVerification)
      ->type_name("REPORT");
  command.add_flag("--json", flags.json, "print the JSON report instead of the table")
      ->group(kVerification);
  command
      .add_option("--time-budget", flags.time_budget,
                  "most seconds for timing (default 30); 0 leaves timing out")
      ->check(CLI::Range(0.0, 1e6))
      ->group(kVerification)
      ->type_name("SECONDS");
  command
      .add_option("--metric-output", flags.metric_output,
                  "output whose arg-max and labels count, and its class axis (default: the "
                  "first, its last axis)")
      ->group(kVerification)
      ->type_name("NAME[:AXIS]");
}

void add_data_flags(CLI::App& command, CommonFlags& flags, bool calibrates) {
  command
      .add_option("-d,--data", flags.data,
                  "images, .npz, .npy, IDX, CSV, test_data_set_* folders, or a JSON spec "
                  "(docs/data.md)")
      ->group(kData)
      ->type_name("PATH");
  command
      .add_option("--labels", flags.labels, "labels of the data, where they lie in another file")
      ->group(kData)
      ->type_name("FILE");
  command.add_option("--eval-data", flags.eval_data, "other data for verification")
      ->group(kData)
      ->type_name("PATH");
  command
      .add_option("--eval-samples", flags.eval_samples,
                  "samples for verification, evenly spaced (default: all, up to 1000)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->group(kData)
      ->type_name("N");
  if (!calibrates) return;
  command.add_option("--calibration-data", flags.calibration_data, "other data for calibration")
      ->group(kData)
      ->type_name("PATH");
  command
      .add_option("--samples", flags.samples,
                  "samples for calibration, evenly spaced (default 128)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->group(kData)
      ->type_name("N");
  command
      .add_option("--statistics", flags.statistics,
                  "calibrate from this file of compress calibrate instead")
      ->group(kData)
      ->type_name("FILE");
  command
      .add_flag("--allow-random", flags.allow_random,
                "calibrate on noise where there is no data; the result is hardly usable")
      ->group(kData);
}

void add_training_flags(CLI::App& command, CommonFlags& flags) {
  command
      .add_option("--train-data", flags.train_data,
                  "other data for training; where --data serves both, verification measures on a "
                  "part that training never sees")
      ->group(kData)
      ->type_name("PATH");
}

void add_output_flags(CLI::App& command, CommonFlags& flags) {
  command.add_option("-o,--output", flags.output, "the model to write")
      ->group(kOutput)
      ->type_name("FILE");
  command.add_flag("-f,--force", flags.force, "replace an existing output")->group(kOutput);
  command.add_flag("--dry-run", flags.dry_run, "do everything but write; tells the size")
      ->group(kOutput);
  command
      .add_flag("--require-change", flags.require_change,
                "exit 3 where nothing could be made smaller")
      ->group(kOutput);
  command
      .add_flag("--external-data", flags.external_data,
                "keep weights in a file beside the model (always above 2 GB)")
      ->group(kOutput);
  command.add_flag("--no-verify", flags.no_verify, "do not run the models afterwards")
      ->group(kVerification);
  add_list(command, "--disable", flags.disabled, "leave out a pass; inspect --passes lists them",
           kRunning)
      ->type_name("PASS");
  command.add_option("--stop-after", flags.stop_after, "end the pipeline after this pass")
      ->group(kRunning)
      ->type_name("PASS");
  command.add_option("--dump-after", flags.dump_after, "print the graph after this pass")
      ->group(kRunning)
      ->type_name("PASS");
}

void apply(const CommonFlags& flags) {
  if (const char* error = kernels::isa_choice().error) {
    fail(ErrorCode::usage, "{}; unset it or choose another", error);
  }
  if (flags.threads > 0) set_thread_count(flags.threads);
  max_memory_bytes(flags);
  input_shapes(flags);
  for (const std::string& path : flags.reports) check_report_path(path);
}

std::map<std::string, Shape> input_shapes(const CommonFlags& flags) {
  std::map<std::string, Shape> out;
  for (const std::string& text : flags.input_shapes) {
    const size_t colon = text.rfind(':');
    const auto wrong = [&]() {
      fail(ErrorCode::usage, "--input-shape '{}': write NAME:SHAPE, as input:1x3x224x224", text);
    };
    if (colon == std::string::npos || colon == 0) wrong();
    Shape shape;
    const char* at = text.c_str() + colon + 1;
    while (*at != '\0') {
      char* end = nullptr;
      errno = 0;
      const long long dim = std::strtoll(at, &end, 10);
      if (end == at || errno != 0 || dim < 0 || dim > (int64_t{1} << 40)) wrong();
      if (*end != '\0' && *end != 'x' && *end != ',') wrong();
      if (shape.rank() >= kMaxRank) wrong();
      shape.push_back(dim);
      at = *end == '\0' ? end : end + 1;
    }
    if (!out.emplace(text.substr(0, colon), shape).second) {
      fail(ErrorCode::usage, "--input-shape '{}': the input '{}' is given twice", text,
           text.substr(0, colon));
    }
  }
  return out;
}

void check_input_shapes(const CommonFlags& flags, std::initializer_list<const Model*> models) {
  for (const auto& [name, shape] : input_shapes(flags)) {
    bool known = false;
    std::vector<std::string_view> names;
    for (const Model* model : models) {
      for (const ValueId id : model->graph.inputs()) {
        const Value& input = model->graph.value(id);
        if (input.is_constant()) continue;
        names.push_back(input.name);
        if (input.name != name) continue;
        known = true;
        if (allows(input.type, shape)) continue;
        fail(ErrorCode::usage, "--input-shape gives '{}' the shape {}, but {} declares it as {}{}",
             name, shape.to_string(), model->path, info(input.type.dtype).name,
             input.type.shape.to_string());
      }
    }
    if (known) continue;
    fail(ErrorCode::usage, "--input-shape: the model has no input '{}'{}", name,
         names.empty() ? ": it takes none" : suggestion(name, names));
  }
}

uint64_t max_memory_bytes(const CommonFlags& flags) {
  if (flags.max_memory.empty()) return 0;
  char* end = nullptr;
  const double value = std::strtod(flags.max_memory.c_str(), &end);
  double unit = 1;
  switch (*end) {
    case 'k':
    case 'K':
      unit = 1e3;
      ++end;
      break;
    case 'm':
    case 'M':
      unit = 1e6;
      ++end;
      break;
    case 'g':
    case 'G':
      unit = 1e9;
      ++end;
      break;
    default:
      break;
  }
  if (*end == 'B') ++end;
  if (*end != '\0' || !(value > 0) || !(value * unit < 1e18)) {
    fail(ErrorCode::usage, "--max-memory '{}': write a size, as 500M or 4G", flags.max_memory);
  }
  return static_cast<uint64_t>(value * unit);
}

void StepFlags::add(CLI::App& command, std::span<const OptionDef> defs) {
  for (const OptionDef& def : defs) {
    const std::string name = "--" + std::string(def.name);
    // A common flag of the same name serves the step too.
    if (command.get_option_no_throw(name) != nullptr) continue;
    rows_.push_back(std::make_unique<Row>());
    Row& row = *rows_.back();
    row.def = &def;
    std::string help(def.help);
    if (def.type == OptionType::flag) {
      row.option = def.fallback == "true"
                       ? command.add_flag(name + ",!--no-" + std::string(def.name), row.flag,
                                          help + " (default on; --no-" + std::string(def.name) +
                                              " turns it off)")
                       : command.add_flag(name, row.flag, help);
      row.option->group("Method");
      continue;
    }
    if (!def.fallback.empty()) help += fmt::format(" (default {})", def.fallback);
    row.option = add_list(command, name, row.texts, help, "Method");
    switch (def.type) {
      case OptionType::integer:
        row.option->type_name("N");
        break;
      case OptionType::number:
        row.option->type_name("X");
        break;
      case OptionType::choice:
        row.option->type_name(std::string(def.choices));
        break;
      case OptionType::list:
        row.option->type_name("A,B,...");
        break;
      default:
        row.option->type_name("TEXT");
    }
  }
}

Json StepFlags::given() const {
  Json out = Json::object();
  for (const auto& row : rows_) {
    if (row->option->count() == 0) continue;
    const std::string name(row->def->name);
    if (row->def->type == OptionType::flag) {
      out[name] = row->flag;
      continue;
    }
    if (row->def->type != OptionType::list && row->texts.size() > 1) {
      fail(ErrorCode::usage, "--{} is given {} times", name, row->texts.size());
    }
    for (const std::string& text : row->texts) {
      Json value = option_from_text(*row->def, text);
      if (row->def->type != OptionType::list || !out.contains(name)) {
        out[name] = std::move(value);
      } else {
        for (Json& item : value) out[name].push_back(std::move(item));
      }
    }
  }
  return out;
}

}  // namespace compress
