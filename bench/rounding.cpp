// What rounding the weights of one layer takes: every way of weight-only quantization, on one core.
// Usage: bench_rounding [SIZE] (default 4096: a layer of SIZE x SIZE, blocks of 32, int4)
#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <random>

#include "compress/core/parallel.h"
#include "passes/quantize/pack.h"
#include "passes/recover/round_blocks.h"

namespace {

using compress::Tensor;

Tensor random_rows(int64_t n, int64_t k) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(0, 0.05f);
  Tensor out = Tensor::allocate(compress::DType::float32, {n, k});
  for (float& x : out.mutable_as<float>()) x = normal(generator);
  return out;
}

// Positive definite, with columns that depend on their neighbours.
Eigen::MatrixXd banded_hessian(int64_t k) {
  Eigen::MatrixXd h(k, k);
  for (int64_t c = 0; c < k; ++c) {
    for (int64_t r = 0; r < k; ++r) h(r, c) = std::pow(0.9, static_cast<double>(std::abs(r - c)));
  }
  return h;
}

template <class Run>
void time(const char* name, Run&& run) {
  const auto start = std::chrono::steady_clock::now();
  const std::clock_t cpu = std::clock();
  run();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  fmt::print("{:<28} {:8.3f} s, {:8.3f} s of processor time\n", name, seconds.count(),
             static_cast<double>(std::clock() - cpu) / CLOCKS_PER_SEC);
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t size = argc > 1 ? std::atoll(argv[1]) : 4096;
  compress::set_thread_count(1);
  const Tensor rows = random_rows(size, size);
  const Eigen::MatrixXd hessian = banded_hessian(size);
  const compress::BlockFormat format{compress::DType::int4, 4, 32};
  time("pack_blocks (to nearest)",
       [&] { compress::pack_blocks(rows, format.dtype, format.block); });
  time("clipped_blocks (awq)", [&] { compress::clipped_blocks(rows, hessian.diagonal(), format); });
  time("inverse_factor", [&] { compress::inverse_factor(hessian.cast<float>()); });
  time("gptq_blocks", [&] { compress::gptq_blocks(rows, hessian, format); });
}
