// Rule::kOfficial: the block sets of the authors' code, its roundings and quirks included. Step
// numbers are those of docs/algorithm.md. Nothing here is meant to be an improvement.

#include "select_official.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "numeric.h"

namespace flexprefill::internal {
namespace {

constexpr float kForced = std::numeric_limits<float>::infinity();

// Softmax in place, fp32 values; -inf entries become 0.
void softmax(std::span<float> values) {
  float max = -std::numeric_limits<float>::infinity();
  for (const float value : values) max = std::max(max, value);
  double sum = 0.0;
  for (float& value : values) sum += value = std::exp(value - max);
  for (float& value : values) value = static_cast<float>(value / sum);
}

// Step 4: one more than the number of largest scores whose running sum stays at or below gamma.
// Reorders. Halves the range that the sum crosses gamma in until little is left to sort.
int64_t token_count(std::span<float> scores, float gamma) {
  constexpr std::ptrdiff_t kFewScores = 64;
  if (std::any_of(scores.begin(), scores.end(), [](float x) { return std::isnan(x); })) {
    return 1;  // torch.sort puts NaN first, and no sum with it is below gamma
  }
  double sum = 0.0;
  auto begin = scores.begin(), end = scores.end();
  while (end - begin > kFewScores) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, std::greater<>());
    const double upper = std::accumulate(begin, middle, 0.0);
    if (sum + upper <= static_cast<double>(gamma)) {
      sum += upper;
      begin = middle;
    } else {
      end = middle;
    }
  }
  std::sort(begin, end, std::greater<>());
  for (; begin != end; ++begin) {
    sum += *begin;
    if (!(sum <= static_cast<double>(gamma))) break;
  }
  return begin - scores.begin() + 1;
}

// Step 6, vertical: columns summed over each key block.
std::vector<float> pool_columns(std::span<const float> vertical, int32_t k_blocks) {
  std::vector<float> pooled(static_cast<size_t>(k_blocks));
  for (size_t j = 0; j < pooled.size(); ++j) {
    const size_t end = std::min(vertical.size(), (j + 1) * kBlock);
    double sum = 0.0;
    for (size_t n = j * kBlock; n < end; ++n) sum += vertical[n];
    pooled[j] = static_cast<float>(sum);
  }
  return pooled;
}

// Step 6, slash: distance d falls to offset 0 up to r - 1 and then to one offset per 128, r being
// the number of tokens in the last block.
std::vector<float> pool_diagonals(std::span<const float> slash, int32_t k_blocks) {
  const int64_t last = static_cast<int64_t>(slash.size()) - (int64_t{k_blocks} - 1) * kBlock;
  std::vector<double> sums(static_cast<size_t>(k_blocks));
  for (int64_t d = 0; d < static_cast<int64_t>(slash.size()); ++d) {
    const int64_t offset = d < last ? 0 : (d - last) / kBlock + 1;
    sums[static_cast<size_t>(offset)] += slash[static_cast<size_t>(d)];
  }
  return {sums.begin(), sums.end()};
}

// Step 7: attention of the mean probe row to the mean keys, a partial last block weighing as a full
// one.
std::vector<float> pooled_estimate(const OfficialScores& scores, int32_t k_blocks) {
  const size_t head_dim = scores.probe_mean.size();
  std::vector<float> estimate(static_cast<size_t>(k_blocks));
  for (size_t j = 0; j < estimate.size(); ++j) {
    estimate[j] =
        round_to_bf16(dot(scores.probe_mean.data(), &scores.k_mean[j * head_dim], head_dim));
  }
  softmax(estimate);
  return estimate;
}

}  // namespace

int32_t official_block_count(int64_t tokens, const FlexPrefill& policy, int32_t k_blocks) {
  // 128 whatever the block size, and one more at exact multiples: the official code's arithmetic.
  int64_t count = tokens / 128 + 1;
  count = std::max<int64_t>(count, budget_blocks(policy.min_budget));
  return static_cast<int32_t>(
      std::min<int64_t>(count, std::min(max_budget_blocks(policy), k_blocks)));
}

