#include "cli/onnxruntime.h"

#include <cstdlib>
#include <filesystem>

#include "compress/error.h"
#include "formats/onnx.h"
#include "ort_runner.h"

namespace compress {
namespace {

std::string python_program() {
  const char* given = std::getenv("COMPRESS_PYTHON");
  return given != nullptr && *given != '\0' ? given : "python3";
}

// The child reads what this process may be reading under a relative path.
std::string absolute(const std::string& path) {
  std::error_code failed;
  const auto full = std::filesystem::absolute(path, failed);
  return failed ? path : full.string();
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

Json describe(std::span<const NamedTensor> tensors) {
  Json out = Json::array();
  for (const NamedTensor& named : tensors) {
    const DTypeInfo& type = info(named.tensor.dtype());
    if (type.bits < 8 || type.dtype == DType::bfloat16) {
      fail(ErrorCode::unsupported, "input '{}' is {}, which cannot be handed to Python", named.name,
           type.name);
    }
    Json shape = Json::array();
    for (const int64_t dim : named.tensor.shape()) shape.push_back(dim);
    out.push_back({{"name", named.name}, {"dtype", type.name}, {"shape", shape}});
  }
  return out;
}

}  // namespace

OnnxRuntime::OnnxRuntime(double seconds) : seconds_(seconds), python_(python_program()) {
  try {
    // -u is not needed: the runner flushes.
    child_ = std::make_unique<Child>(std::vector<std::string>{python_, "-c", kOrtRunner});
  } catch (const Error& error) {
    fail(ErrorCode::unsupported,
         "ONNX Runtime is run by Python, and {}; install Python, or name one in COMPRESS_PYTHON",
         error.message());
  }
  const Json answer = call("hello", Json::object());
  if (answer.contains("missing")) {
    fail(ErrorCode::unsupported,
         "{} has no package '{}' that works ({}); install it (pip install onnxruntime), or name "
         "another Python in COMPRESS_PYTHON",
         python_, answer.value("missing", ""), answer.value("error", ""));
  }
  version_ = "onnxruntime " + answer.value("onnxruntime", "?");
}

Json OnnxRuntime::call(const char* what, Json request, std::span<const NamedTensor> tensors,
                       double more_seconds) {
  const double seconds = seconds_ + more_seconds;
  request["do"] = what;
  if (!tensors.empty()) request["tensors"] = describe(tensors);
  child_->write(bytes_of(request.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n"),
                seconds);
  for (const NamedTensor& named : tensors) {
    const TensorData data = named.tensor.read();
    child_->write(data.bytes(), seconds);
  }
  const std::string line = child_->read_line(seconds);
  Json answer = Json::parse(line, nullptr, false);
  if (!answer.is_object() || !answer.contains("ok")) {
    fail(ErrorCode::unsupported, "the process of '{}' gave an answer that makes no sense", python_);
  }
  if (!answer.at("ok").get<bool>() && !answer.contains("missing")) {
    fail(ErrorCode::unsupported, "ONNX Runtime: {}", answer.value("error", "no reason given"));
  }
  tensors_.clear();
  for (const Json& row : answer.value("tensors", Json::array())) {
    const DTypeInfo* type = find_dtype(row.at("dtype").get<std::string>());
    if (type == nullptr) {
      fail(ErrorCode::unsupported, "ONNX Runtime gave an output of type {}",
           row.at("dtype").get<std::string>());
    }
    Shape shape;
    for (const Json& dim : row.at("shape")) shape.push_back(dim.get<int64_t>());
    Tensor tensor = Tensor::allocate(type->dtype, shape);
    child_->read({tensor.mutable_data(), tensor.bytes()}, seconds);
    tensors_.push_back(std::move(tensor));
  }
  return answer;
}

Model OnnxRuntime::optimized(const std::string& path) {
  call("optimize", {{"model", absolute(path)}, {"to", "/proc/self/fd/3"}});
  ReadOptions options;
  options.check = false;  // it holds operators of ONNX Runtime's own
  return read_onnx(child_->file_path(), options);
}

void OnnxRuntime::open(const std::string& path, int threads) {
  const Json answer = call("open", {{"model", absolute(path)}, {"threads", threads}});
  outputs_ = answer.at("outputs").get<std::vector<std::string>>();
}

std::vector<Tensor> OnnxRuntime::run(std::span<const NamedTensor> feeds) {
  call("run", Json::object(), feeds);
  return std::move(tensors_);
}

void OnnxRuntime::feed(std::span<const NamedTensor> feeds) { call("feed", Json::object(), feeds); }

double OnnxRuntime::time_once() {
  return call("time", Json::object()).at("ns").get<double>() * 1e-6;
}

LoadSample OnnxRuntime::load(int clients, double seconds) {
  const Json answer = call("load", {{"clients", clients}, {"seconds", seconds}}, {}, seconds);
  LoadSample out;
  out.ms = answer.at("ns").get<std::vector<double>>();
  for (double& ns : out.ms) ns *= 1e-6;
  out.seconds = answer.at("wall_ns").get<double>() * 1e-9;
  return out;
}

ResourceUse OnnxRuntime::resources() {
  const Json answer = call("resources", Json::object());
  return {answer.at("peak_bytes").get<uint64_t>(), answer.at("cpu_percent").get<double>()};
}

std::vector<KernelRecord> OnnxRuntime::profile(const std::string& path,
                                               std::span<const NamedTensor> feeds, int threads) {
  const Json answer = call("profile", {{"model", absolute(path)}, {"threads", threads}}, feeds);
  const auto shapes = [](const Json& rows) {
    std::vector<Shape> out;
    for (const Json& row : rows) {
      const auto dims = row.get<std::vector<int64_t>>();
      if (dims.size() <= kMaxRank) out.emplace_back(std::span<const int64_t>(dims));
    }
    return out;
  };
  std::vector<KernelRecord> out;
  for (const Json& row : answer.at("events")) {
    KernelRecord record;
    record.node = row.at("node").get<std::string>();
    record.op = row.at("op").get<std::string>();
    record.device = "cpu";
    record.kernel = row.at("kernel").get<std::string>();
    // Microseconds since the session began; 0 means "did not run" in a record.
    record.start_ms = (row.at("ts").get<double>() + 1) * 1e-3;
    record.milliseconds = row.at("dur").get<double>() * 1e-3;
    record.inputs = shapes(row.at("inputs"));
    record.outputs = shapes(row.at("outputs"));
    out.push_back(std::move(record));
  }
  return out;
}

Runner OnnxRuntime::runner() {
  Runner out;
  out.outputs = outputs_;
  out.run = [this](std::span<const NamedTensor> feeds) { return run(feeds); };
  out.prepare = [this](std::span<const NamedTensor> feeds) { feed(feeds); };
  out.time = [this] { return time_once(); };
  return out;
}

}  // namespace compress
