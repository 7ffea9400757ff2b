// The boundary to libcompress_mpi.so, the only place that knows MPI: one table of C functions.
// Calls give 0, or another number and a text by last_error(); they are made from one thread.
#pragma once

#include <cstdint>

namespace compress::mpi {

// Raised with every change of what is below.
inline constexpr uint32_t kApiVersion = 1;

struct Api {
  uint32_t version;
  uint32_t bytes;  // of this struct

  int (*join)(int* rank, int* size);  // once a process
  int (*send)(int to, const void* data, uint64_t bytes);
  int (*receive)(int from, void* data, uint64_t bytes);
  int (*broadcast)(int from, void* data, uint64_t bytes);
  // When all have called it, each goes its own way.
  int (*leave)();
  // Ends all processes.
  void (*abort)(int exit_code);
  const char* (*last_error)();
};

}  // namespace compress::mpi
