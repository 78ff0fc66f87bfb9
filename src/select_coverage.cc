// Rule::kCoverage: block-level cumulative mass, then blocks of the probe rows until their kept mass
// reaches gamma. Formulas: docs/algorithm.md.

#include "select_coverage.h"

#include <algorithm>
#include <cmath>

namespace flexprefill::internal {
namespace {

// A head that keeps this share of its causal blocks is filled: dense is then no slower, and exact.
constexpr int64_t kFillPercent = 95;

// Fewest of the scores, best first, whose sum reaches gamma of the total; then within the budgets.
size_t cover_count(std::span<const Scored> sorted, const FlexPrefill& policy) {
  double total = 0.0;
  for (const Scored& s : sorted) total += s.score;
  const double target = static_cast<double>(policy.gamma) * total;
  size_t count = 0;
  for (double sum = 0.0; count < sorted.size() && (count == 0 || sum < target); ++count) {
    sum += sorted[count].score;
  }
  count = std::max<size_t>(count, static_cast<size_t>(budget_blocks(policy.min_budget)));
  count = std::min<size_t>(count, static_cast<size_t>(max_budget_blocks(policy)));
  return std::min(count, sorted.size());
}

// Key blocks that the last query sees.
size_t visible_blocks(const AttentionProblem& problem) {
  return static_cast<size_t>((visible_keys(problem) + kBlock - 1) / kBlock);
}

// Mass of each visible key block, mean over the probe rows that see keys.
std::vector<float> vertical_mass(const AttentionProblem& problem, const CoverageScores& scores,
                                 size_t k_blocks) {
  const ProbeRows probes = probe_rows(problem);
  std::vector<double> sums(visible_blocks(problem));
  int32_t rows = 0;
  for (int32_t r = 0; r < probes.count; ++r) {
    if (!sees_keys(problem, probes, r)) continue;
    const float* mass = &scores.row_mass[static_cast<size_t>(r) * k_blocks];
    for (size_t j = 0; j < sums.size(); ++j) sums[j] += mass[j];
    ++rows;
  }
  std::vector<float> mean(sums.size());
  for (size_t j = 0; j < sums.size(); ++j) mean[j] = static_cast<float>(sums[j] / rows);
  return mean;
}

// Softmax over the first weights.size() key blocks of the mean query's score with each block's mean
// key, every key of a block counted at that score.
void pooled_softmax(const AttentionProblem& problem, const CoverageScores& scores,
                    const float* q_mean, std::span<float> weights) {
  const size_t head_dim = scores.probe_mean.size();
  const int64_t keys = visible_keys(problem);
  float max = -std::numeric_limits<float>::infinity();
  for (size_t j = 0; j < weights.size(); ++j) {
    const int64_t tokens = std::min<int64_t>(kBlock, keys - static_cast<int64_t>(j) * kBlock);
    weights[j] = scores.softmax_scale * dot(q_mean, &scores.k_mean[j * head_dim], head_dim) +
                 std::log(static_cast<float>(tokens));
    max = std::max(max, weights[j]);
  }
  double sum = 0.0;
  for (float& weight : weights) sum += weight = std::exp(weight - max);
  for (float& weight : weights) weight = static_cast<float>(weight / sum);
}

void select_vertical_slash(const AttentionProblem& problem, const FlexPrefill& policy,
                           const CoverageScores& scores, std::span<const float> vertical,
                           const BlockMask& mask, int32_t h) {
  std::vector<Scored> columns = best_first(vertical);
  columns.resize(cover_count(columns, policy));
  columns.push_back({0.0f, 0});  // the sink
  const std::vector<float> slash(scores.slash.begin(), scores.slash.end());
  std::vector<Scored> buckets = best_first(slash);
  buckets.resize(cover_count(buckets, policy));
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    const int64_t end = mask.causal_blocks(i);
    const int64_t diagonal = mask.first_q_block + i;
    for (const Scored& column : columns) {
      if (column.index < end) mask.set(h, i, column.index);
    }
    for (const Scored& bucket : buckets) {
      // A diagonal of bucket s crosses block offset s in some rows and s + 1 in the others.
      const int64_t j = diagonal - (first_slash_bucket(problem) + bucket.index);
      if (j >= 0 && j < end) mask.set(h, i, static_cast<int32_t>(j));
      if (j >= 1 && j - 1 < end) mask.set(h, i, static_cast<int32_t>(j - 1));
    }
    if (diagonal >= 1 && diagonal - 1 < end) mask.set(h, i, static_cast<int32_t>(diagonal - 1));
    if (diagonal >= 0 && diagonal < end) mask.set(h, i, static_cast<int32_t>(diagonal));
  }
}

void select_query_aware(const AttentionProblem& problem, const FlexPrefill& policy,
                        const CoverageScores& scores, const BlockMask& mask, int32_t h) {
  if (scores.fill_q_mean) scores.fill_q_mean();
  const size_t head_dim = scores.probe_mean.size();
  std::vector<float> weights;
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    const int64_t end = mask.causal_blocks(i);
    if (end == 0) continue;
    weights.resize(static_cast<size_t>(end));
    pooled_softmax(problem, scores, &scores.q_mean[static_cast<size_t>(i) * head_dim], weights);
    std::vector<Scored> blocks = best_first(weights);
    blocks.resize(cover_count(blocks, policy));
    for (const Scored& block : blocks) mask.set(h, i, block.index);
    mask.set(h, i, 0);
    const int64_t diagonal = mask.first_q_block + i;
    for (const int64_t j : {diagonal - 1, diagonal}) {
      if (j >= 0 && j < end) mask.set(h, i, static_cast<int32_t>(j));
    }
  }
}

