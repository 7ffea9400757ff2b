#include <mpi.h>

#include <algorithm>
#include <string>

#include "cli/mpi/mpi_api.h"

namespace {

using compress::mpi::Api;

// MPI counts in int.
constexpr uint64_t kMostBytes = uint64_t{1} << 30;
constexpr int kTag = 1;

std::string error_text;

int checked(int code) {
  if (code == MPI_SUCCESS) return 0;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  error_text.assign(text, static_cast<size_t>(length));
  return code;
}

template <class Call>
int in_pieces(char* data, uint64_t bytes, Call&& call) {
  while (bytes > 0) {
    const uint64_t piece = std::min(bytes, kMostBytes);
    if (const int code = checked(call(data, static_cast<int>(piece)))) return code;
    data += piece;
    bytes -= piece;
  }
  return 0;
}

int join(int* rank, int* size) {
  int level = 0;
  // Other threads compute meanwhile, and one alone talks.
  if (const int code = checked(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level))) {
    return code;
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  if (const int code = checked(MPI_Comm_rank(MPI_COMM_WORLD, rank))) return code;
  return checked(MPI_Comm_size(MPI_COMM_WORLD, size));
}

int send(int to, const void* data, uint64_t bytes) {
  auto* from = const_cast<char*>(static_cast<const char*>(data));
  return in_pieces(from, bytes, [&](char* piece, int count) {
    return MPI_Send(piece, count, MPI_BYTE, to, kTag, MPI_COMM_WORLD);
  });
}

int receive(int from, void* data, uint64_t bytes) {
  return in_pieces(static_cast<char*>(data), bytes, [&](char* piece, int count) {
    return MPI_Recv(piece, count, MPI_BYTE, from, kTag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
  });
}

int broadcast(int from, void* data, uint64_t bytes) {
  return in_pieces(static_cast<char*>(data), bytes, [&](char* piece, int count) {
    return MPI_Bcast(piece, count, MPI_BYTE, from, MPI_COMM_WORLD);
  });
}

int leave() { return checked(MPI_Finalize()); }
void abort_all(int exit_code) { MPI_Abort(MPI_COMM_WORLD, exit_code); }
const char* last_error() { return error_text.c_str(); }

constexpr Api kApi = {compress::mpi::kApiVersion,
                      sizeof(Api),
                      join,
                      send,
                      receive,
                      broadcast,
                      leave,
                      abort_all,
                      last_error};

}  // namespace

extern "C" __attribute__((visibility("default"))) const Api* compress_mpi_api() { return &kApi; }
