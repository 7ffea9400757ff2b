// Processes that a launcher (mpirun, srun) started to train one model together. Rank 0 alone writes
// and talks.
#pragma once

#include <functional>
#include <string>

#include "compress/train/ranks.h"

namespace compress {

struct Launch {
  int rank = 0;
  int size = 1;
  bool by_mpi = false;  // such processes are meant to be one program; srun's may be, or not
};

// What the environment says; one of one where COMPRESS_MPI=off. `variable` gives null for what is
// not set.
Launch launch_of(const std::function<const char*(const char* name)>& variable);

// This process is what the launcher started; without it (the Python module, whose program may use
// MPI itself) it is one of its own.
void take_launch();

// All processes meet, once; those other than rank 0 fall silent. A process of its own is rank 0 of
// 1, and nothing is loaded. Fails (unsupported) where libcompress_mpi.so is not there or does not
// know the launcher. The library is COMPRESS_MPI_LIBRARY, or beside the program, in ../lib from
// there, or where the system finds it.
const train::Ranks& join_ranks();
// All have trained: each goes its own way.
void leave_ranks();
// Fails (usage) where several processes were started for what one does.
void require_one_process(const std::string& command);

// A process that fails ends all. Where all fail for one reason, rank 0 is to say so: the others
// wait here for it, and are ended with it.
void wait_for_first_rank();
void end_other_ranks(int exit_code);

}  // namespace compress
