#include "compress/verify/load.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "compress/core/parallel.h"

namespace compress {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTurns = 4;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

LoadSide side_of(const LoadSample& sample, int64_t batch) {
  LoadSide out;
  out.runs = static_cast<int64_t>(sample.ms.size());
  out.timing = timing_of(sample.ms, batch);
  if (sample.seconds > 0) {
    out.timing.throughput = static_cast<double>(out.runs * batch) / sample.seconds;
  }
  return out;
}

void append(LoadSample& to, const LoadSample& more) {
  to.ms.insert(to.ms.end(), more.ms.begin(), more.ms.end());
  to.seconds += more.seconds;
}

}  // namespace

LoadRow measure_load(const LoadRun& reference, const LoadRun& candidate,
                     const LoadOptions& options) {
  LoadSample ours, theirs;
  const double turn = options.seconds / (2 * kTurns);
  reference(turn / 4);
  candidate(turn / 4);
  for (int i = 0; i < kTurns; ++i) {
    append(ours, reference(turn));
    append(theirs, candidate(turn));
  }
  LoadRow row;
  row.concurrency = options.concurrency;
  row.threads = options.threads;
  row.batch = options.batch;
  row.seconds = ours.seconds;
  row.reference = side_of(ours, options.batch);
  row.candidate = side_of(theirs, options.batch);
  if (row.reference.timing.throughput > 0) {
    row.speedup = row.candidate.timing.throughput / row.reference.timing.throughput;
  }
  return row;
}

struct LoadClients::Impl {
  std::vector<Session> sessions;
  int threads;
  std::span<const NamedTensor> feeds;

  // Runs `body(client)` on a thread a client and waits for all; the first failure is rethrown.
  template <class Body>
  void each(Body body) {
    std::exception_ptr first;
    std::mutex guard;
    const int before = thread_count();
    set_thread_count(threads);
    std::vector<std::thread> clients;
    for (size_t i = 0; i < sessions.size(); ++i) {
      clients.emplace_back([&, i] {
        // The size of a thread team is a property of the thread that starts it.
        set_thread_count(threads);
        try {
          body(i);
        } catch (...) {
          const std::lock_guard lock(guard);
          if (!first) first = std::current_exception();
        }
      });
    }
    for (std::thread& client : clients) client.join();
    set_thread_count(before);
    if (first) std::rethrow_exception(first);
  }
};

LoadClients::LoadClients(const Model& model, const SessionOptions& options, int clients,
                         int threads)
    : impl_(std::make_unique<Impl>()) {
  impl_->threads = threads;
  for (int i = 0; i < clients; ++i) impl_->sessions.emplace_back(model, options);
}
LoadClients::~LoadClients() = default;

void LoadClients::prepare(std::span<const NamedTensor> feeds) {
  impl_->feeds = feeds;
  impl_->each([&](size_t i) { impl_->sessions[i].run(feeds); });
}

LoadSample LoadClients::run(double seconds) {
  std::vector<std::vector<double>> times(impl_->sessions.size());
  const auto start = Clock::now();
  impl_->each([&](size_t i) {
    auto now = Clock::now();
    do {
      impl_->sessions[i].run_discarding(impl_->feeds);
      const auto done = Clock::now();
      times[i].push_back(std::chrono::duration<double, std::milli>(done - now).count());
      now = done;
    } while (seconds_since(start) < seconds);
  });
  LoadSample out;
  out.seconds = seconds_since(start);
  for (const auto& client : times) out.ms.insert(out.ms.end(), client.begin(), client.end());
  return out;
}

}  // namespace compress
