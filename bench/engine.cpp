// Every model in both engines, ours and ONNX Runtime (a Python child), alternately run by run;
// prints medians, smallest runs, and the ratios of each. Usage:
//   engine [--threads N] [--seconds S] [--python PYTHON] [--profile] MODEL...
//   engine --write-feed FEED.npz MODEL
//   engine --memory FEED.npz [--small MODEL] [--threads N] MODEL
// With --profile: our engine alone, each kernel's share of a run. bench/memory.py calls the other
// two: with --memory, the most memory in kB after the feed is read, before the model is, and after
// three runs.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "bench/shapes.h"
#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/runtime/session.h"
#include "formats/arrays.h"
#include "formats/onnx.h"

namespace {

namespace fs = std::filesystem;
using compress::NamedTensor;
using Clock = std::chrono::steady_clock;

// A child process with a pipe each way.
class Child {
 public:
  explicit Child(const std::vector<std::string>& command) {
    int to_child[2];
    int from_child[2];
    if (pipe(to_child) != 0 || pipe(from_child) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      dup2(to_child[0], STDIN_FILENO);
      dup2(from_child[1], STDOUT_FILENO);
      for (const int fd : {to_child[0], to_child[1], from_child[0], from_child[1]}) close(fd);
      std::vector<char*> arguments;
      for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
      arguments.push_back(nullptr);
      execvp(arguments[0], arguments.data());
      _exit(127);
    }
    close(to_child[0]);
    close(from_child[1]);
    out_ = fdopen(to_child[1], "w");
    in_ = fdopen(from_child[0], "r");
  }
  ~Child() {
    std::fclose(out_);
    std::fclose(in_);
    waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void write_line() {
    std::fputc('\n', out_);
    std::fflush(out_);
  }
  std::string read_line() {
    std::string line;
    for (int c = std::fgetc(in_); c != EOF && c != '\n'; c = std::fgetc(in_)) {
      line.push_back(static_cast<char>(c));
    }
    return line;
  }

 private:
  pid_t pid_ = -1;
  FILE* out_ = nullptr;
  FILE* in_ = nullptr;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Settings {
  int threads = 1;
  double seconds = 3;
  std::string python = "python3";
  bool profile = false;
  std::string write_feed;  // file for the feed
  std::string memory;      // the feed of a run whose memory is measured
  std::string small;       // a model to run before that
};

// Most resident memory so far, kB.
int64_t peak_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::atoll(line.c_str() + 6);
  }
  return 0;
}

void run_thrice(const compress::Model& model, const std::vector<NamedTensor>& feed) {
  compress::Session session(model);
  for (int run = 0; run < 3; ++run) session.run(feed);
}

std::vector<NamedTensor> feed_for(const fs::path& path, const compress::Model& model) {
  return compress::random_feed(model, bench::shapes_for(path.stem().string()), 1);
}

// In memory of the process, as NumPy's arrays are, not mapped.
std::vector<NamedTensor> read_feed(const std::string& path) {
  std::vector<NamedTensor> feed;
  const compress::NpzReader reader(path);
  for (const std::string& name : reader.names()) {
    const compress::Tensor stored = reader.read(name);
    compress::Tensor copy = compress::Tensor::allocate(stored.dtype(), stored.shape());
    std::memcpy(copy.mutable_data(), stored.read().bytes().data(), copy.bytes());
    feed.push_back({name, copy});
  }
  return feed;
}

void measure_memory(const fs::path& path, const Settings& settings) {
  if (!settings.small.empty()) {
    const compress::Model small = compress::read_onnx(settings.small);
    run_thrice(small, compress::random_feed(small, {}, 1));
  }
  const std::vector<NamedTensor> feed = read_feed(settings.memory);
  const int64_t before = peak_memory();
  run_thrice(compress::read_onnx(path.string()), feed);
  fmt::print("{} {}\n", before, peak_memory());
}

// Medians of a kernel's time by node; the slowest first.
void profile(const fs::path& path) {
  constexpr size_t kRuns = 9;
  constexpr size_t kRows = 40;
  const compress::Model model = compress::read_onnx(path.string());
  const std::vector<NamedTensor> feed = feed_for(path, model);
  compress::Session session(model);
  session.run(feed);
  std::vector<std::vector<double>> times;
  std::vector<compress::KernelRecord> records;
  for (size_t run = 0; run < kRuns; ++run) {
    session.profile(feed);
    records = session.kernels();
    times.resize(records.size());
    for (size_t i = 0; i < records.size(); ++i) times[i].push_back(records[i].milliseconds);
  }
  double total = 0;
  std::map<std::string, std::pair<double, int>> by_kernel;
  for (size_t i = 0; i < records.size(); ++i) {
    records[i].milliseconds = median(times[i]);
    total += records[i].milliseconds;
    auto& row = by_kernel[records[i].op + " " + records[i].kernel];
    row.first += records[i].milliseconds;
    ++row.second;
  }
  const auto slower = [](const auto& a, const auto& b) { return a.milliseconds > b.milliseconds; };
  std::stable_sort(records.begin(), records.end(), slower);
  fmt::print("{}: {:.3f} ms, {} kernels\n", path.stem().string(), total, records.size());
  for (size_t i = 0; i < std::min(kRows, records.size()); ++i) {
    fmt::print("  {:9.4f} {:16} {:28} {}\n", records[i].milliseconds, records[i].op,
               records[i].kernel, records[i].node);
  }
  std::vector<std::pair<double, std::string>> sums;
  for (const auto& [name, row] : by_kernel) {
    sums.emplace_back(-row.first, fmt::format("{:9.4f} {:4} {}", row.first, row.second, name));
  }
  std::sort(sums.begin(), sums.end());
  fmt::print("by operator and kernel:\n");
  for (const auto& [key, line] : sums) fmt::print("  {}\n", line);
}

// Our time over theirs: of the medians, and of the smallest runs, which other jobs on the machine
// disturb less. 0 where one of the engines cannot run the model.
struct Ratios {
  double median = 0, least = 0;
};

// Both engines wait as they do by default: threads spin for a while when a run has ended. They are
// asleep before the other engine has its turn, which begins with a run that wakes its own.
void settle(const Settings& settings) {
  if (settings.threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

Ratios compare(const fs::path& path, const Settings& settings) {
  const std::string name = path.stem().string();
  const compress::Model model = compress::read_onnx(path.string());
  const std::vector<NamedTensor> feed = feed_for(path, model);
  const std::string feed_path = fmt::format("/tmp/engine_feed_{}.npz", getpid());
  compress::write_npz(feed_path, feed, true);
  const std::string runner = (fs::path(__FILE__).parent_path() / "ort_runner.py").string();
  Child peer({settings.python, fs::exists(runner) ? runner : "bench/ort_runner.py", path.string(),
              feed_path, std::to_string(settings.threads)});
  compress::Session session(model);
  session.run(feed);
  if (const std::string answer = peer.read_line(); answer != "ready") {
    fmt::print("{:24} onnxruntime {}\n", name, answer);
    return {};
  }
  std::vector<double> ours;
  std::vector<double> theirs;
  const auto end = Clock::now() + std::chrono::duration<double>(settings.seconds);
  for (int run = 0; Clock::now() < end || run < 8; ++run) {
    settle(settings);
    if (settings.threads > 1) session.run_discarding(feed);
    const auto start = Clock::now();
    session.run_discarding(feed);
    const double milliseconds =
        std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    settle(settings);
    if (settings.threads > 1) peer.write_line(), peer.read_line();
    peer.write_line();
    const double peer_milliseconds = std::atof(peer.read_line().c_str()) * 1e-6;
    if (run < 3) continue;  // warm-up
    ours.push_back(milliseconds);
    theirs.push_back(peer_milliseconds);
  }
  fs::remove(feed_path);
  const double ratio = median(ours) / median(theirs);
  const double least = *std::min_element(ours.begin(), ours.end());
  const double least_peer = *std::min_element(theirs.begin(), theirs.end());
  fmt::print("{:24} {:>9.3f} {:>9.3f} {:>7.2f} {:>9.3f} {:>9.3f} {:>7.2f} {:>6}\n", name,
             median(ours), median(theirs), ratio, least, least_peer, least / least_peer,
             ours.size());
  std::fflush(stdout);
  return {ratio, least / least_peer};
}

}  // namespace

int main(int argc, char** argv) {
  compress::wait_passively(argv);
  signal(SIGPIPE, SIG_IGN);
  Settings settings;
  std::vector<fs::path> models;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--threads" && i + 1 < argc) {
      settings.threads = std::max(1, std::atoi(argv[++i]));
    } else if (word == "--seconds" && i + 1 < argc) {
      settings.seconds = std::atof(argv[++i]);
    } else if (word == "--python" && i + 1 < argc) {
      settings.python = argv[++i];
    } else if (word == "--profile") {
      settings.profile = true;
    } else if (word == "--write-feed" && i + 1 < argc) {
      settings.write_feed = argv[++i];
    } else if (word == "--memory" && i + 1 < argc) {
      settings.memory = argv[++i];
    } else if (word == "--small" && i + 1 < argc) {
      settings.small = argv[++i];
    } else if (fs::is_directory(word)) {
      for (const auto& entry : fs::directory_iterator(word)) {
        if (entry.path().extension() == ".onnx") models.push_back(entry.path());
      }
    } else {
      models.emplace_back(word);
    }
  }
  std::sort(models.begin(), models.end());
  compress::set_thread_count(settings.threads);
  if (!settings.write_feed.empty()) {
    const std::vector<NamedTensor> feed =
        feed_for(models.at(0), compress::read_onnx(models[0].string()));
    compress::write_npz(settings.write_feed, feed, true);
    return 0;
  }
  if (!settings.memory.empty()) {
    measure_memory(models.at(0), settings);
    return 0;
  }
  if (settings.profile) {
    for (const fs::path& path : models) profile(path);
    return 0;
  }
  fmt::print("{:24} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7} {:>6}   ({} threads, batch 1)\n", "model",
             "ours ms", "ORT ms", "ratio", "ours min", "ORT min", "ratio", "runs",
             settings.threads);
  double log_sum = 0;
  double log_sum_least = 0;
  int count = 0;
  for (const fs::path& path : models) {
    try {
      if (const Ratios ratios = compare(path, settings); ratios.median > 0) {
        log_sum += std::log(ratios.median);
        log_sum_least += std::log(ratios.least);
        ++count;
      }
    } catch (const compress::Error& error) {
      fmt::print("{:24} {}\n", path.stem().string(), error.what());
    }
  }
  if (count > 0) {
    fmt::print("geometric mean of {}: {:.3f}; of the smallest: {:.3f}\n", count,
               std::exp(log_sum / count), std::exp(log_sum_least / count));
  }
  return 0;
}
