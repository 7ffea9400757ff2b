// The hostile corpus: each case in a process of its own, so that a crash, its time and its memory
// are seen. What is accepted must also survive the writer.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "compress/error.h"
#include "tests/formats/wire_models.h"

namespace compress {
namespace {

struct Outcome {
  std::string verdict;  // "accept", "reject", or what went wrong
  double seconds;
  double rss_mb;
};

std::string attempt(const std::string& path, const std::string& target) {
  try {
    const Model model = read_onnx(path);
    check_graph(model.graph);
    try {
      write_onnx(model, target);
      if (!same_graph(model.graph, read_onnx(target).graph)) return "changed by a round trip";
    } catch (const Error& error) {
      return std::string("not written: ") + error.what();
    }
  } catch (const Error& error) {
    const std::string line = error.what();
    return line.find('\n') == std::string::npos ? "reject" : "an error of two lines";
  }
  return "accept";
}

Outcome run_case(const std::string& path, const std::string& target) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const auto begin = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string verdict = attempt(path, target);
    const bool sent = ::write(ends[1], verdict.data(), verdict.size()) >= 0;
    ::_exit(sent ? 0 : 1);
  }
  ::close(ends[1]);
  std::string verdict;
  char buffer[4096];
  for (ssize_t got; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;) {
    verdict.append(buffer, static_cast<size_t>(got));
  }
  ::close(ends[0]);
  int status = 0;
  rusage usage{};
  ::wait4(child, &status, 0, &usage);
  if (status != 0) verdict = "ended with status " + std::to_string(status);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return {verdict, seconds, static_cast<double>(usage.ru_maxrss) / 1024};
}

std::map<std::string, std::string> read_exceptions() {
  std::map<std::string, std::string> rows;
  std::ifstream file(COMPRESS_SOURCE_DIR "/tests/formats/corpus_exceptions.txt");
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string id, verdict;
    words >> id >> verdict;
    rows[id] = verdict;
  }
  return rows;
}

}  // namespace

TEST_CASE("every model of the hostile corpus is refused or read as it should be") {
  const fs::path archive = fs::path(COMPRESS_SHARED_DIR) / "bad-inputs" / "corpus.tar.gz";
  if (!fs::exists(archive)) {
    WARN("skipped: no corpus at " << archive);
    return;
  }
  const Scratch scratch;
  const std::string unpack =
      "tar -xzf '" + archive.string() + "' -C '" + scratch.folder.string() + "'";
  REQUIRE(std::system(unpack.c_str()) == 0);
  std::ifstream expectations(scratch.folder / "expect.json");
  std::map<std::string, std::string> exceptions = read_exceptions();
  std::map<std::string, int> counts;
  double worst_seconds = 0;
  double worst_rss = 0;
  for (const auto& row : nlohmann::json::parse(expectations)) {
    if (row["kind"] != "model") continue;
    const std::string id = row["id"];
    const std::string expected = row["expect"];
    const std::string target = scratch.path("out.onnx");
    fs::remove(target);
    const Outcome outcome = run_case(scratch.path(row["file"]), target);
    INFO(id << ": " << outcome.verdict << ", expected " << expected);
    ++counts[expected + " -> " + outcome.verdict];
    worst_seconds = std::max(worst_seconds, outcome.seconds);
    worst_rss = std::max(worst_rss, outcome.rss_mb);
    CHECK(outcome.seconds <= row["max_s"].get<double>());
    CHECK(outcome.rss_mb <= row["max_rss_mb"].get<double>());
    const auto exception = exceptions.find(id);
    if (exception != exceptions.end()) {
      CHECK(outcome.verdict == exception->second);
      CHECK(outcome.verdict != expected);
      exceptions.erase(exception);
    } else if (expected == "either") {
      CHECK((outcome.verdict == "accept" || outcome.verdict == "reject"));
    } else {
      CHECK(outcome.verdict == expected);
    }
  }
  CHECK(exceptions.empty());
  std::string summary;
  for (const auto& [what, count] : counts) summary += fmt::format("{}: {}; ", what, count);
  WARN(summary << "worst " << worst_seconds << " s, " << worst_rss << " MB");
}

}  // namespace compress
