#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "calibration/dataset.h"
#include "calibration/feed.h"
#include "cli/data.h"
#include "cli/data_files.h"
#include "cli/on_device.h"
#include "cli/progress.h"
#include "cli/verification.h"
#include "compress/error.h"
#include "compress/report/trace.h"
#include "compress/runtime/session.h"
#include "compress/verify/distortion.h"

namespace compress {
namespace {

struct Command {
  CommonFlags flags;
  std::string model;
  std::string profile;
};

// Samples [first, last) of an array.
Tensor rows(const Tensor& tensor, int64_t first, int64_t last) {
  Shape shape = tensor.shape();
  const size_t row = shape[0] == 0 ? 0 : tensor.bytes() / static_cast<size_t>(shape[0]);
  shape[0] = last - first;
  const auto data = std::make_shared<TensorData>(tensor.read());
  return Tensor::borrow(tensor.dtype(), shape,
                        data->bytes().data() + row * static_cast<size_t>(first), data);
}

// The outputs of all runs, joined on axis 0 at the end.
class Outputs {
 public:
  explicit Outputs(std::vector<std::string> names)
      : names_(std::move(names)), parts_(names_.size()) {}

  void add(std::vector<Tensor> outputs) {
    for (size_t i = 0; i < outputs.size(); ++i) parts_[i].push_back(std::move(outputs[i]));
  }

  std::vector<NamedTensor> joined() const {
    std::vector<NamedTensor> out;
    for (size_t i = 0; i < names_.size(); ++i) out.push_back({names_[i], join(i)});
    return out;
  }

 private:
  Tensor join(size_t i) const {
    const std::vector<Tensor>& parts = parts_[i];
    if (parts.size() == 1) return parts[0];
    Shape shape = parts[0].shape();
    if (shape.rank() == 0) shape.push_back(1);  // scalars become a vector
    int64_t total = 0;
    for (const Tensor& part : parts) {
      const Shape own = part.shape().rank() == 0 ? Shape({1}) : part.shape();
      const bool fits = own.rank() == shape.rank() && part.dtype() == parts[0].dtype() &&
                        std::equal(own.begin() + 1, own.end(), shape.begin() + 1);
      if (!fits) {
        fail(ErrorCode::unsupported,
             "output '{}' has shape {} for one sample and {} for another: they cannot be joined; "
             "feed samples of one size",
             names_[i], shape.to_string(), own.to_string());
      }
      total += own[0];
    }
    shape[0] = total;
    Tensor out = Tensor::allocate(parts[0].dtype(), shape);
    std::byte* to = out.mutable_data();
    for (const Tensor& part : parts) {
      const TensorData data = part.read();
      if (!data.bytes().empty()) std::memcpy(to, data.bytes().data(), data.bytes().size());
      to += data.bytes().size();
    }
    return out;
  }

  std::vector<std::string> names_;
  std::vector<std::vector<Tensor>> parts_;
};

std::vector<NamedTensor> read_feeds(const std::string& path, const Session& session) {
  const NpzReader archive(path);
  const auto inputs = session.inputs();
  std::vector<std::string> names = archive.names();
  std::vector<std::string> others;  // arrays that may stand in for the only input
  for (const std::string& name : names) {
    if (name != "label" && name != "labels" && is_plain(name)) others.push_back(name);
  }
  std::vector<NamedTensor> feeds;
  for (const auto& [name, type] : inputs) {
    std::string from = name;
    if (!archive.has(name)) {
      if (inputs.size() != 1 || others.size() != 1) {
        fail(ErrorCode::invalid_model, "{} holds no array for input '{}'; it holds {}", path, name,
             names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", ")));
      }
      from = others[0];
    }
    Tensor tensor = archive.read(from);
    if (type.dtype != DType::undefined && tensor.dtype() != type.dtype) {
      if (!converts_by_itself(tensor.dtype(), type.dtype)) {
        fail(ErrorCode::invalid_model, "array '{}' of {} is {}, but the model takes '{}' as {}",
             from, path, info(tensor.dtype()).name, name, info(type.dtype).name);
      }
      tensor = convert(tensor, type.dtype);
    }
    feeds.push_back({name, std::move(tensor)});
  }
  return feeds;
}

// Runs, and keeps what the first run was fed, for the profile.
class Once {
 public:
  Once(Session& session, bool keep) : session_(session), keep_(keep) {}
  std::vector<Tensor> run(const std::vector<NamedTensor>& feeds) {
    if (keep_ && first_.empty()) first_ = feeds;
    try {
      return session_.run(feeds);
    } catch (const Error& error) {
      // What a caller of the library did wrong is the data's fault here.
      if (error.code() != ErrorCode::usage) throw;
      throw Error(ErrorCode::invalid_model, error.message());
    }
  }
  // Writes a run of its own on the first feeds.
  void write_trace(const std::string& path, const std::string& model) {
    session_.run(first_);
    session_.profile(first_);
    const TraceProcess process{model, session_.kernels()};
    AtomicFile file(path, true);
    file.write(to_trace({&process, 1}));
    file.commit();
  }

 private:
  Session& session_;
  bool keep_;
  std::vector<NamedTensor> first_;
};

