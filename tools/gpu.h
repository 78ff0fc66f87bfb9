#pragma once

// Memory and times of the first GPU, through CUDA's runtime: gpu.cc. A program built without CUDA
// has no_gpu.cc instead, which is never asked: it has no backend that would need it.

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

namespace flexprefill::tools {

bool built_with_cuda();

// All throw Error that names the CUDA call and its reason.
void* gpu_allocate(size_t bytes);
void gpu_copy(void* to, const void* from, size_t bytes);  // from and to the host; waits for it

void gpu_free(void* data) noexcept;

// What the GPU needs for each of the parts that queue work on its default stream, in seconds
// between events. All parts run once before, untimed: while the GPU is busy with that, the timed
// ones are queued, so that no time of launching is measured.
std::vector<double> gpu_seconds(std::span<const std::function<void()>> parts);

}  // namespace flexprefill::tools
