#pragma once

#include <cuda_runtime.h>

#include <span>

#include "cuda/attend_problem.cuh"

namespace flexprefill::internal::cuda {

// Copies the problems to the device through kernel arguments, so that a graph keeps its own copy,
// resolves their lengths there, writes the order of their tiles where one is asked for, and sets
// *next_tile to 0.
void prepare_attend(std::span<const AttendProblem> problems, AttendProblem* g_problems,
                    int32_t* next_tile, cudaStream_t stream);

}  // namespace flexprefill::internal::cuda
