// The mean query of every block row of the query-aware heads: all of q, read once. One warp takes a
// block row of a head, and heads follow each other: the rows of a token lie together in memory.

#include "cuda/head_scores.h"
#include "cuda/launch.cuh"
#include "cuda/mean_rows.cuh"
#include "cuda/plan_kernels.cuh"

namespace flexprefill::internal::cuda {
namespace {

constexpr int kMeanThreads = 256;
constexpr int kWarps = kMeanThreads / 32;
// Up to this many block rows, two blocks of threads per SM, all of them run at once.
constexpr int32_t kFewBlockRows = 2 * kSms * kWarps;

// Grid (block rows of all heads / warps). kFew: there are at most kFewBlockRows of them. Twice the
// loads per warp then make up for the missing warps, and the next kernel finds room beside them.
template <bool kFew>
__global__ void __launch_bounds__(kMeanThreads, kFew ? 2 : 4)
    mean_queries(const PlanTable* table, int32_t block_rows) {
  const int32_t n = static_cast<int32_t>((blockIdx.x * kMeanThreads + threadIdx.x) / 32);
  // The table is older than the kernel before.
  const PlanProblem& p =
      find_problem(*table, &PlanProblem::first_block_row, min(n, block_rows - 1));
  const PlanShape s = shape_of(p);
  const int32_t i = (n - p.first_block_row) / p.heads, h = (n - p.first_block_row) % p.heads;
  if constexpr (kFew) {
    join_stream_and_release();
  } else {
    join_stream();
  }
  if (n >= block_rows) return;
  if (table->states[p.first_head + h].pattern != Pattern::kQueryAware) return;
  if (policy_of(*table, h).kind != PlanPolicy::kCoverage) return;
  if (i >= s.q_blocks) return;
  const int64_t block = (s.first_q_block + i) * kBlock - s.q_start;
  const int64_t begin = plan_max(block, 0), end = plan_min(block + kBlock, s.q_len);
  const uint16_t* const first = query_row(p, begin, h);
  const int64_t stride = p.q_token_stride;
  warp_mean_rows<kFew ? 16 : 8>(
      static_cast<int32_t>(end - begin), p.head_dim, p.q_aligned, p.is_f16,
      [=](int32_t t) { return first + t * stride; }, AsIs{}, scores_of(p, h).q_mean(i), 1);
}

}  // namespace

void launch_mean_queries(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  launch("mean_queries",
         sizes.block_rows <= kFewBlockRows ? mean_queries<true> : mean_queries<false>,
         {.grid = static_cast<unsigned>((sizes.block_rows + kWarps - 1) / kWarps),
          .block = kMeanThreads,
          .stream = stream,
          .joins = true},
         table, sizes.block_rows);
}

}  // namespace flexprefill::internal::cuda
