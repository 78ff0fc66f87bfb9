#pragma once

// Entry points of the kernels in attend_sm90.cu.

#include <cuda_runtime.h>

#include <span>

#include "cuda/attend_problem.cuh"
#include "flexprefill/tensor.h"

namespace flexprefill::internal::cuda {

// One compiled kernel: what it serves, and what a caller needs to know of its tiles.
struct AttendKernel {
  DType dtype;
  int32_t head_dim, v_head_dim;
  KeyCopies copies;
  int32_t keys;            // of a K or V tile
  int32_t panel, v_panel;  // channels of a panel of Q and K, and of V
  // Launches on the current device.
  void (*launch)(const AttendCall& call, cudaStream_t stream);
};

// Every kernel there is.
std::span<const AttendKernel> attend_kernels();

}  // namespace flexprefill::internal::cuda
