// Response times and throughput while several clients ask at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "compress/verify/benchmark.h"

namespace compress {

// A closed loop: each client asks again as soon as it has its answer.
struct LoadSample {
  std::vector<double> ms;  // response times
  double seconds = 0;      // from the first request to the last answer
};
using LoadRun = std::function<LoadSample(double seconds)>;

struct LoadSide {
  int64_t runs = 0;
  Timing timing;  // of a response; throughput in samples a second over all clients
};

struct LoadRow {
  std::string device = "cpu";
  int concurrency = 1;
  int threads = 1;  // of each client
  int64_t batch = 1;
  double seconds = 0;  // for each model
  LoadSide reference;
  LoadSide candidate;
  double speedup = 0;  // by throughput
};

struct LoadOptions {
  int concurrency = 1;
  int threads = 1;
  int64_t batch = 1;
  double seconds = 4;  // for both models together, after the warm-up
};

// Both models in turns, so that what else happens on the machine meets both.
LoadRow measure_load(const LoadRun& reference, const LoadRun& candidate,
                     const LoadOptions& options);

// Clients of our own engine: a session and a thread each.
class LoadClients {
 public:
  LoadClients(const Model& model, const SessionOptions& options, int clients, int threads);
  ~LoadClients();
  // The feeds outlive the runs. Plans are made here, not in a timed run.
  void prepare(std::span<const NamedTensor> feeds);
  LoadSample run(double seconds);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace compress
