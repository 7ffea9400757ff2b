// How a computation that was given up ends early.
#pragma once

namespace compress {

// `check` may throw what ends it, and is asked at most 20 times a second. Null: nobody is.
void set_interruption(void (*check)());

// Called between nodes of a session and between passes; never inside kernels, which may not throw.
void check_interruption();

}  // namespace compress
