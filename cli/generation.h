// Both models as language models: a prompt, and what they go on with.
#pragma once

#include "cli/verification.h"

namespace compress {

// Adds what was generated to the report, where it was asked for.
void generate_here(const Model& reference, const Model& candidate, const SessionOptions& options,
                   JobData& data, const CommonFlags& flags, const VerifyExtras& extras,
                   Report& report);

}  // namespace compress
