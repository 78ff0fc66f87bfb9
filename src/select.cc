#include "select.h"

#include <algorithm>
#include <cmath>

#include "select_parts.h"

namespace flexprefill::internal {

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

ProbeRows probe_rows(const AttentionProblem& problem) {
  const int64_t q_len = problem.q.tokens;
  const auto count = static_cast<int32_t>(std::min<int64_t>(kProbeRows, q_len));
  return {count, q_start(problem) + q_len - count};
}

int64_t visible_keys(const AttentionProblem& problem) {
  if (problem.q.tokens == 0) return 0;
  return std::clamp<int64_t>(q_start(problem) + problem.q.tokens, 0, kv_len(problem));
}

int64_t first_slash_bucket(const AttentionProblem& problem) {
  // The shortest distance is that of the first probe row that sees keys to its newest key.
  const int64_t position = std::max<int64_t>(probe_rows(problem).first_position, 0);
  return std::max<int64_t>(position - (kv_len(problem) - 1), 0) / kBlock;
}

int32_t slash_buckets(const AttentionProblem& problem) {
  if (visible_keys(problem) == 0) return 0;
  const int64_t last_position = q_start(problem) + problem.q.tokens - 1;
  return static_cast<int32_t>(last_position / kBlock - first_slash_bucket(problem) + 1);
}

int32_t budget_blocks(int64_t tokens) {
  return static_cast<int32_t>(std::min<int64_t>((tokens + kBlock - 1) / kBlock, kNoLimit));
}

int32_t max_budget_blocks(const FlexPrefill& policy) {
  return policy.max_budget ? budget_blocks(*policy.max_budget) : kNoLimit;
}

std::vector<Scored> best_first(std::span<const float> scores) {
  std::vector<Scored> sorted(scores.size());
  for (size_t n = 0; n < scores.size(); ++n) sorted[n] = {scores[n], static_cast<int32_t>(n)};
  const auto key = [](float score) {
    return std::isnan(score) ? std::numeric_limits<float>::infinity() : score;
  };
  std::sort(sorted.begin(), sorted.end(), [&](const Scored& a, const Scored& b) {
    const float x = key(a.score), y = key(b.score);
    return x != y ? x > y : a.index < b.index;
  });
  return sorted;
}

double js_distance(std::span<const float> a, std::span<const float> b, double zero) {
  const auto term = [zero](double x, double mean) {
    return x == 0 ? zero : x * std::log(x / mean);
  };
  double divergence = 0.0;
  for (size_t n = 0; n < a.size(); ++n) {
    const double mean = 0.5 * (static_cast<double>(a[n]) + static_cast<double>(b[n]));
    divergence += 0.5 * (term(a[n], mean) + term(b[n], mean));
  }
  // Rounding may leave a tiny negative sum; the official code makes that NaN as well.
  return std::sqrt(zero == 0 && divergence < 0 ? 0.0 : divergence);
}

std::vector<RowShare> kept_shares(const AttentionProblem& problem, std::span<const float> row_mass,
                                  const BlockMask& mask, int32_t h) {
  const ProbeRows probes = probe_rows(problem);
  const auto k_blocks = static_cast<size_t>(mask.k_blocks);
  const std::vector<float> all(k_blocks, 1.0f);
  std::vector<float> kept;  // 1 for the blocks that the row keeps
  int32_t kept_of = -1;
  std::vector<RowShare> rows;
  for (int32_t r = 0; r < probes.count; ++r) {
    if (!sees_keys(problem, probes, r)) continue;
    const auto i = static_cast<int32_t>((probes.first_position + r) / kBlock - mask.first_q_block);
    if (i != kept_of) {
      kept_of = i;
      kept.assign(k_blocks, 0.0f);
      mask.for_each_block(h, i, [&](int32_t j) { kept[static_cast<size_t>(j)] = 1.0f; });
    }
    const float* const mass = row_mass.data() + static_cast<size_t>(r) * k_blocks;
    const double total = dot<double>(mass, all.data(), k_blocks);
    rows.push_back({r, i, total, dot<double>(mass, kept.data(), k_blocks) / total});
  }
  return rows;
}

Coverage coverage_of(std::span<const RowShare> rows) {
  Coverage coverage;
  if (rows.empty()) return coverage;
  double sum = 0.0;
  for (const RowShare& row : rows) {
    coverage.min_row = std::min(coverage.min_row, row.kept);
    sum += row.kept;
  }
  coverage.mean = sum / static_cast<double>(rows.size());
  return coverage;
}

void clear_head(const BlockMask& mask, int32_t h) {
  const int64_t words = static_cast<int64_t>(mask.q_blocks) * mask.row_words();
  std::fill_n(mask.bits + h * words, words, uint64_t{0});
}

HeadReport report_head(const BlockMask& mask, int32_t h, Pattern pattern,
                       const std::optional<Coverage>& coverage) {
  constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();
  HeadReport report;
  report.pattern = pattern;
  report.kept_blocks = kept_blocks(mask, h);
  report.causal_blocks = causal_blocks(mask);
  report.divergence = static_cast<float>(kNotMeasured);
  report.coverage = static_cast<float>(coverage ? coverage->mean : kNotMeasured);
  report.coverage_min_row = static_cast<float>(coverage ? coverage->min_row : kNotMeasured);
  return report;
}

bool runs_dense(const AttentionProblem& problem, const FlexPrefill& policy) {
  const int64_t min_blocks = budget_blocks(policy.min_budget);
  if (policy.rule == Rule::kOfficial) {
    return kv_len(problem) <= std::max<int64_t>(2, min_blocks) * kBlock;
  }
  // Below this length the two line types at their least keep nearly every block anyway.
  const int64_t least = std::min<int64_t>(min_blocks, max_budget_blocks(policy));
  const int64_t blocks = (visible_keys(problem) + kBlock - 1) / kBlock;
  return policy.gamma == 1.0f || blocks <= std::max<int64_t>(2, 2 * least);
}

HeadReport select_dense(const BlockMask& mask, int32_t h) {
  fill_causal(mask, h);
  HeadReport report;
  report.pattern = Pattern::kDense;
  report.kept_blocks = report.causal_blocks = causal_blocks(mask);
  report.divergence = std::numeric_limits<float>::quiet_NaN();
  return report;
}

HeadReport select_a_shape(const BlockMask& mask, int32_t h, const AShape& policy) {
  clear_head(mask, h);
  const int64_t sink_blocks = budget_blocks(policy.sink_tokens);
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    const int64_t end = mask.causal_blocks(i);
    // The oldest local key of the block row's first position, whether or not the problem has it: a
    // row shared by two chunks is then the same in both.
    const int64_t row_position = (mask.first_q_block + i) * kBlock;
    const int64_t local = floor_div(row_position - (policy.local_tokens - 1), kBlock);
    for (int64_t j = 0; j < std::min(sink_blocks, end); ++j)
      mask.set(h, i, static_cast<int32_t>(j));
    for (int64_t j = std::max<int64_t>(local, 0); j < end; ++j) {
      mask.set(h, i, static_cast<int32_t>(j));
    }
  }
  return report_head(mask, h, Pattern::kAShape, std::nullopt);
}

}  // namespace flexprefill::internal
