#include "compress/kernels/gemm_s8/saturation.h"

namespace compress::kernels {
namespace {
thread_local bool simulates = false;
}  // namespace

bool simulates_saturation() noexcept { return simulates; }

SaturationScope::SaturationScope() noexcept : before_(simulates) { simulates = true; }
SaturationScope::~SaturationScope() { simulates = before_; }

}  // namespace compress::kernels
