#pragma once

// The vectorised, threaded backend for the CPU.

#include "cpu/isa.h"
#include "flexprefill/backend.h"

namespace flexprefill::internal {

// The backend for this machine's best instruction set, or for the one that the environment variable
// FLEXPREFILL_CPU_ISA, read once, names (Error if the machine cannot run it). Never null.
const Backend* cpu_backend();

// The backend with this instruction set; isa_supported(isa). For tests and benchmarks.
const Backend* cpu_backend_for(Isa isa);

}  // namespace flexprefill::internal
