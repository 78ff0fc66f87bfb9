#pragma once

// The decisions behind a head of Rule::kOfficial, apart from the mask they expand to: tests trace a
// block that differs from the official code's to one decision, change it, and expand again.

#include <cstdint>
#include <vector>

#include "select_parts.h"

namespace flexprefill::internal {

struct QueryAwareEntry {
  float weight = 0.0f;  // probability of key block j in query block i
  int32_t i = 0, j = 0;
};

struct OfficialDecisions {
  double divergence = 0.0;      // may be NaN: vertical-slash
  bool query_aware = false;     // divergence < tau
  int64_t vertical_tokens = 0;  // step 4: columns, heaviest first, until gamma is passed
  int64_t slash_tokens = 0;
  int32_t vertical_count = 0;  // blocks kept, the forced one among them
  int32_t slash_count = 0;
  std::vector<Scored> vertical;  // every key block, best first; block 0 forced with +inf
  std::vector<Scored> slash;     // every block offset, best first; offset 0 forced with +inf
  std::vector<QueryAwareEntry> entries;  // best first; empty unless query_aware
  size_t kept_entries = 0;
};

OfficialDecisions decide_official(const AttentionProblem& problem, const FlexPrefill& policy,
                                  const OfficialScores& scores);

// Step 12: fills entries and kept_entries.
void decide_query_aware(const AttentionProblem& problem, const FlexPrefill& policy,
                        const OfficialScores& scores, OfficialDecisions& decisions);

// Blocks for a count of tokens (step 5).
int32_t official_block_count(int64_t tokens, const FlexPrefill& policy, int32_t k_blocks);

// Sets the blocks of the decisions in head h of `mask`, cleared first.
void expand_official(const OfficialDecisions& decisions, const BlockMask& mask, int32_t h);

}  // namespace flexprefill::internal
