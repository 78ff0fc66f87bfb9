// The mean query of every block row of the query-aware heads: all of q, read once. One warp takes a
// block row of a head, and heads follow each other: the rows of a token lie together in memory.

#include "cuda/head_scores.h"
#include "cuda/launch.cuh"
#include "cuda/mean_rows.cuh"
#include "cuda/plan_kernels.cuh"

namespace flexprefill::internal::cuda {
namespace {

constexpr int kMeanThreads = 256;

// Grid (block rows of all heads / warps).
__global__ void __launch_bounds__(kMeanThreads, 4)
    mean_queries(const PlanTable* table, int32_t block_rows) {
  const int32_t n = static_cast<int32_t>((blockIdx.x * kMeanThreads + threadIdx.x) / 32);
  join_stream();
  if (n >= block_rows) return;
  const PlanProblem& p = find_problem(*table, &PlanProblem::first_block_row, n);
  const int32_t i = (n - p.first_block_row) / p.heads, h = (n - p.first_block_row) % p.heads;
  if (table->states[p.first_head + h].pattern != Pattern::kQueryAware) return;
  if (policy_of(*table, h).kind != PlanPolicy::kCoverage) return;
  const PlanShape s = shape_of(p);
  if (i >= s.q_blocks) return;
  const int64_t block = (s.first_q_block + i) * kBlock - s.q_start;
  const int64_t begin = plan_max(block, 0), end = plan_min(block + kBlock, s.q_len);
  const uint16_t* const first = query_row(p, begin, h);
  const int64_t stride = p.q_token_stride;
  warp_mean_rows(
      static_cast<int32_t>(end - begin), p.head_dim, p.q_aligned, p.is_f16,
      [=](int32_t t) { return first + t * stride; }, AsIs{}, scores_of(p, h).q_mean(i), 1);
}

}  // namespace

void launch_mean_queries(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  constexpr int32_t kWarps = kMeanThreads / 32;
  launch("mean_queries", mean_queries,
         {.grid = static_cast<unsigned>((sizes.block_rows + kWarps - 1) / kWarps),
          .block = kMeanThreads,
          .stream = stream,
          .joins = true},
         table, sizes.block_rows);
}

}  // namespace flexprefill::internal::cuda
