#include "cli/ranks.h"

#include <dlfcn.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "cli/console.h"
#include "cli/machine.h"
#include "cli/mpi/mpi_api.h"
#include "compress/core/plug_library.h"
#include "compress/error.h"
#include "compress/train/augment.h"

namespace compress {
namespace {

constexpr const char* kAlone = "for runs of their own set COMPRESS_MPI=off";

struct Group {
  Launch launch;
  const mpi::Api* api = nullptr;  // while they are together
  bool joining = false;
  train::Ranks ranks;
};

Group& group() {
  static Group instance;
  return instance;
}

// True where both are set, and more than one process is meant.
bool read_launch(const std::function<const char*(const char*)>& variable, const char* rank,
                 const char* size, Launch& out) {
  const char* rank_text = variable(rank);
  const char* size_text = variable(size);
  if (rank_text == nullptr || size_text == nullptr) return false;
  out.rank = std::atoi(rank_text);
  out.size = std::atoi(size_text);
  if (out.size < 1 || out.rank < 0 || out.rank >= out.size) out = {};
  return true;
}

const mpi::Api& load_library(const Launch& launch) {
  std::string why;
  void* library = open_plug_library("libcompress_mpi.so", "COMPRESS_MPI_LIBRARY", true, why);
  if (library == nullptr) {
    fail(ErrorCode::unsupported,
         "{} processes were started to train together, and MPI cannot be loaded: {}; {}",
         launch.size, why, kAlone);
  }
  using Entry = const mpi::Api* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(library, "compress_mpi_api"));
  const mpi::Api* api = entry != nullptr ? entry() : nullptr;
  if (api == nullptr || api->version != mpi::kApiVersion || api->bytes != sizeof(mpi::Api)) {
    fail(ErrorCode::unsupported, "libcompress_mpi.so belongs to another version of this program");
  }
  return *api;
}

void check(const mpi::Api& api, int status) {
  if (status != 0) fail(ErrorCode::io, "MPI: {}", api.last_error());
}

train::Ranks ranks_of(const mpi::Api& api, int rank, int size) {
  train::Ranks ranks{rank, size, {}, {}, {}};
  ranks.send = [&api](int to, std::span<const std::byte> bytes) {
    check(api, api.send(to, bytes.data(), bytes.size()));
  };
  ranks.receive = [&api](int from, std::span<std::byte> bytes) {
    check(api, api.receive(from, bytes.data(), bytes.size()));
  };
  ranks.broadcast = [&api](int from, std::span<std::byte> bytes) {
    check(api, api.broadcast(from, bytes.data(), bytes.size()));
  };
  return ranks;
}

uint64_t number_of(const std::string& text) {
  uint64_t hash = text.size();
  for (const char c : text) hash = train::mixed_bits(hash ^ static_cast<unsigned char>(c));
  return hash;
}

}  // namespace

Launch launch_of(const std::function<const char*(const char* name)>& variable) {
  const char* knob = variable("COMPRESS_MPI");
  Launch out;
  if (knob != nullptr && std::string(knob) == "off") return out;
  // Open MPI's mpirun; those of MPICH and Intel, and srun --mpi=pmi2; any srun.
  out.by_mpi = read_launch(variable, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", out) ||
               read_launch(variable, "PMI_RANK", "PMI_SIZE", out);
  if (!out.by_mpi) read_launch(variable, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", out);
  return out;
}

void take_launch() {
  group().launch = launch_of([](const char* name) { return std::getenv(name); });
}

const train::Ranks& join_ranks() {
  Group& g = group();
  if (g.launch.size == 1 || g.api != nullptr) return g.ranks;
  g.joining = true;
  if (!g.launch.by_mpi && std::getenv("PMIX_NAMESPACE") == nullptr) {
    fail(ErrorCode::unsupported,
         "srun started {} tasks that cannot train together; give it --mpi=pmix ({})", g.launch.size,
         kAlone);
  }
  const mpi::Api& api = load_library(g.launch);
  int rank = 0, size = 0;
  check(api, api.join(&rank, &size));
  g.api = &api;
  if (size != g.launch.size) {
    fail(ErrorCode::unsupported,
         "{} processes were started, and MPI finds {}: the launcher is of another MPI; take Open "
         "MPI's mpirun, or srun --mpi=pmix",
         g.launch.size, size);
  }
  g.ranks = ranks_of(api, rank, size);
  if (!g.ranks.first()) set_console({[](std::string_view) {}, [](std::string_view) {}});
  train::require_same(g.ranks, number_of(program_version() + program_build()),
                      "it runs another build of this program than rank 0");
  return g.ranks;
}

void leave_ranks() {
  Group& g = group();
  if (g.api == nullptr) return;
  const mpi::Api& api = *g.api;
  check(api, api.leave());
  g.api = nullptr;
  g.joining = false;
}

void require_one_process(const std::string& command) {
  const Launch& launch = group().launch;
  if (!launch.by_mpi || launch.size == 1) return;
  fail(ErrorCode::usage,
       "{} processes were started, and {} has work for one: distill and train alone share it; {}",
       launch.size, command, kAlone);
}

void wait_for_first_rank() {
  const Group& g = group();
  const bool together = g.joining || (g.launch.by_mpi && g.launch.size > 1);
  if (!together || g.launch.rank == 0) return;
  // What fails on all of them does so at about the same time.
  std::this_thread::sleep_for(std::chrono::milliseconds(2000 + 100 * g.launch.rank));
}

void end_other_ranks(int exit_code) {
  if (group().api != nullptr) group().api->abort(exit_code);
}

}  // namespace compress
