#pragma once

#include "flexprefill/backend.h"
#include "ref/arena.h"

namespace flexprefill::internal {

// Computes block row i of head h. Real is the type of all arithmetic after the inputs are loaded. A
// counting arena computes nothing.
template <typename Real>
void attend_block_row(const AttentionProblem& problem, const BlockMask& mask, int32_t h, int32_t i,
                      Arena& arena);

}  // namespace flexprefill::internal
