// Around the kernels that read the keys: lays out what they fill, and pools q and k into the means
// that the selectors compare. Scratch is O(128 * k_blocks) for kCoverage and
// O(kv_len) for kOfficial.

#include "cpu/head_scores.h"

#include <algorithm>
#include <cmath>

#include "cpu/scratch.h"
#include "numeric.h"

namespace flexprefill::internal {
namespace {

static_assert(kBlockTokens == kBlock && kProbeRows == kBlock);

// First row of a query block within the problem, and how many it has.
struct RowRange {
  int64_t begin = 0;
  int64_t count = 0;
};

RowRange query_rows(const AttentionProblem& problem, const BlockMask& grid, int32_t i) {
  const int64_t block = (grid.first_q_block + i) * kBlock - q_start(problem);
  const int64_t begin = std::max<int64_t>(block, 0);
  return {begin, std::min(block + kBlock, problem.q.tokens) - begin};
}

ScoreItem score_item(const AttentionProblem& problem, int32_t h) {
  const ProbeRows probes = probe_rows(problem);
  ScoreItem item = {};
  item.q = rows_of(problem.q, h, problem.q.tokens - probes.count);
  item.k = rows_of(problem.kv.k, kv_head(problem, h), 0);
  item.rows = probes.count;
  item.first_position = probes.first_position;
  item.keys = visible_keys(problem);
  item.head_dim = problem.q.head_dim;
  item.scale_log2 = scale_log2_of(problem);
  return item;
}

struct HeadScorer {
  const Kernels& kernels;
  const AttentionProblem& problem;
  int32_t h;
  HeldKeyMeans& held;

  // Whether the key means have to be computed: they are not those of the head before.
  bool wants_k_means(Rule rule) const {
    if (held.filled && held.rule == rule) return false;
    held = {true, rule};
    return true;
  }

  // [k_blocks, head_dim] in bf16, as kOfficial has them.
  void official_k_means(std::span<float> means, int32_t k_blocks) const {
    if (!wants_k_means(Rule::kOfficial)) return;
    const int64_t keys = problem.kv.k.tokens, head_dim = problem.q.head_dim;
    for (int32_t j = 0; j < k_blocks; ++j) {
      const int64_t begin = int64_t{j} * kBlock;
      kernels.mean_of_tokens(rows_of(problem.kv.k, kv_head(problem, h), begin),
                             std::min<int64_t>(keys - begin, kBlock), problem.q.head_dim,
                             /*round=*/true, means.data() + j * head_dim);
    }
    for (float& mean : means) mean = round_to_bf16(mean);
  }

  // [q_blocks, head_dim]; kOfficial averages over a zero-padded block and rescales the last, in
  // bf16.
  void q_means(std::span<float> means, const BlockMask& grid, bool official) const {
    const int64_t head_dim = problem.q.head_dim;
    for (int32_t i = 0; i < grid.q_blocks; ++i) {
      const RowRange rows = query_rows(problem, grid, i);
      float* const mean = means.data() + i * head_dim;
      kernels.mean_of_tokens(rows_of(problem.q, h, rows.begin), rows.count, problem.q.head_dim,
                             official, mean);
      if (!official) continue;
      const float count = static_cast<float>(rows.count);
      for (int64_t c = 0; c < head_dim; ++c) {
        if (rows.count == kBlock) {
          mean[c] = round_to_bf16(mean[c]);
        } else {
          const float padded = round_to_bf16(mean[c] * count / kBlock);
          mean[c] = round_to_bf16(round_to_bf16(padded * kBlock) / count);
        }
      }
    }
  }

