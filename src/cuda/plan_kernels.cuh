#pragma once

// The kernels of plan() by step, as plan.cu launches them, and what they share. All take their grid
// from upper bounds and leave at once where the true lengths or policies give them nothing to do.

#include <cuda_runtime_api.h>

#include "cuda/plan_table.h"

namespace flexprefill::internal::cuda {

// Upper bounds that the launches need; from shapes and policies alone.
struct PlanSizes {
  int32_t heads = 0;        // of all problems
  int32_t score_items = 0;  // work of the probe kernels
  int32_t row_items = 0;    // work of the row kernel
  int32_t block_rows = 0;   // of all heads
  int32_t max_k_blocks = 0;
  int32_t rows_per_item = 4;
  uint32_t tiles = 0;  // bit tile_class() of every problem that may be scored
};

// Whether every problem is so short that a launch costs more than what it starts: then decide takes
// the block sums, a warp writes a mask row alone, and finish measures.
inline bool is_short(const PlanSizes& sizes) { return sizes.max_k_blocks <= 64; }

// What each step takes from sizes. `table` lies on the device.
void launch_score_coverage(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream);
void launch_score_official(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream);
void launch_combine(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream);
void launch_decide(const PlanTable* table, const PlanSizes& sizes, bool scored,
                   cudaStream_t stream);
void launch_decide_official(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream);
void launch_mean_queries(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream);
void launch_rows(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream);
void launch_entries_official(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream);
void launch_finish(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream);

// Instantiations of the probe kernels: by type, and head_dim rounded up.
inline constexpr int32_t kTileDims[] = {64, 96, 128, 192, 256};
constexpr int32_t tile_dim(int32_t head_dim) {
  for (const int32_t dim : kTileDims) {
    if (head_dim <= dim) return dim;
  }
  return 0;
}
constexpr uint32_t tile_class(bool is_f16, int32_t dim) {
  return 1u << (dim / 32 - 2 + (is_f16 ? 8 : 0));
}

// Heads of a kv head that one block of the probe kernels scores: their queries share a tile of
// keys. More do not fit into shared memory beside two tiles of keys (64 channels: into half of it,
// as two blocks share an SM).
constexpr int32_t probe_heads(int32_t head_dim) {
  return head_dim <= 128 ? 4 : head_dim <= 192 ? 2 : 1;
}

#ifdef __CUDACC__
// The problem that item n belongs to; `first` is the member that numbers its items. Kernels copy
// what they use of it: behind stores and barriers a reference would be read again.
__device__ __forceinline__ const PlanProblem& find_problem(const PlanTable& table,
                                                           int32_t PlanProblem::*first, int32_t n) {
  int32_t low = 0, high = table.num_problems;  // first of low <= n
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    (table.problems[middle].*first <= n ? low : high) = middle;
  }
  return table.problems[low];
}

// By all threads, with a barrier.
__device__ __forceinline__ void copy_problem(PlanProblem& s_to, const PlanProblem& from) {
  static_assert(sizeof(PlanProblem) % 4 == 0);
  for (uint32_t n = threadIdx.x; n < sizeof(PlanProblem) / 4; n += blockDim.x) {
    reinterpret_cast<uint32_t*>(&s_to)[n] = reinterpret_cast<const uint32_t*>(&from)[n];
  }
  __syncthreads();
}

// One part of a probe kernel's work: some key blocks against some heads of a kv head.
struct ScoreItem {
  int32_t g, first_member, members;  // of the kv head's query heads
  int32_t first_block, end_block;
};

__device__ __forceinline__ ScoreItem score_item(const PlanTable& table, const PlanProblem& p,
                                                const PlanShape& s, int32_t n) {
  ScoreItem item;
  const int32_t chunk = n % p.score_chunks, part = n / p.score_chunks;
  const int32_t group = p.heads / p.kv_heads;
  item.g = part / p.head_groups;
  item.first_member = part % p.head_groups * p.heads_per_group;
  item.members = min(p.heads_per_group, group - item.first_member);
  item.first_block = chunk * table.blocks_per_chunk;
  item.end_block = min(item.first_block + table.blocks_per_chunk, s.visible_blocks);
  return item;
}

// Query head number `member` of kv head g.
__device__ __forceinline__ int32_t member_head(const PlanProblem& p, int32_t g, int32_t member) {
  return p.interleaved ? member * p.kv_heads + g : g * (p.heads / p.kv_heads) + member;
}

// Whether the head is scored under the rule.
__device__ __forceinline__ bool is_scored(const PlanTable& table, const PlanShape& s, int32_t h,
                                          PlanPolicy::Kind rule) {
  const PlanPolicy& policy = policy_of(table, h);
  return policy.kind == rule && needs_scores(s, policy);
}
#endif

}  // namespace flexprefill::internal::cuda
