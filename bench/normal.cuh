#pragma once

// Random data of the measuring programs, made on the GPU.

#include <cstdint>

namespace flexprefill::bench {

// Standard normal (Box-Muller), the same for the same seed.
__device__ inline float normal(uint32_t seed) {
  uint32_t x = seed * 2654435761u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  x *= 3266489917u;
  x ^= x >> 16;
  uint32_t y = x * 747796405u + 2891336453u;
  y ^= y >> 16;
  return sqrtf(-2 * logf((x + 1.0f) / 4294967808.0f)) * cospif(2 * (y / 4294967296.0f));
}

}  // namespace flexprefill::bench
