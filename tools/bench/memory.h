#pragma once

// Bandwidth of memory and of the caches.

#include "tools/bench/measure.h"

namespace flexprefill::tools {

struct Bandwidth {
  Samples read;  // bytes per second, all threads together
  Samples copy;  // memcpy: bytes read and bytes written
};

// Every thread works on `bytes` of its own, repeatedly where that is little. Throws Error if there
// is no memory for it.
Bandwidth measure_bandwidth(const PeakKernels& kernels, int threads, int64_t bytes, int repeats);

}  // namespace flexprefill::tools
