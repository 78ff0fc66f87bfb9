#pragma once

// Rule::kCoverage after scoring: the pattern of a head and its lines. Team code (team.h).

#include "cuda/head_scores.h"

namespace flexprefill::internal::cuda {

// A row's maximum over key blocks, and its sum at that maximum. The sum is taken in kTotalGroups
// parts, merged in order, so that threads may share a row, in any way, and get the same bits.
inline constexpr int32_t kTotalGroups = 16;

// Of the blocks first, first + kStep, ...
template <int32_t kStep>
FLEXPREFILL_DEVICE_FN float row_max_part(const PlanShape& s, const HeadScores& x, int32_t r,
                                         int32_t first) {
  float top = -INFINITY;
  const int32_t end = s.sees_keys(r) ? seen_blocks(s, r) : 0;
  FLEXPREFILL_UNROLL_16
  for (int32_t j = first; j < end; j += kStep) top = fmaxf(top, x.stat(j, 0)[r]);
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

// The sums of four groups at a time, for few blocks: groups first, first + 4, first + 8 and first
// + 12 of row r, their loads side by side.
inline constexpr int32_t kTotalParts = 4;

FLEXPREFILL_DEVICE_FN void row_sum_groups(const PlanShape& s, const HeadScores& x, int32_t r,
                                          int32_t first, float top,
                                          double (&sums)[kTotalGroups / kTotalParts]) {
  for (double& sum : sums) sum = 0.0;
  const int32_t end = s.sees_keys(r) ? seen_blocks(s, r) : 0;
  FLEXPREFILL_UNROLL_2
  for (int32_t begin = first; begin < end; begin += kTotalGroups) {
    FLEXPREFILL_UNROLL_16
    for (int32_t n = 0; n < kTotalGroups / kTotalParts; ++n) {
      const int32_t j = begin + n * kTotalParts;
      const bool there = j < end;  // what is not adds 0 to a sum that is not negative
      const float max = there ? x.stat(j, 0)[r] : -INFINITY;
      const float sum = there ? x.stat(j, 1)[r] + x.stat(j, 2)[r] : 0.0f;
      sums[n] += there ? static_cast<double>(sum * block_factor(max, top)) : 0.0;
    }
  }
}

// exp(score - top) in place; returns their sum.
template <typename Team>
FLEXPREFILL_DEVICE_FN double exponentiate(const Team& team, float* scores, int32_t n, float top) {
  return team.sum(n, [&](int32_t j) {
    const float weight = expf(scores[j] - top);
    scores[j] = weight;
    return static_cast<double>(weight);
  });
}

// `units` times the softmax, in place; the scores' maximum is `top`. Whether the weights are
// finite.
template <typename Team>
FLEXPREFILL_DEVICE_FN bool softmax(const Team& team, float* scores, int32_t n, float top,
                                   float units = 1.0f) {
  const double total = exponentiate(team, scores, n, top);
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

// The products of the mean probe row with the mean keys are taken in parts of the channels where
// there are fewer blocks than threads; `parts` has room for this many.
inline constexpr int32_t kDotParts = 8, kPartialDots = 4096;

FLEXPREFILL_DEVICE_FN float dot_channels(const HeadScores& x, const float* probe_mean, int32_t j,
                                         int32_t first, int32_t end) {
  float dot = 0.0f;
  FLEXPREFILL_UNROLL_16
  for (int32_t c = first; c < end; ++c)
    dot += probe_mean[c] * x.k_mean[int64_t{c} * x.k_blocks + j];
  return dot;
}

struct PooledScores {
  float top = -INFINITY;
  uint32_t unrankable = 0;  // NaN and infinities among the inputs: they rank nothing
  FLEXPREFILL_DEVICE_FN PooledScores& operator+=(const PooledScores& other) {
    top = fmaxf(top, other.top);
    unrankable += other.unrankable;
    return *this;
  }
};

// Fills x.pooled with the scores of the mean probe row and the mean keys.
template <typename Team>
FLEXPREFILL_DEVICE_FN PooledScores pool_probe(const Team& team, const PlanProblem& p,
                                              const PlanShape& s, const HeadScores& x,
                                              const float* probe_mean, float* parts) {
  const int32_t n = s.visible_blocks, head_dim = p.head_dim;
  const bool split = n <= kPartialDots / kDotParts;
  if (split) {
    const int32_t channels = (head_dim + kDotParts - 1) / kDotParts;
    team.for_each(n * kDotParts, [&](int32_t task) {
      const int32_t first = task / n * channels;
      parts[task] = dot_channels(x, probe_mean, task % n, first,
                                 static_cast<int32_t>(plan_min(first + channels, head_dim)));
    });
  }
  const auto infinite = [](double value) {
    return value - value == 0.0 ? uint32_t{0} : uint32_t{1};
  };
  return team.sum(static_cast<int32_t>(plan_max(n, head_dim)), [&](int32_t m) {
    PooledScores scores;
    if (m < head_dim) scores.unrankable += infinite(static_cast<double>(probe_mean[m]));
    if (m >= n) return scores;
    scores.unrankable += infinite(x.sum(kMassA, m)) + infinite(x.sum(kMassB, m));
    float dot = 0.0f;
    if (split) {
      for (int32_t part = 0; part < kDotParts; ++part) dot += parts[part * n + m];
    } else {
      dot = dot_channels(x, probe_mean, m, 0, head_dim);
    }
    scores.top = x.pooled[m] = pooled_score(dot, p.softmax_scale, tokens_of_block(s, m));
    return scores;
  });
}

// Of a[j] and b(j), j < n.
template <typename Team, typename Shares>
FLEXPREFILL_DEVICE_FN double js_distance(const Team& team, const float* a, const Shares& b,
                                         int32_t n, double zero) {
  const double divergence = team.sum(n, [&](int32_t j) { return js_term(a[j], b(j), zero); });
  // Rounding may leave a tiny negative sum; the official code makes that NaN as well.
  return sqrt(zero == 0.0 && divergence < 0.0 ? 0.0 : divergence);
}

// The distance of the mass of the blocks from the softmax of their pooled scores, of which `top` is
// the maximum.
template <typename Team>
FLEXPREFILL_DEVICE_FN double pooled_distance(const Team& team, const HeadScores& x, int32_t n,
                                             float top) {
  const double total = exponentiate(team, x.pooled, n, top);
  const float inverse = static_cast<float>(1.0 / total);
  const auto pooled = [&](int32_t j) { return x.pooled[j] * inverse; };
  return js_distance(team, x.vertical, pooled, n, /*zero=*/0.0);
}

// What the head is, and its lines if it is vertical-slash. probe_mean is [head_dim], parts
// [kPartialDots].
template <typename Team>
FLEXPREFILL_DEVICE_FN HeadState decide_coverage(const Team& team, const PlanProblem& p,
                                                const PlanShape& s, const PlanPolicy& policy,
                                                const HeadScores& x, const float* probe_mean,
                                                float* parts) {
  HeadState state = {};
  state.pattern = Pattern::kDense;
  const PooledScores pooled = pool_probe(team, p, s, x, probe_mean, parts);
  if (pooled.unrankable != 0) return state;
  state.measured = 1;
  state.divergence = pooled_distance(team, x, s.visible_blocks, pooled.top);
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
