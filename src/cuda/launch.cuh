#pragma once

// Kernel launches whose failure throws Error naming the kernel, and programmatic dependent launch:
// in a chain of short kernels the start of the next overlaps the end of the one before.

#include <cuda_runtime.h>

#include <string>

#include "cuda/check.h"

namespace flexprefill::internal::cuda {

inline constexpr int32_t kSms = 132;  // of an H100 or H200

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
  bool joins = false;  // the kernel calls join_stream...(): it may start early
};

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &early;
  config.numAttrs = shape.joins ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...),
        (std::string("launch of ") + name).c_str());
}

#ifdef __CUDACC__
// Waits for the kernels before this one and for what they wrote. Every block of a kernel that joins
// calls this, and before release_stream(): then waiting for one kernel is waiting for all before
// it. What a block reads before this call must have been written before the previous kernel
// started.
__device__ __forceinline__ void join_stream() { cudaGridDependencySynchronize(); }

// Lets the next kernel start its blocks once all of this one's have come here or ended. For kernels
// that leave room: where one fills the GPU, the next one's blocks would crowd onto the SMs that
// become free first.
__device__ __forceinline__ void release_stream() { cudaTriggerProgrammaticLaunchCompletion(); }

__device__ __forceinline__ void join_stream_and_release() {
  join_stream();
  release_stream();
}
#endif

}  // namespace flexprefill::internal::cuda
