// Data sets made of numpy arrays, which arrive as plain tuples: this module knows nothing of
// numpy's own interface, which changes between versions.
#pragma once

#include <pybind11/pybind11.h>

#include "cli/data.h"

namespace compress {

// `described` is ("arrays", [array...]) or ("samples", length, fetch), where fetch(i) gives the
// arrays of a sample; an array is (name, type, shape, bytes). It must outlive the sources. REQUIRES
// the interpreter's lock here, not where sources are read.
OpenSource source_of(const std::string& name, pybind11::handle described);

}  // namespace compress
