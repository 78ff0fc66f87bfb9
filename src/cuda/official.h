#pragma once

// Rule::kOfficial after scoring: the decisions of one head, to the letter of docs/algorithm.md,
// whose step numbers these are. Team code (team.h). Query-aware entries are select_official.cu's.

#include "cuda/decide_head.h"

namespace flexprefill::internal::cuda {

// To bf16 and back, nearest even.
FLEXPREFILL_DEVICE_FN float as_bf16(float value) {
#ifdef __CUDA_ARCH__
  const uint32_t bits = __float_as_uint(value);
#else
  const uint32_t bits = std::bit_cast<uint32_t>(value);
#endif
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t rounded =
      (nan ? bits | 0x400000u : bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
#ifdef __CUDA_ARCH__
  return __uint_as_float(rounded);
#else
  return std::bit_cast<float>(rounded);
#endif
}

// Step 1.
struct OverSqrt {
  float inverse_sqrt;
  FLEXPREFILL_DEVICE_FN float operator()(float value) const {
    return as_bf16(as_bf16(value) * inverse_sqrt);
  }
};

// Step 12: bf16 mean over a full block with zero padding, the last block's scaled back in bf16;
// then over sqrt(head_dim).
FLEXPREFILL_DEVICE_FN float official_query(float mean, int64_t tokens, float inverse_sqrt) {
  const float count = static_cast<float>(tokens);
  float q = as_bf16(mean);
  if (tokens != kBlock) q = as_bf16(as_bf16(as_bf16(mean * count / kBlock) * kBlock) / count);
  return as_bf16(q * inverse_sqrt);
}

// Step 3, mass at distance d: along a diagonal that crosses one or two key blocks.
FLEXPREFILL_DEVICE_FN float distance_mass(const PlanShape& s, const HeadScores& x, int64_t d) {
  const int64_t key = s.first_position - d;  // of probe row 0
  const int64_t j = plan_floor_div(key, kBlock);
  const int32_t in_block = static_cast<int32_t>(key - j * kBlock);
  float mass = 0.0f;
  if (j >= 0) mass += x.diagonals(static_cast<int32_t>(j))[127 - in_block];
  if (in_block > 0 && j + 1 < s.visible_blocks) {
    mass += x.diagonals(static_cast<int32_t>(j + 1))[127 + kBlock - in_block];
  }
  return mass;
}

// Step 4: the fewest of the largest masses whose sum is above gamma; n + 1 if there are none.
template <typename Team>
FLEXPREFILL_DEVICE_FN int64_t token_count(const Team& team, const float* masses, int32_t n,
                                          float gamma) {
  const uint32_t unranked =
      team.sum(n, [&](int32_t x) { return masses[x] == masses[x] ? uint32_t{0} : uint32_t{1}; });
  if (unranked > 0) return 1;
  const auto keys = [&](int32_t x) { return score_key(masses[x]); };
  CutRule rule;
  rule.target = floor(static_cast<double>(gamma) * kMassUnits) + 1;  // masses are integers
  if (static_cast<double>(tally_from(team, n, KeyMass<decltype(keys)>{keys}, 1).mass) < rule.target)
    return int64_t{n} + 1;
  const Cut cut = find_cut(team, n, keys, rule);
  return team.sum(n, [&](int32_t x) { return cut.keeps(keys(x), x) ? uint32_t{1} : uint32_t{0}; });
}

// Step 5.
FLEXPREFILL_DEVICE_FN int32_t official_count(int64_t tokens, const PlanPolicy& policy,
                                             int32_t k_blocks) {
  const int64_t count = plan_max(tokens / 128 + 1, policy.min_blocks);
  return static_cast<int32_t>(plan_min(count, plan_min(policy.max_blocks, k_blocks)));
}

// Steps 3 to 11: pattern and lines. probe_mean is [head_dim], as step 7 has it.
template <typename Team>
FLEXPREFILL_DEVICE_FN HeadState decide_official(const Team& team, const PlanProblem& p,
                                                const PlanShape& s, const PlanPolicy& policy,
                                                const HeadScores& x, int32_t h,
                                                const float* probe_mean) {
  const int32_t k_blocks = s.visible_blocks;
  const float* const k_mean =
      p.official_k_mean + int64_t{plan_kv_head(p, h)} * p.head_dim * p.k_blocks;
  const auto keys = static_cast<int32_t>(s.kv_len);
  float* const columns = x.tokens;
  float* const distances = x.tokens + int64_t{x.k_blocks} * kBlock;
  team.for_each(keys, [&](int32_t d) { distances[d] = distance_mass(s, x, d); });
  const int64_t vertical_tokens = token_count(team, columns, keys, policy.gamma);
  const int64_t slash_tokens = token_count(team, distances, keys, policy.gamma);

  // Step 6: distances fall to offset 0 below the tokens of the last block, then 128 to an offset.
  const int32_t last = keys - (k_blocks - 1) * kBlock;
  team.for_each(k_blocks, [&](int32_t j) {
    double vertical = 0.0, slash = 0.0;
    for (int32_t n = j * kBlock; n < plan_min((j + 1) * kBlock, keys); ++n) vertical += columns[n];
    const int32_t begin = j == 0 ? 0 : last + (j - 1) * kBlock;
    for (int32_t d = begin; d < last + j * kBlock; ++d) slash += distances[d];
    x.vertical[j] = static_cast<float>(vertical);
    x.slash[j] = static_cast<float>(slash);
  });

  // Steps 7 and 8.
  const Maximum top = team.sum(k_blocks, [&](int32_t j) {
    float dot = 0.0f;
    FLEXPREFILL_UNROLL_16
    for (int32_t c = 0; c < p.head_dim; ++c) {
      dot += probe_mean[c] * as_bf16(k_mean[int64_t{c} * x.k_blocks + j]);
    }
    x.pooled[j] = as_bf16(dot);
    return Maximum{x.pooled[j]};
  });
  softmax(team, x.pooled, k_blocks, top.value);
  HeadState state = {};
  state.measured = 1;
  const auto vertical = [&](int32_t j) { return x.vertical[j]; };
  state.divergence = js_distance(team, x.pooled, vertical, k_blocks, /*zero=*/NAN);
  const bool query_aware = state.divergence < static_cast<double>(policy.tau);
  state.pattern = query_aware ? Pattern::kQueryAware : Pattern::kVerticalSlash;

  // Steps 5, 9 and 10.
  int32_t counts[2] = {official_count(vertical_tokens, policy, k_blocks),
                       official_count(slash_tokens, policy, k_blocks)};
  if (query_aware) {
    counts[0] = counts[1] =
        static_cast<int32_t>(plan_min(plan_max(policy.min_blocks, 1), k_blocks));
  }
  team.for_each(1, [&](int32_t) { x.vertical[0] = x.slash[0] = INFINITY; });
  const auto column = [&](int32_t j) { return score_key(x.vertical[j]); };
  const auto offset = [&](int32_t j) { return score_key(x.slash[j]); };
  const Cut cuts[2] = {find_cut(team, k_blocks, column, {0.0, counts[0], counts[0]}),
                       find_cut(team, k_blocks, offset, {0.0, counts[1], counts[1]})};
  store_lines(team, s, x, p.row_words, cuts[0], cuts[1], /*both_offsets=*/false);
  return state;
}

}  // namespace flexprefill::internal::cuda