void run_whole(Once& session, const std::vector<NamedTensor>& feeds, int64_t batch,
               Progress& progress, Outputs& outputs) {
  int64_t samples = 0;
  for (const NamedTensor& feed : feeds) {
    if (feed.tensor.shape().rank() > 0) samples = std::max(samples, feed.tensor.shape()[0]);
  }
  if (batch == 0 || samples <= batch) {
    outputs.add(session.run(feeds));
    return;
  }
  for (int64_t first = 0; first < samples; first += batch) {
    const int64_t last = std::min(first + batch, samples);
    std::vector<NamedTensor> slices;
    for (const NamedTensor& feed : feeds) {
      const Shape& shape = feed.tensor.shape();
      const bool sliced = shape.rank() > 0 && shape[0] == samples;
      slices.push_back({feed.name, sliced ? rows(feed.tensor, first, last) : feed.tensor});
    }
    outputs.add(session.run(slices));
    progress.update(last, samples);
  }
}

void run_samples(Once& session, SampleSource& data, int64_t batch, Progress& progress,
                 Outputs& outputs) {
  const int64_t step = std::max<int64_t>(batch, 1);
  for (int64_t first = 0; first < data.size(); first += step) {
    std::vector<int64_t> indices;
    for (int64_t i = first; i < std::min(first + step, data.size()); ++i) indices.push_back(i);
    outputs.add(session.run(compress::join(data, indices).inputs));
    progress.update(first + step, data.size());
  }
}

std::string describe(const NamedTensor& output) {
  std::string line = fmt::format("{}: {} {}", output.name, info(output.tensor.dtype()).name,
                                 output.tensor.shape().to_string());
  if (!is_comparable(output.tensor.dtype()) || output.tensor.count() == 0) return line + "\n";
  const TensorData data = output.tensor.read();
  const std::vector<float> values = to_floats(data.view());
  double low = values[0], high = values[0], sum = 0;
  int64_t odd = 0;
  for (const float x : values) {
    odd += !std::isfinite(x);
    low = std::min<double>(low, x);
    high = std::max<double>(high, x);
    sum += x;
  }
  line += fmt::format("  min {:.6g}  mean {:.6g}  max {:.6g}", low,
                      sum / static_cast<double>(values.size()), high);
  return line + (odd > 0 ? fmt::format("  {} not finite\n", odd) : "\n");
}

int run(const Command& command) {
  const CommonFlags& flags = command.flags;
  apply(flags);
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!flags.output.empty() && !flags.output.ends_with(".npz")) {
    fail(ErrorCode::usage, "the outputs are written as .npz; -o {} is none", flags.output);
  }
  if (!flags.output.empty() && !flags.force && fs::exists(flags.output, ignored)) {
    fail(ErrorCode::io, "{} exists; --force replaces it", flags.output);
  }
  if (fs::equivalent(flags.data, flags.output, ignored)) {
    fail(ErrorCode::io, "the output {} is the data; name another file", flags.output);
  }
  if (!command.profile.empty()) check_trace_path(command.profile);
  const Model model = read_onnx(command.model);
  check_input_shapes(flags, {&model});
  Session session(model, session_options(flags, chosen_device(flags)));
  Once once(session, !command.profile.empty());
  Outputs outputs(session.output_names());
  Progress progress(!flags.quiet && !flags.no_progress);
  progress.stage("running");
  if (flags.data.empty()) {
    if (!flags.allow_random) {
      fail(ErrorCode::usage, "no data to run on; give --data, or --allow-random for noise");
    }
    outputs.add(once.run(
        random_feed(model, input_shapes(flags), flags.seed, std::max<int64_t>(flags.batch, 1))));
  } else if (flags.data.ends_with(".npz")) {
    run_whole(once, read_feeds(flags.data, session), flags.batch, progress, outputs);
  } else {
    const auto data = open_source(flags.data, "", model);
    run_samples(once, *data, flags.batch, progress, outputs);
  }
  progress.clear();
  const std::vector<NamedTensor> joined = outputs.joined();
  if (!flags.output.empty()) write_npz(flags.output, joined, true);
  if (!command.profile.empty()) once.write_trace(command.profile, command.model);
  if (flags.quiet) return kDone;
  std::string text;
  for (const NamedTensor& output : joined) text += describe(output);
  print(text);
  return kDone;
}

}  // namespace

Run add_infer(CLI::App& program) {
  CLI::App* command = program.add_subcommand("infer", "run a model on data and keep its outputs");
  command->footer(
      "Examples:\n"
      "  compress infer model.onnx --data x.npz -o y.npz\n"
      "  compress infer model.onnx --data images.json -o y.npz --batch 16\n"
      "  compress infer model.onnx --allow-random --profile run.json\n"
      "Arrays of an .npz are fed whole (with --batch N: in slices of axis 0); any other data "
      "sample\n"
      "by sample. Outputs keep their names, joined on axis 0.\n");
  auto state = std::make_shared<Command>();
  state->flags.batch = 0;
  command->add_option("MODEL", state->model, "the model to run (.onnx)")->required();
  command
      ->add_option("-d,--data", state->flags.data,
                   "arrays (.npz), or any data set that verify takes")
      ->type_name("PATH");
  command->add_option("-o,--output", state->flags.output, "where the outputs go")
      ->type_name("FILE.npz");
  command
      ->add_option("--profile", state->profile,
                   "write the kernels of one run as a trace (chrome://tracing, Perfetto)")
      ->type_name("FILE.json");
  command->add_flag("-f,--force", state->flags.force, "replace an existing output");
  command->add_flag("--allow-random", state->flags.allow_random, "run once on seeded noise");
  add_model_flags(*command, state->flags);
  add_run_flags(*command, state->flags);
  return [state] { return run(*state); };
}

}  // namespace compress
