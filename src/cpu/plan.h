#pragma once

#include <span>

#include "cpu/kernels.h"
#include "flexprefill/backend.h"

namespace flexprefill::internal {

// Scratch of one thread for any head of any of the problems.
size_t plan_scratch_bytes(const Kernels& kernels, std::span<const AttentionProblem> problems,
                          std::span<const Policy> policies);

// Backend::plan: one item per kv head, or per head where those are few. `scratch` holds
// plan_scratch_bytes() per thread.
void plan_problems(const Kernels& kernels, std::span<const AttentionProblem> problems,
                   std::span<const Policy> policies, std::span<const BlockMask> masks,
                   std::span<HeadReport* const> reports, std::span<std::byte> scratch,
                   const Context& context);

}  // namespace flexprefill::internal
