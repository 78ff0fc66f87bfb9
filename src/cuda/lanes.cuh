#pragma once

// What lanes of a warp do together.

#include <cstdint>

namespace flexprefill::internal::cuda {

constexpr uint32_t kAllLanes = ~0u;

// Over the four neighbouring lanes that hold a row of wgmma's sums.
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

template <typename T>
__device__ __forceinline__ T quad_sum(T value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}

}  // namespace flexprefill::internal::cuda
