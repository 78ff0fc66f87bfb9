#pragma once

// The backend for NVIDIA Hopper GPUs (compute capability 9.0).

#include "flexprefill/backend.h"

namespace flexprefill::internal {

// Listed whether or not the machine has such a GPU: why_not says what is missing.
const Backend& cuda_backend();

}  // namespace flexprefill::internal
