// Parts of the program that it finds at run time, where they were built: shared libraries of ours,
// each with one function that returns a table.
#pragma once

#include <string>

namespace compress {

// The library stays loaded; `global` lets what it links be seen by libraries that those load. It is
// looked for where the environment variable says, else beside the program, in ../lib from there,
// and where the system keeps libraries. Null, and why, where it is not there.
void* open_plug_library(const char* file, const char* variable, bool global, std::string& why);

}  // namespace compress