  CoverageScores coverage(const FlexPrefill& policy, Arena& arena) const {
    const BlockMask grid = block_grid(problem);
    const int64_t head_dim = problem.q.head_dim;
    const int32_t rows = probe_rows(problem).count;
    const bool query_aware = policy.tau > 0.0f;
    const auto k_mean = arena.take<float>(grid.k_blocks * head_dim);  // first: see HeldKeyMeans
    const auto row_mass = arena.take<float>(int64_t{rows} * grid.k_blocks);
    const auto slash = arena.take<double>(slash_buckets(problem));
    const auto probe_mean = arena.take<float>(head_dim);
    const auto q_mean = arena.take<float>(query_aware ? grid.q_blocks * head_dim : 0);
    const auto blocks = arena.take<BlockMass>((visible_keys(problem) + kBlock - 1) / kBlock);
    const auto scratch = arena.take<std::byte>(kernel_scratch_bytes());
    if (scratch.empty()) return {};

    std::fill(row_mass.begin(), row_mass.end(), 0.0f);
    std::fill(slash.begin(), slash.end(), 0.0);
    const bool bf16 = kernels.coverage_mass_bf16 != nullptr && problem.q.dtype == DType::kBF16 &&
                      problem.kv.k.dtype == DType::kBF16;
    (bf16 ? kernels.coverage_mass_bf16 : kernels.coverage_mass_f32)(
        score_item(problem, h),
        {.blocks = blocks.data(),
         .row_mass = row_mass.data(),
         .row_stride = grid.k_blocks,
         .slash = slash.data(),
         .first_bucket = first_slash_bucket(problem),
         .slash_buckets = slash_buckets(problem),
         .k_mean = wants_k_means(Rule::kCoverage) ? k_mean.data() : nullptr},
        scratch.data());
    // Rows before the first key see none: they count in no mean.
    const auto seeing =
        static_cast<int32_t>(std::min<int64_t>(rows, probe_rows(problem).first_position + rows));
    for (double& value : slash) value /= seeing;
    kernels.mean_of_tokens(rows_of(problem.q, h, problem.q.tokens - seeing), seeing,
                           problem.q.head_dim, /*round=*/false, probe_mean.data());
    const auto fill_q_mean = [*this, q_mean, grid] { q_means(q_mean, grid, /*official=*/false); };
    return {row_mass, slash, probe_mean, q_mean, k_mean, softmax_scale_of(problem), fill_q_mean};
  }

  OfficialScores official(const FlexPrefill& policy, Arena& arena) const {
    const BlockMask grid = block_grid(problem);
    const int64_t keys = problem.kv.k.tokens, head_dim = problem.q.head_dim;
    const bool query_aware = policy.tau > 0.0f;
    const auto k_mean = arena.take<float>(grid.k_blocks * head_dim);  // first: see HeldKeyMeans
    const auto vertical = arena.take<float>(keys), slash = arena.take<float>(keys);
    const auto probe_mean = arena.take<float>(head_dim);
    const auto q_mean = arena.take<float>(query_aware ? grid.q_blocks * head_dim : 0);
    const auto row_mass = arena.take<float>(int64_t{probe_rows(problem).count} * grid.k_blocks);
    const auto scratch = arena.take<std::byte>(kernel_scratch_bytes());
    if (scratch.empty()) return {};

    kernels.official_mass(score_item(problem, h), vertical.data(), slash.data(), row_mass.data(),
                          probe_mean.data(), scratch.data());
    for (float& value : probe_mean) value = round_to_bf16(value);
    official_k_means(k_mean, grid.k_blocks);
    const auto fill_q_mean = [*this, q_mean, grid] { q_means(q_mean, grid, /*official=*/true); };
    return {vertical, slash, probe_mean, q_mean, k_mean, row_mass, fill_q_mean};
  }

  int64_t kernel_scratch_bytes() const {
    return static_cast<int64_t>(kernels.score_scratch_bytes(problem.q.head_dim));
  }
};

}  // namespace

CoverageScores score_coverage(const Kernels& kernels, const AttentionProblem& problem, int32_t h,
                              const FlexPrefill& policy, Arena& arena, HeldKeyMeans& held) {
  return HeadScorer{kernels, problem, h, held}.coverage(policy, arena);
}

OfficialScores score_official(const Kernels& kernels, const AttentionProblem& problem, int32_t h,
                              const FlexPrefill& policy, Arena& arena, HeldKeyMeans& held) {
  return HeadScorer{kernels, problem, h, held}.official(policy, arena);
}

}  // namespace flexprefill::internal
