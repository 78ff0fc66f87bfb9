#pragma once

// Scores of one head, as the selectors of select.h read them.

#include "ref/arena.h"
#include "select.h"

namespace flexprefill::internal {

// The spans of the result lie in the arena. A counting arena gives empty ones and computes nothing.
CoverageScores score_coverage(const AttentionProblem& problem, int32_t h, Arena& arena);
OfficialScores score_official(const AttentionProblem& problem, int32_t h, Arena& arena);

}  // namespace flexprefill::internal
