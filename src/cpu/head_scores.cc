// Around the kernels that read the keys: brings their sums to a common maximum, and pools q and k
// into the means that the selectors compare. Scratch is O(128 * k_blocks) for kCoverage and
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
  item.scale_log2 = softmax_scale_of(problem) * kLog2E;
  return item;
}

// Brings the blocks of each probe row to the row's own maximum and normalises: fills row_mass and
// slash, both cleared by the caller. Returns the number of rows that see keys.
int32_t combine_mass(const AttentionProblem& problem, std::span<BlockMass> blocks,
                     std::span<float> row_mass, int64_t row_stride, std::span<double> slash) {
  const ProbeRows probes = probe_rows(problem);
  const int64_t first_bucket = first_slash_bucket(problem);
  const double scale = softmax_scale_of(problem);
  int32_t rows = 0;
  for (int32_t r = 0; r < probes.count; ++r) {
    const int64_t position = probes.first_position + r;
    if (position < 0) continue;
    ++rows;
    const auto seen = std::min(blocks.size(), static_cast<size_t>(position / kBlock) + 1);
    float top = blocks[0].max[r];
    for (size_t j = 1; j < seen; ++j) top = std::max(top, blocks[j].max[r]);
    double total = 0.0;
    for (size_t j = 0; j < seen; ++j) {
      BlockMass& block = blocks[j];
      const auto factor = static_cast<float>(std::exp((double{block.max[r]} - top) * scale));
      block.near[r] *= factor;
      block.far[r] *= factor;
      total += static_cast<double>(block.near[r]) + block.far[r];
    }
    float* const mass = row_mass.data() + r * row_stride;
    for (size_t j = 0; j < seen; ++j) {
      const double near = blocks[j].near[r] / total, far = blocks[j].far[r] / total;
      mass[j] = static_cast<float>(near + far);
      // Keys further into their block than the row is into its own are one bucket nearer.
      const int64_t bucket = position / kBlock - static_cast<int64_t>(j) - first_bucket;
      slash[static_cast<size_t>(bucket)] += near;
      if (far != 0.0) slash[static_cast<size_t>(bucket - 1)] += far;
    }
  }
  for (double& value : slash) value /= rows;
  return rows;
}

struct HeadScorer {
  const Kernels& kernels;
  const AttentionProblem& problem;
  int32_t h;
  HeldKeyMeans& held;

  // [blocks, head_dim] means of the tokens in each block.
  void k_means(std::span<float> means, int32_t k_blocks, Rule rule) const {
    const bool official = rule == Rule::kOfficial;
    if (held.filled && held.rule == rule) return;
    held = {true, rule};
    const int64_t keys = visible_keys(problem), head_dim = problem.q.head_dim;
    for (int32_t j = 0; j < k_blocks; ++j) {
      const int64_t begin = int64_t{j} * kBlock;
      float* const mean = means.data() + j * head_dim;
      kernels.mean_of_tokens(rows_of(problem.kv.k, kv_head(problem, h), begin),
                             std::clamp<int64_t>(keys - begin, 0, kBlock), problem.q.head_dim,
                             official, mean);
      if (official) {
        for (int64_t c = 0; c < head_dim; ++c) mean[c] = round_to_bf16(mean[c]);
      }
    }
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
    const auto mass = arena.take<BlockMass>((visible_keys(problem) + kBlock - 1) / kBlock);
    const auto scratch = arena.take<std::byte>(kernel_scratch_bytes());
    if (scratch.empty()) return {};

    const ScoreItem item = score_item(problem, h);
    const bool bf16 = kernels.coverage_mass_bf16 != nullptr && problem.q.dtype == DType::kBF16 &&
                      problem.kv.k.dtype == DType::kBF16;
    (bf16 ? kernels.coverage_mass_bf16 : kernels.coverage_mass_f32)(item, mass.data(),
                                                                    scratch.data());
    std::fill(row_mass.begin(), row_mass.end(), 0.0f);
    std::fill(slash.begin(), slash.end(), 0.0);
    const int32_t seeing = combine_mass(problem, mass, row_mass, grid.k_blocks, slash);
    kernels.mean_of_tokens(rows_of(problem.q, h, problem.q.tokens - seeing), seeing,
                           problem.q.head_dim, /*round=*/false, probe_mean.data());
    k_means(k_mean, grid.k_blocks, Rule::kCoverage);
    if (query_aware) q_means(q_mean, grid, /*official=*/false);
    return {row_mass, slash, probe_mean, q_mean, k_mean, softmax_scale_of(problem)};
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
    k_means(k_mean, grid.k_blocks, Rule::kOfficial);
    if (query_aware) q_means(q_mean, grid, /*official=*/true);
    return {vertical, slash, probe_mean, q_mean, k_mean, row_mass};
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