void decide_query_aware(const AttentionProblem& problem, const FlexPrefill& policy,
                        const OfficialScores& scores, OfficialDecisions& decisions) {
  if (scores.fill_q_mean) scores.fill_q_mean();
  const int32_t k_blocks = block_grid(problem).k_blocks;
  const size_t head_dim = scores.probe_mean.size();
  const float inverse_sqrt = 1.0f / std::sqrt(static_cast<float>(head_dim));
  std::vector<float> q(head_dim), weights;
  auto& entries = decisions.entries;
  entries.clear();
  for (int32_t i = 0; i < k_blocks; ++i) {
    for (size_t c = 0; c < head_dim; ++c) {
      q[c] = round_to_bf16(scores.q_mean[static_cast<size_t>(i) * head_dim + c] * inverse_sqrt);
    }
    weights.resize(static_cast<size_t>(i) + 1);
    for (size_t j = 0; j < weights.size(); ++j) {
      weights[j] = round_to_bf16(dot(q.data(), &scores.k_mean[j * head_dim], head_dim));
    }
    softmax(weights);
    for (int32_t j = 0; j <= i; ++j) entries.push_back({weights[static_cast<size_t>(j)], i, j});
  }
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return !std::isnan(b.weight) && (std::isnan(a.weight) || a.weight > b.weight);
  });
  // The entry that crosses the target is dropped.
  const double target = static_cast<double>(policy.gamma) * k_blocks;
  double sum = 0.0;
  size_t kept = 0;
  for (; kept < entries.size(); ++kept) {
    sum += entries[kept].weight;
    if (!(sum <= target)) break;
  }
  decisions.kept_entries = kept;
}

OfficialDecisions decide_official(const AttentionProblem& problem, const FlexPrefill& policy,
                                  const OfficialScores& scores) {
  const int32_t k_blocks = block_grid(problem).k_blocks;
  std::vector<float> vertical = pool_columns(scores.vertical, k_blocks);
  std::vector<float> slash = pool_diagonals(scores.slash, k_blocks);

  OfficialDecisions decisions;
  decisions.divergence = js_distance(pooled_estimate(scores, k_blocks), vertical,
                                     /*zero=*/std::numeric_limits<double>::quiet_NaN());
  decisions.query_aware = decisions.divergence < static_cast<double>(policy.tau);
  decisions.vertical_tokens = token_count(scores.vertical, policy.gamma);
  decisions.slash_tokens = token_count(scores.slash, policy.gamma);
  decisions.vertical_count = official_block_count(decisions.vertical_tokens, policy, k_blocks);
  decisions.slash_count = official_block_count(decisions.slash_tokens, policy, k_blocks);
  if (decisions.query_aware) {  // step 9: after the clamp, so max_budget does not bound it
    const int32_t least = std::clamp(budget_blocks(policy.min_budget), 1, k_blocks);
    decisions.vertical_count = decisions.slash_count = least;
    decide_query_aware(problem, policy, scores, decisions);
  }
  vertical[0] = slash[0] = kForced;
  decisions.vertical = best_first(vertical);
  decisions.slash = best_first(slash);
  return decisions;
}

void expand_official(const OfficialDecisions& decisions, const BlockMask& mask, int32_t h) {
  clear_head(mask, h);
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    for (int32_t n = 0; n < decisions.vertical_count; ++n) {
      const int32_t j = decisions.vertical[static_cast<size_t>(n)].index;
      if (j <= i) mask.set(h, i, j);
    }
    for (int32_t n = 0; n < decisions.slash_count; ++n) {
      const int32_t offset = decisions.slash[static_cast<size_t>(n)].index;
      if (offset <= i) mask.set(h, i, i - offset);
    }
  }
  if (!decisions.query_aware) return;
  for (size_t n = 0; n < decisions.kept_entries; ++n) {
    mask.set(h, decisions.entries[n].i, decisions.entries[n].j);
  }
}

HeadReport select_official(const AttentionProblem& problem, const FlexPrefill& policy,
                           const OfficialScores& scores, const BlockMask& mask, int32_t h) {
  const OfficialDecisions decisions = decide_official(problem, policy, scores);
  expand_official(decisions, mask, h);
  const Pattern pattern = decisions.query_aware ? Pattern::kQueryAware : Pattern::kVerticalSlash;
  std::optional<Coverage> coverage;
  if (!scores.row_mass.empty()) {
    coverage = coverage_of(kept_shares(problem, scores.row_mass, mask, h));
  }
  HeadReport report = report_head(mask, h, pattern, coverage);
  report.divergence = static_cast<float>(decisions.divergence);
  return report;
}

}  // namespace flexprefill::internal
