#pragma once

// Kernel launches whose failure throws Error naming the kernel.

#include <cuda_runtime.h>

#include <string>

#include "cuda/check.h"

namespace flexprefill::internal::cuda {

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape,
            Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...),
        (std::string("launch of ") + name).c_str());
}

}  // namespace flexprefill::internal::cuda
