#pragma once

// Scores of one head, as the selectors of select.h read them, from the kernels of one instruction
// set.

#include "cpu/kernels.h"
#include "ref/arena.h"
#include "select.h"

namespace flexprefill::internal {

// What the first piece of an arena still holds from the head before: the key means of the same kv
// head under this rule, which all its heads share.
struct HeldKeyMeans {
  bool filled = false;
  Rule rule = Rule::kCoverage;
};

// The spans of the result lie in the arena. A counting arena gives empty ones and computes nothing.
CoverageScores score_coverage(const Kernels& kernels, const AttentionProblem& problem, int32_t h,
                              const FlexPrefill& policy, Arena& arena, HeldKeyMeans& held);
OfficialScores score_official(const Kernels& kernels, const AttentionProblem& problem, int32_t h,
                              const FlexPrefill& policy, Arena& arena, HeldKeyMeans& held);

}  // namespace flexprefill::internal
