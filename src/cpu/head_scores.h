#pragma once

// Scores of one head, as the selectors of select.h read them, from the kernels of one instruction
// set.

#include "cpu/kernels.h"
#include "ref/arena.h"
#include "select.h"

namespace flexprefill::internal {

// The spans of the result lie in the arena. A counting arena gives empty ones and computes nothing.
CoverageScores score_coverage(const Kernels& kernels, const AttentionProblem& problem, int32_t h,
                              const FlexPrefill& policy, Arena& arena);
OfficialScores score_official(const Kernels& kernels, const AttentionProblem& problem, int32_t h,
                              const FlexPrefill& policy, Arena& arena);

}  // namespace flexprefill::internal
