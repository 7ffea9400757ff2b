// Runs a model on the arrays of an .npz and writes its outputs to another: the parity test's tool.
//
//   run_model MODEL IN.npz OUT.npz [--no-lower] [--kernels] [--repeat N] [--threads N]
//             [--cuda]

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/runtime/device.h"
#include "compress/runtime/session.h"
#include "formats/arrays.h"
#include "formats/onnx.h"

namespace {

int run(const std::vector<std::string>& args) {
  using namespace compress;
  SessionOptions options;
  bool show_kernels = false;
  int repeat = 0;
  for (size_t i = 3; i < args.size(); ++i) {
    if (args[i] == "--no-lower") options.lower = false;
    if (args[i] == "--cuda") options.device = Device::cuda();
    if (args[i] == "--kernels") show_kernels = true;
    if (args[i] == "--repeat") repeat = std::stoi(args.at(++i));
    if (args[i] == "--threads") set_thread_count(std::stoi(args.at(++i)));
  }
  Session session(read_onnx(args[0]), options);
  const NpzReader reader(args[1]);
  std::vector<NamedTensor> feeds;
  for (const std::string& name : reader.names()) feeds.push_back({name, reader.read(name)});
  const std::vector<Tensor> outputs = session.run(feeds);
  std::vector<NamedTensor> named;
  for (size_t i = 0; i < outputs.size(); ++i) {
    named.push_back({session.output_names()[i], outputs[i]});
  }
  write_npz(args[2], named, true);
  std::vector<double> times;
  for (int i = 0; i < repeat; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    session.run_discarding(feeds);
    const std::chrono::duration<double, std::milli> taken =
        std::chrono::steady_clock::now() - begin;
    times.push_back(taken.count());
  }
  std::sort(times.begin(), times.end());
  if (!times.empty()) {
    fmt::print("min_ms {:.4f} median_ms {:.4f}\n", times[0], times[times.size() / 2]);
  }
  if (show_kernels) {
    session.profile(feeds);
    for (const KernelRecord& record : session.kernels()) {
      fmt::print("{:8.3f} ms  {:24} {:28} {}\n", record.milliseconds, record.op, record.kernel,
                 record.node);
    }
    fmt::print("arena {} bytes\n", session.arena_bytes());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() < 3) {
    fmt::print(stderr, "usage: run_model MODEL IN.npz OUT.npz [--no-lower] [--kernels]\n");
    return 2;
  }
  try {
    return run(args);
  } catch (const compress::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
