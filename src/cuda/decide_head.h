#pragma once

// Rule::kCoverage after scoring: the pattern of a head and its lines. Team code (team.h).

#include "cuda/head_scores.h"

namespace flexprefill::internal::cuda {

// The row's maximum over key blocks, and 1 / the row's sum at that maximum; `groups` partial
// results are merged in order, so that the device may share a row among threads.
inline constexpr int32_t kTotalGroups = 16;

FLEXPREFILL_DEVICE_FN float row_max_part(const PlanShape& s, const HeadScores& x, int32_t r,
                                         int32_t group) {
  float top = -INFINITY;
  const int32_t end = s.sees_keys(r) ? seen_blocks(s, r) : 0;
  FLEXPREFILL_UNROLL_16
  for (int32_t j = group; j < end; j += kTotalGroups) top = fmaxf(top, x.stat(j, 0)[r]);
  return top;
}

FLEXPREFILL_DEVICE_FN double row_sum_part(const PlanShape& s, const HeadScores& x, int32_t r,
                                          int32_t group, float top) {
  double sum = 0.0;
  const int32_t end = s.sees_keys(r) ? seen_blocks(s, r) : 0;
  FLEXPREFILL_UNROLL_16
  for (int32_t j = group; j < end; j += kTotalGroups) {
    sum += static_cast<double>((x.stat(j, 1)[r] + x.stat(j, 2)[r]) *
                               block_factor(x.stat(j, 0)[r], top));
  }
  return sum;
}

// `units` times the softmax, in place; the scores' maximum is `top`. Whether the weights are
// finite.
template <typename Team>
FLEXPREFILL_DEVICE_FN bool softmax(const Team& team, float* scores, int32_t n, float top,
                                   float units = 1.0f) {
  const double total = team.sum(n, [&](int32_t j) {
    const float weight = expf(scores[j] - top);
    scores[j] = weight;
    return static_cast<double>(weight);
  });
  const float inverse = static_cast<float>(static_cast<double>(units) / total);
  team.for_each(n, [&](int32_t j) { scores[j] *= inverse; });
  return total == total && total <= 1e300;
}

struct Maximum {
  float value = -INFINITY;
  FLEXPREFILL_DEVICE_FN Maximum& operator+=(const Maximum& other) {
    value = fmaxf(value, other.value);
    return *this;
  }
};

// Whether scores are finite: NaN and infinities rank nothing, so their heads are dense.
template <typename Team>
FLEXPREFILL_DEVICE_FN bool rankable(const Team& team, const PlanShape& s, const HeadScores& x,
                                    const float* probe_mean, int32_t head_dim) {
  const auto infinite = [](double value) {
    return value - value == 0.0 ? uint32_t{0} : uint32_t{1};
  };
  const uint32_t blocks = team.sum(s.visible_blocks, [&](int32_t j) {
    return infinite(x.sum(kMassA, j)) + infinite(x.sum(kMassB, j));
  });
  const uint32_t channels =
      team.sum(head_dim, [&](int32_t c) { return infinite(static_cast<double>(probe_mean[c])); });
  return blocks + channels == 0;
}

// Fills x.pooled: the attention of the mean probe row to the mean keys.
template <typename Team>
FLEXPREFILL_DEVICE_FN void pool_probe(const Team& team, const PlanShape& s, const HeadScores& x,
                                      const float* probe_mean, int32_t head_dim,
                                      float softmax_scale) {
  const Maximum top = team.sum(s.visible_blocks, [&](int32_t j) {
    float dot = 0.0f;
    FLEXPREFILL_UNROLL_16
    for (int32_t c = 0; c < head_dim; ++c) {
      dot += probe_mean[c] * x.k_mean[int64_t{c} * x.k_blocks + j];
    }
    x.pooled[j] = pooled_score(dot, softmax_scale, tokens_of_block(s, j));
    return Maximum{x.pooled[j]};
  });
  softmax(team, x.pooled, s.visible_blocks, top.value);
}

template <typename Team>
FLEXPREFILL_DEVICE_FN double js_distance(const Team& team, const float* a, const float* b,
                                         int32_t n, double zero) {
  const double divergence = team.sum(n, [&](int32_t j) { return js_term(a[j], b[j], zero); });
  // Rounding may leave a tiny negative sum; the official code makes that NaN as well.
  return sqrt(zero == 0.0 && divergence < 0.0 ? 0.0 : divergence);
}

// What the head is, and its lines if it is vertical-slash. probe_mean is [head_dim].
template <typename Team>
FLEXPREFILL_DEVICE_FN HeadState decide_coverage(const Team& team, const PlanProblem& p,
                                                const PlanShape& s, const PlanPolicy& policy,
                                                const HeadScores& x, const float* probe_mean) {
  HeadState state = {};
  state.pattern = Pattern::kDense;
  if (!rankable(team, s, x, probe_mean, p.head_dim)) return state;
  state.measured = 1;
  pool_probe(team, s, x, probe_mean, p.head_dim, p.softmax_scale);
  state.divergence = js_distance(team, x.vertical, x.pooled, s.visible_blocks, /*zero=*/0.0);
  if (state.divergence < static_cast<double>(policy.tau)) {
    state.pattern = Pattern::kQueryAware;
    return state;
  }
  state.pattern = Pattern::kVerticalSlash;
  team.for_each(s.buckets, [&](int32_t b) { x.slash[b] = slash_of(s, x, b); });
  Cut cuts[2];  // of columns, of buckets
  team.two(static_cast<int32_t>(plan_max(s.visible_blocks, s.buckets)), cuts,
           [&](const auto& part, int32_t n) {
             const float* const scores = n == 0 ? x.vertical : x.slash;
             const auto keys = [scores](int32_t j) { return score_key(scores[j]); };
             return cover_cut(part, n == 0 ? s.visible_blocks : s.buckets, keys, policy);
           });
  store_lines(team, s, x, p.row_words, cuts[0], cuts[1], /*both_offsets=*/true);
  return state;
}

}  // namespace flexprefill::internal::cuda
