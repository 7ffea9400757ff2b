// Time of one training step (forward, backward, Adam) of a network on random data, and of its
// kernels.
//
//   bench_training MODEL [--batch N] [--threads N] [--steps N] [--kernels]
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "compress/core/parallel.h"
#include "compress/runtime/session.h"
#include "compress/train/training_graph.h"
#include "formats/onnx.h"

using namespace compress;
using Clock = std::chrono::steady_clock;

int main(int argc, char** argv) {
  wait_passively(argv);
  int64_t batch = 128;
  int steps = 50;
  bool kernels = false;
  for (int i = 2; i < argc; ++i) {
    if (std::strcmp(argv[i], "--kernels") == 0) kernels = true;
    if (i + 1 >= argc) break;
    if (std::strcmp(argv[i], "--batch") == 0) batch = std::atoi(argv[i + 1]);
    if (std::strcmp(argv[i], "--threads") == 0) set_thread_count(std::atoi(argv[i + 1]));
    if (std::strcmp(argv[i], "--steps") == 0) steps = std::atoi(argv[i + 1]);
  }
  const Model model = read_onnx(argv[1]);
  train::TrainOptions options;
  options.batch = batch;
  options.loss.terms = train::parse_loss("cross-entropy");
  const train::TrainingGraph graph = train::make_training_graph(model, nullptr, true, options);
  std::vector<NamedTensor> feeds = random_feed(model, {}, 1, batch);
  Tensor label = Tensor::zeros(DType::int64, {batch});
  feeds.push_back({graph.inputs.label, label});
  for (const auto& p : graph.parameters) {
    Tensor start = Tensor::allocate(DType::float32, p.initial.shape());
    uint64_t i = 0;
    for (float& w : start.mutable_as<float>()) {
      w = (static_cast<float>(train::mixed_bits(i++) >> 40) * 0x1p-23f - 1) * 0.05f;
    }
    feeds.push_back({graph.model.graph.value(p.value).name, start});
  }
  for (const auto& s : graph.states) {
    feeds.push_back({graph.model.graph.value(s.input).name, s.initial});
  }
  std::vector<train::Moments> moments;
  std::vector<std::vector<float>> weights;
  for (const auto& p : graph.parameters) {
    const auto count = static_cast<size_t>(p.initial.count());
    moments.push_back(train::make_moments(options.optimizer, count));
    weights.emplace_back(count, 0.0f);
  }
  Session session(graph.model);
  std::vector<double> times;
  for (int step = 0; step < steps; ++step) {
    const auto start = Clock::now();
    session.run_discarding(feeds);
    for (size_t i = 0; i < weights.size(); ++i) {
      const auto* gradient = session.output(i + 1).as<const float>();
      train::update(options.optimizer, 1e-3, step + 1, true, {gradient, weights[i].size()}, {},
                    weights[i], moments[i]);
    }
    times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  std::sort(times.begin(), times.end());
  fmt::print("{}: batch {}, {} threads: median {:.1f} ms, least {:.1f} ms, arena {:.1f} MB\n",
             argv[1], batch, thread_count(), times[times.size() / 2], times[0],
             static_cast<double>(session.arena_bytes()) / 1e6);
  if (!kernels) return 0;
  session.profile(feeds);
  for (const KernelRecord& record : session.kernels()) {
    if (record.fused) continue;
    fmt::print("{:9.3f} ms  {:34} {}  {}\n", record.milliseconds, record.kernel, record.op,
               record.outputs.empty() ? "" : record.outputs[0].to_string());
  }
}
