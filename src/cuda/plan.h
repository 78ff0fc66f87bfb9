#pragma once

// plan() on the device: launches only. Nothing is allocated, synchronised or copied to the host, so
// that the calls can be captured in a CUDA graph.

#include <span>
#include <string>

#include "flexprefill/backend.h"

namespace flexprefill::internal::cuda {

// Why these policies cannot be planned here, by name; empty = they can.
std::string plan_why_not(const AttentionProblem& problem, std::span<const Policy> policies);

// Scratch on the device, of any alignment up to 256 that the caller gives it. Depends on shapes,
// dtypes and policies alone.
size_t plan_scratch_bytes(std::span<const AttentionProblem> problems,
                          std::span<const Policy> policies);

// Backend::plan: writes every word of masks[p].bits and reports[p][0 .. heads), which are device
// pointers, on context.stream. The current device is the problems'. Lengths on the device are
// resolved as lengths.h says. Throws Error where a launch fails.
void plan_problems(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
                   std::span<const BlockMask> masks, std::span<HeadReport* const> reports,
                   std::span<std::byte> scratch, const Context& context);

}  // namespace flexprefill::internal::cuda
