#include "compress/verify/load.h"

#include <catch2/catch.hpp>

#include "compress/core/parallel.h"
#include "compress/error.h"
#include "compress/graph/builder.h"

using namespace compress;

namespace {

Model product(int64_t width) {
  GraphBuilder b;
  const ValueId x = b.input("x", DType::float32, {-1, width});
  b.output(b.op("MatMul", {x, b.constant(Tensor::zeros(DType::float32, {width, width}), "w")}),
           "y");
  return std::move(b).model();
}

}  // namespace

TEST_CASE("throughput counts the samples of all clients") {
  // 100 answers of 2 ms in 0.1 s: two at a time.
  const auto fixed = [](double ms, size_t runs, double seconds) {
    return [=](double) { return LoadSample{std::vector<double>(runs, ms), seconds}; };
  };
  LoadOptions options;
  options.concurrency = 2;
  options.batch = 4;
  const LoadRow row = measure_load(fixed(2, 100, 0.1), fixed(1, 200, 0.1), options);
  CHECK(row.reference.timing.throughput == Approx(4000));
  CHECK(row.candidate.timing.throughput == Approx(8000));
  CHECK(row.speedup == Approx(2));
  CHECK(row.reference.timing.p99_ms == Approx(2));
  CHECK(row.reference.runs == 4 * 100);
  CHECK(row.seconds == Approx(0.4));
}

TEST_CASE("clients run at the same time and end in time") {
  const int before = thread_count();
  const Model model = product(64);
  LoadClients clients(model, {}, 3, 1);
  const auto feed = random_feed(model, {}, 0, 2);
  clients.prepare(feed);
  const LoadSample sample = clients.run(0.1);
  CHECK(sample.ms.size() >= 3);
  CHECK(sample.seconds >= 0.1);
  double busy = 0;
  for (const double ms : sample.ms) busy += ms;
  // Three clients wait for answers together: more waiting than time.
  CHECK(busy > 1.5 * 1000 * sample.seconds);
  CHECK(thread_count() == before);
}

TEST_CASE("a client's failure is the caller's") {
  const Model model = product(8);
  LoadClients clients(model, {}, 2, 1);
  const std::vector<NamedTensor> wrong = {{"x", Tensor::zeros(DType::float32, {2, 3})}};
  CHECK_THROWS_AS(clients.prepare(wrong), Error);
}