// The probe rows' mass that each block holds, for the one or two block rows they lie in.
class TopUp {
 public:
  TopUp(const AttentionProblem& problem, const CoverageScores& scores, const BlockMask& mask,
        int32_t h)
      : mask_(mask),
        h_(h),
        row_mass_(scores.row_mass),
        rows_(kept_shares(problem, scores.row_mass, mask, h)) {}

  // Adds blocks, the heaviest first, until the mean share of a probe row reaches gamma; at most
  // `max_added` to a block row. Whether it got there.
  bool reach(double gamma, int32_t max_added) {
    if (covered(gamma)) return true;
    std::vector<Candidate> candidates = list_candidates();
    std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) {
      return a.mass != b.mass ? a.mass > b.mass : a.i != b.i ? a.i < b.i : a.j < b.j;
    });
    std::vector<int32_t> added(static_cast<size_t>(mask_.q_blocks));
    for (const Candidate& candidate : candidates) {
      if (added[static_cast<size_t>(candidate.i)] == max_added) continue;
      ++added[static_cast<size_t>(candidate.i)];
      add(candidate);
      if (covered(gamma)) return true;
    }
    // Every block that may be added is there: rounding alone keeps the mean below gamma, or the
    // limit.
    return max_added == kNoLimit;
  }

  Coverage coverage() const { return coverage_of(rows_); }

 private:
  struct Candidate {
    double mass = 0.0;
    int32_t i = 0, j = 0;
  };

  double mass(const RowShare& row, int32_t j) const {
    return row_mass_[static_cast<size_t>(row.r) * static_cast<size_t>(mask_.k_blocks) +
                     static_cast<size_t>(j)];
  }

  bool covered(double gamma) const {
    double sum = 0.0;
    for (const RowShare& row : rows_) sum += row.kept;
    return sum >= gamma * static_cast<double>(rows_.size());
  }

  std::vector<Candidate> list_candidates() const {
    std::vector<Candidate> candidates;
    for (int32_t i = rows_.front().i; i <= rows_.back().i; ++i) {
      for (int32_t j = 0; j < mask_.causal_blocks(i); ++j) {
        if (mask_.test(h_, i, j)) continue;
        Candidate candidate{0.0, i, j};
        for (const RowShare& row : rows_) {
          if (row.i == i) candidate.mass += mass(row, j);
        }
        candidates.push_back(candidate);
      }
    }
    return candidates;
  }

  void add(const Candidate& candidate) {
    mask_.set(h_, candidate.i, candidate.j);
    for (RowShare& row : rows_) {
      if (row.i == candidate.i) row.kept += mass(row, candidate.j) / row.total;
    }
  }

  const BlockMask& mask_;
  int32_t h_;
  std::span<const float> row_mass_;  // [probe rows, k_blocks]
  std::vector<RowShare> rows_;
};

// Scores of q or k with NaN or infinities rank nothing.
bool rankable(const CoverageScores& scores) {
  const auto finite = [](auto value) { return std::isfinite(value); };
  return std::all_of(scores.row_mass.begin(), scores.row_mass.end(), finite) &&
         std::all_of(scores.probe_mean.begin(), scores.probe_mean.end(), finite);
}

}  // namespace

Choice select_before_top_up(const AttentionProblem& problem, const FlexPrefill& policy,
                            const CoverageScores& scores, const BlockMask& mask, int32_t h) {
  clear_head(mask, h);
  const std::vector<float> vertical =
      vertical_mass(problem, scores, static_cast<size_t>(mask.k_blocks));
  std::vector<float> pooled(vertical.size());
  pooled_softmax(problem, scores, scores.probe_mean.data(), pooled);
  Choice choice;
  choice.divergence = js_distance(vertical, pooled, /*zero=*/0.0);
  if (choice.divergence < static_cast<double>(policy.tau)) {
    choice.pattern = Pattern::kQueryAware;
    select_query_aware(problem, policy, scores, mask, h);
  } else {
    select_vertical_slash(problem, policy, scores, vertical, mask, h);
  }
  return choice;
}

HeadReport select_coverage(const AttentionProblem& problem, const FlexPrefill& policy,
                           const CoverageScores& scores, const BlockMask& mask, int32_t h) {
  if (!rankable(scores)) return select_dense(mask, h);
  const Choice choice = select_before_top_up(problem, policy, scores, mask, h);
  TopUp top_up(problem, scores, mask, h);
  const bool reached = top_up.reach(static_cast<double>(policy.gamma), max_budget_blocks(policy));
  HeadReport report;
  if (kept_blocks(mask, h) * 100 >= causal_blocks(mask) * kFillPercent) {
    report = select_dense(mask, h);
  } else {
    report = report_head(mask, h, choice.pattern, top_up.coverage());
    report.budget_limited = !reached;
  }
  report.divergence = static_cast<float>(choice.divergence);
  return report;
}

}  // namespace flexprefill::internal
