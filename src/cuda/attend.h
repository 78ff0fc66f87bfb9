#pragma once

// attend() on the device: launches only, as plan.h.

#include <span>
#include <string>

#include "flexprefill/backend.h"

namespace flexprefill::internal::cuda {

// Why no kernel here computes the problem: dtypes, head dims, addresses or strides that TMA cannot
// take. Empty = one does. Says nothing about the machine.
std::string attend_why_not(const AttentionProblem& problem);

// Scratch on the device: what the kernels need to know of each problem, and an order of all tiles.
size_t attend_scratch_bytes(std::span<const AttentionProblem> problems);

// Backend::attend on context.stream. The current device is the problems'.
void attend_problems(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks,
                     std::span<std::byte> scratch, const Context& context);

}  // namespace flexprefill::internal::cuda
