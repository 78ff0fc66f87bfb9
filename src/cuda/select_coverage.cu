// Rule::kCoverage between the pass over the keys and the mask rows: row totals, mass per block, and
// one block of threads per head that decides its pattern. Also sets the state of heads that are not
// scored.

#include "cuda/decide_head.h"
#include "cuda/launch.cuh"
#include "cuda/mean_rows.cuh"
#include "cuda/plan_kernels.cuh"
#include "cuda/team.cuh"

namespace flexprefill::internal::cuda {
namespace {

constexpr int kTotalThreads = 32 * kTotalGroups;  // 32 rows
constexpr int kCombineThreads = 256;
constexpr int kCombineBlocks = 8;  // key blocks that one thread block combines: one per warp
constexpr int kDecideThreads = 512;

// Head `n` of the call, if it is scored under kCoverage.
__device__ __forceinline__ bool find_scored(const PlanTable& table, int32_t n, PlanProblem& p,
                                            PlanShape& s, int32_t& h) {
  p = find_problem(table, &PlanProblem::first_head, n);
  h = n - p.first_head;
  if (p.stats == nullptr) return false;
  s = shape_of(p);
  return is_scored(table, s, h, PlanPolicy::kCoverage);
}

// Grid (heads, 4): maximum and 1 / sum of 32 rows each.
__global__ void __launch_bounds__(kTotalThreads) total_rows(const PlanTable* table) {
  PlanProblem p;
  PlanShape s;
  int32_t h;
  const bool scored = find_scored(*table, static_cast<int32_t>(blockIdx.x), p, s, h);
  join_stream_and_release();
  if (!scored) return;
  const HeadScores x = scores_of(p, h);
  __shared__ float tops[kTotalGroups][32];
  __shared__ double sums[kTotalGroups][32];
  const int lane = static_cast<int>(threadIdx.x % 32), group = static_cast<int>(threadIdx.x / 32);
  const int32_t r = static_cast<int32_t>(blockIdx.y) * 32 + lane;
  tops[group][lane] = row_max_part<kTotalGroups>(s, x, r, group);
  __syncthreads();
  float top = tops[0][lane];
  for (int n = 1; n < kTotalGroups; ++n) top = fmaxf(top, tops[n][lane]);
  sums[group][lane] = row_sum_part(s, x, r, group, top);
  __syncthreads();
  if (group != 0) return;
  double sum = 0.0;
  for (int n = 0; n < kTotalGroups; ++n) sum += sums[n][lane];
  x.row_stats[r] = top;
  x.row_stats[kPlanRows + r] = static_cast<float>(1.0 / sum);
}

// By a warp: the row masses of key block j, and their sums.
__device__ __forceinline__ void combine_block(const PlanShape& s, const HeadScores& x, int32_t j) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  BlockSums sums;
#pragma unroll
  for (int32_t part = 0; part < kPlanRows / 32; ++part) {
    const int32_t r = part * 32 + lane;
    const BlockShare share = block_share(s, x, j, r);
    sums.add(s, r, share);
    x.stat(j, 0)[r] = share.mass();
  }
  sums = warp_sum(sums);
  if (lane == 0) store_sums(s, x, j, sums);
}

// Grid (heads, parts of the key blocks), a warp per key block.
__global__ void __launch_bounds__(kCombineThreads) combine_blocks(const PlanTable* table) {
  PlanProblem p;
  PlanShape s;
  int32_t h;
  const bool scored = find_scored(*table, static_cast<int32_t>(blockIdx.x), p, s, h);
  join_stream_and_release();
  if (!scored) return;
  const HeadScores x = scores_of(p, h);
  const int32_t end =
      min((static_cast<int32_t>(blockIdx.y) + 1) * kCombineBlocks, s.visible_blocks);
  for (int32_t j = static_cast<int32_t>(blockIdx.y) * kCombineBlocks +
                   static_cast<int32_t>(threadIdx.x / 32);
       j < end; j += kCombineThreads / 32) {
    combine_block(s, x, j);
  }
}

// total_rows and combine_blocks of a head by a block of threads, the same bits: row totals in
// x.row_stats, which is shared memory. `sums` has room for a double per row and group.
__device__ __forceinline__ void combine_head(const PlanShape& s, const HeadScores& x, float* tops,
                                             double* sums) {
  static_assert(kDecideThreads == kTotalParts * kPlanRows);
  const auto r = static_cast<int32_t>(threadIdx.x) % kPlanRows;
  const auto first = static_cast<int32_t>(threadIdx.x) / kPlanRows;
  tops[first * kPlanRows + r] = row_max_part<kTotalParts>(s, x, r, first);
  __syncthreads();
  float top = tops[r];
#pragma unroll
  for (int n = 1; n < kTotalParts; ++n) top = fmaxf(top, tops[n * kPlanRows + r]);
  double parts[kTotalGroups / kTotalParts];
  row_sum_groups(s, x, r, first, top, parts);
#pragma unroll
  for (int n = 0; n < kTotalGroups / kTotalParts; ++n) {
    sums[(first + n * kTotalParts) * kPlanRows + r] = parts[n];
  }
  __syncthreads();
  if (first == 0) {
    double sum = 0.0;
#pragma unroll
    for (int n = 0; n < kTotalGroups; ++n) sum += sums[n * kPlanRows + r];
    x.row_stats[r] = top;
    x.row_stats[kPlanRows + r] = static_cast<float>(1.0 / sum);
  }
  __syncthreads();
  for (int32_t j = static_cast<int32_t>(threadIdx.x / 32); j < s.visible_blocks;
       j += kDecideThreads / 32) {
    combine_block(s, x, j);
  }
  __syncthreads();
}

// Grid (heads). `scored`: score_coverage ran, so copy_table ended long ago, and the table can be
// read, and the mean probe row be taken, while the kernel before still runs. kCombines: the block
// sums are this kernel's business, too.
template <bool kCombines>
__global__ void __launch_bounds__(kDecideThreads, 1) decide(const PlanTable* table, bool scored) {
  constexpr int kParts = 8 * kDecideThreads;
  __shared__ __align__(16) float parts[kParts];  // of the mean, of row totals, of products
  static_assert(kParts >= kPartialDots && kParts >= 2 * kTotalGroups * kPlanRows);
  __shared__ float tops[kCombines ? kDecideThreads : 1];
  __shared__ float row_stats[kCombines ? 2 * kPlanRows : 1];
  __shared__ float probe_mean[256];
  __shared__ __align__(16) unsigned char partial[CtaTeam::kBytes];
  if (!scored) join_stream_and_release();
  const auto n = static_cast<int32_t>(blockIdx.x);
  const PlanProblem p = find_problem(*table, &PlanProblem::first_head, n);
  const int32_t h = n - p.first_head;
  const PlanShape s = shape_of(p);
  const PlanPolicy& policy = policy_of(*table, h);
  const bool by_scores = p.stats != nullptr && needs_scores(s, policy);
  const bool covers = by_scores && policy.kind == PlanPolicy::kCoverage;
  if (covers) {
    const int64_t begin = s.q_len - s.seeing_rows();
    mean_rows<kDecideThreads>(
        s.seeing_rows(), p.head_dim, p.q_aligned, p.is_f16,
        [&](int32_t r) { return query_row(p, begin + r, h); }, AsIs{}, parts, probe_mean);
  }
  if (scored) join_stream_and_release();
  if (by_scores && !covers) return;  // decide_official()
  HeadState state = {};
  state.pattern = policy.kind == PlanPolicy::kAShape ? Pattern::kAShape : Pattern::kDense;
  if (covers) {
    HeadScores x = scores_of(p, h);
    if constexpr (kCombines) {
      x.row_stats = row_stats;
      combine_head(s, x, tops, reinterpret_cast<double*>(parts));
    }
    state = decide_coverage(CtaTeam{partial}, p, s, policy, x, probe_mean, parts);
  }
  if (threadIdx.x == 0) table->states[n] = state;
}

}  // namespace

void launch_combine(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  if (is_short(sizes)) return;
  const auto heads = static_cast<unsigned>(sizes.heads);
  launch("total_rows", total_rows,
         {.grid = dim3(heads, kPlanRows / 32),
          .block = kTotalThreads,
          .stream = stream,
          .joins = true},
         table);
  const auto parts =
      static_cast<unsigned>((sizes.max_k_blocks + kCombineBlocks - 1) / kCombineBlocks);
  launch("combine_blocks", combine_blocks,
         {.grid = dim3(heads, parts), .block = kCombineThreads, .stream = stream, .joins = true},
         table);
}

void launch_decide(const PlanTable* table, const PlanSizes& sizes, bool scored,
                   cudaStream_t stream) {
  launch("decide", scored && is_short(sizes) ? decide<true> : decide<false>,
         {.grid = static_cast<unsigned>(sizes.heads),
          .block = kDecideThreads,
          .stream = stream,
          .joins = true},
         table, scored);
}

}  // namespace flexprefill::internal::cuda
