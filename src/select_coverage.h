#pragma once

// The first half of Rule::kCoverage, apart from the top-up: tests check that it grows with gamma.

#include "select_parts.h"

namespace flexprefill::internal {

struct Choice {
  Pattern pattern = Pattern::kVerticalSlash;
  double divergence = 0.0;
};

// Sets the blocks that the pattern of head h keeps before the top-up; the mask is cleared first.
Choice select_before_top_up(const AttentionProblem& problem, const FlexPrefill& policy,
                            const CoverageScores& scores, const BlockMask& mask, int32_t h);

}  // namespace flexprefill::internal
