#pragma once

// From scores to block masks, on the host: one selector per rule. Backends score in their own way
// (ref in scalar code, cpu vectorised) and share these, so that a mask depends on the scores alone.
// Formulas: docs/algorithm.md.

#include <cstdint>
#include <functional>
#include <span>

#include "flexprefill/backend.h"
#include "flexprefill/block_mask.h"
#include "flexprefill/policy.h"

namespace flexprefill::internal {

inline constexpr int32_t kProbeRows = kBlock;  // at most; fewer when the problem has fewer queries

// Probe rows of a problem: its last `count` queries; row 0 sits at absolute position first_position
// (relative to the first key, may be negative or past the last key).
struct ProbeRows {
  int32_t count = 0;
  int64_t first_position = 0;
};
ProbeRows probe_rows(const AttentionProblem& problem);

// Number of keys that the last query sees; later keys never matter, not even to the means.
int64_t visible_keys(const AttentionProblem& problem);

// Slash buckets: s = floor(distance / 128). CoverageScores.slash[b] is bucket first_slash_bucket()
// + b; the first is 0 unless the keys lie wholly in the past of the probe rows.
int64_t first_slash_bucket(const AttentionProblem& problem);
int32_t slash_buckets(const AttentionProblem& problem);

// Scores of one head for Rule::kCoverage. A probe row that sees no key has mass 0 everywhere. Key
// block j stands for its tokens below visible_keys(); entries of blocks at or past that are
// ignored.
struct CoverageScores {
  std::span<const float> row_mass;  // [probe rows, k_blocks] softmax mass of key block j in row r
  std::span<const double> slash;    // [slash_buckets] mass of bucket, mean over rows that see keys
  std::span<const float> probe_mean;  // [head_dim] mean of q over the probe rows that see keys
  std::span<const float> q_mean;  // [q_blocks, head_dim] mean of q over each query block's rows;
                                  // may be empty when tau is 0 (no head is query-aware)
  std::span<const float> k_mean;  // [k_blocks, head_dim] mean of k over each key block's tokens
  float softmax_scale = 0.0f;
  std::function<void()> fill_q_mean = {};  // called before q_mean is read, which takes all of q
};

// Scores of one head for Rule::kOfficial; q_len == kv_len, q_start == 0. Everything "bf16" is
// rounded to bf16 and stored as float. Steps are those of docs/algorithm.md.
struct OfficialScores {
  std::span<float> vertical;  // [kv_len] mean over probe rows of P[., n]; the selector sorts it
  std::span<float> slash;     // [kv_len] mean over probe rows of P at distance d; sorted too
  std::span<const float> probe_mean;  // [head_dim] bf16: mean of the probe rows bf16(q / sqrt(D))
  std::span<const float>
      q_mean;  // [q_blocks, head_dim] bf16: mean of q (not yet over sqrt(D)), the
               // last row rescaled as step 12 says; may be empty when tau is 0
  std::span<const float> k_mean;    // [k_blocks, head_dim] bf16
  std::span<const float> row_mass;  // [probe rows, k_blocks] as above, or empty: coverage is not
                                    // measured
  std::function<void()> fill_q_mean = {};  // as above
};

// True when `policy` runs this problem dense without scoring (short prompts, gamma = 1 with
// kCoverage).
bool runs_dense(const AttentionProblem& problem, const FlexPrefill& policy);

// Fills the rows of head h of `mask` (cleared first) and returns its report.
HeadReport select_dense(const BlockMask& mask, int32_t h);
HeadReport select_a_shape(const BlockMask& mask, int32_t h, const AShape& policy);
HeadReport select_coverage(const AttentionProblem& problem, const FlexPrefill& policy,
                           const CoverageScores& scores, const BlockMask& mask, int32_t h);
HeadReport select_official(const AttentionProblem& problem, const FlexPrefill& policy,
                           const OfficialScores& scores, const BlockMask& mask, int32_t h);

}  // namespace flexprefill::internal
