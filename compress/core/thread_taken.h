// A thread beside parallel_for's.
#pragma once

namespace compress {

// While one lives, parallel_for leaves a thread to whoever made it: beside a long computation of
// one thread, all of them would take a part of its core.
class ThreadTaken {
 public:
  ThreadTaken();
  ~ThreadTaken();
  ThreadTaken(const ThreadTaken&) = delete;
  ThreadTaken& operator=(const ThreadTaken&) = delete;
};

}  // namespace compress
