// Rule::kOfficial, the two passes over the keys (steps 1 to 3 of docs/algorithm.md): probe rows and
// keys rounded to bf16, logits too. The first pass leaves the maximum and sum of each row and key
// block; the second the probabilities' sums per key, per diagonal of the block, and per block.
//
// One block of threads takes a run of key blocks for one head. In the second pass a tile of
// probabilities goes through shared memory, where each thread adds up one column and one diagonal.

#include <algorithm>

#include "cuda/lanes.cuh"
#include "cuda/launch.cuh"
#include "cuda/mean_rows.cuh"
#include "cuda/official.h"
#include "cuda/plan_kernels.cuh"
#include "cuda/probe_tile.cuh"

namespace flexprefill::internal::cuda {
namespace {

constexpr float kLog2E = 1.44269504088896341f;
// Floats from one row of probabilities to the next: 8 more than 128 keeps the writes of four rows
// apart in the banks.
constexpr int kRowStride = 136;

template <int kHeadDim>
struct Layout {
  static constexpr uint32_t kTile = tile_bytes(kHeadDim);
  static constexpr int kStages = kHeadDim <= 192 ? 2 : 1;  // of keys; two of 256 do not fit
  static constexpr uint32_t kKeys = kTile;
  static constexpr uint32_t kProbabilities = kKeys + kStages * kTile;
  static constexpr uint32_t kColumns = kProbabilities + 128 * kRowStride * sizeof(float);
  static constexpr uint32_t kBytes = kColumns + 2 * 128 * sizeof(float) + 1024;
};

// Column of the tile that element e of 32 is in, for this thread.
__device__ __forceinline__ int column_of(int e) {
  return e / 2 * 8 + static_cast<int>(threadIdx.x % 4) * 2 + e % 2;
}

// The logits of a thread's row `half`, rounded; -inf from column `seen` on.
__device__ __forceinline__ float logit(const float (&s)[64], int half, int e, int64_t seen) {
  return column_of(e) < seen ? as_bf16(s[e / 2 * 4 + half * 2 + e % 2]) : -INFINITY;
}

__device__ __forceinline__ void store_row_sums(const float (&s)[64], const int64_t (&seen)[2],
                                               float* maxima, float* sums, int row) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float max = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int e = 0; e < 32; ++e) max = fmaxf(max, logit(s, half, e, seen[half]));
    max = quad_max(max);
    const float subtract = max == -INFINITY ? 0.0f : max;
#pragma unroll
    for (int e = 0; e < 32; ++e) {
      sum += exp2_approx((logit(s, half, e, seen[half]) - subtract) * kLog2E);
    }
    sum = quad_sum(sum);
    if (threadIdx.x % 4 != 0) continue;
    maxima[row + 8 * half] = max;
    sums[row + 8 * half] = sum;
  }
}

// Writes the tile of probabilities, and the mass of each row.
__device__ __forceinline__ void store_probabilities(const float (&s)[64], const int64_t (&seen)[2],
                                                    const float* row_stats, float* tile,
                                                    float* masses, int row) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = row + 8 * half;
    const float max = row_stats[r], inverse = row_stats[kPlanRows + r];
    float mass = 0.0f;
#pragma unroll
    for (int e = 0; e < 32; e += 2) {
      float2 p;
      p.x = exp2_approx((logit(s, half, e, seen[half]) - max) * kLog2E) * inverse;
      p.y = exp2_approx((logit(s, half, e + 1, seen[half]) - max) * kLog2E) * inverse;
      mass += p.x + p.y;
      *reinterpret_cast<float2*>(tile + r * kRowStride + column_of(e)) = p;
    }
    mass = quad_sum(mass);
    if (threadIdx.x % 4 == 0) masses[r] = mass;
  }
}

__device__ __forceinline__ void add_up_tile(const float* tile, float* halves, float* columns,
                                            int keys, float* diagonals) {
  const int t = static_cast<int>(threadIdx.x);
  const int n = t % 128, first_row = t / 128 * 64;
  float column = 0.0f;
#pragma unroll 8
  for (int r = first_row; r < first_row + 64; ++r) column += tile[r * kRowStride + n];
  halves[t] = column;
  const int e = t - 127;  // row - column
  float diagonal = 0.0f;
  for (int r = max(0, e); r < min(128, 128 + e); ++r) diagonal += tile[r * kRowStride + r - e];
  if (t < 255) diagonals[t] = diagonal * (1.0f / kPlanRows);
  __syncthreads();
  if (t < keys) columns[t] = (halves[t] + halves[128 + t]) * (1.0f / kPlanRows);
}

// Grid: score_chunks of a head are `parts` neighbours.
template <int kHeadDim, int kPass>
__global__ void __launch_bounds__(kPairThreads, 1) score_official(const PlanTable* table) {
  using L = Layout<kHeadDim>;
  extern __shared__ unsigned char raw[];
  const auto n = static_cast<int32_t>(blockIdx.x);
  const PlanProblem p = find_problem(*table, &PlanProblem::first_head, n);
  const int32_t h = n - p.first_head;
  if (p.stats == nullptr || p.tile_dim != kHeadDim) return;
  const PlanShape s = shape_of(p);
  if (!is_scored(*table, s, h, PlanPolicy::kOfficial)) return;
  const int32_t parts = static_cast<int32_t>(gridDim.y), part = static_cast<int32_t>(blockIdx.y);
  const int32_t chunk = (s.visible_blocks + parts - 1) / parts;
  const int32_t first_block = part * chunk;
  const int32_t end_block = min(first_block + chunk, s.visible_blocks);
  if (first_block >= end_block) return;

  unsigned char* const memory = raw + (-shared_address(raw) & 1023);
  const uint32_t base = shared_address(memory);
  float* const tile = reinterpret_cast<float*>(memory + L::kProbabilities);
  float* const halves = reinterpret_cast<float*>(memory + L::kColumns);
  const HeadScores x = scores_of(p, h);
  const int32_t g = plan_kv_head(p, h);
  const float inverse_sqrt = 1.0f / sqrtf(static_cast<float>(p.head_dim));
  load_tile_as_bf16<kHeadDim, kPairThreads>(
      base, s.probe_rows, p.head_dim, p.q_aligned, p.is_f16,
      [&](int r) { return query_row(p, s.q_len - s.probe_rows + r, h); }, OverSqrt{inverse_sqrt});
  const auto stage = [&](int32_t j) { return base + L::kKeys + j % L::kStages * L::kTile; };
  const auto load_keys = [&](int32_t j) {
    const int64_t first = int64_t{j} * kBlock;
    const int there = static_cast<int>(plan_min(kBlock, s.visible_keys - first));
    const auto row = [&](int r) { return key_row(p, first + r, g); };
    if (p.is_f16) {
      load_tile_as_bf16<kHeadDim, kPairThreads>(stage(j), there, p.head_dim, p.k_aligned, true, row,
                                                [](float value) { return value; });
    } else {
      load_tile<kHeadDim, kPairThreads>(stage(j), there, p.head_dim, p.k_aligned, row);
    }
    commit_copies();
  };
  load_keys(first_block);
  const int group = static_cast<int>(threadIdx.x / 128);
  const int row = static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4);
#pragma unroll 1
  for (int32_t j = first_block; j < end_block; ++j) {
    const bool ahead = L::kStages == 2 && j + 1 < end_block;
    if (ahead) {
      load_keys(j + 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    fence_async_shared();
    __syncthreads();
    const int64_t first = int64_t{j} * kBlock;
    int64_t seen[2];
    for (int half = 0; half < 2; ++half) {
      seen[half] = plan_min(s.visible_keys, s.first_position + row + 8 * half + 1) - first;
    }
    float scores[64];
    start_scores<__nv_bfloat16, kHeadDim>(scores, base + group * 64 * 128, stage(j));
    wgmma_wait<0>();
    pin(scores);
    if constexpr (kPass == 1) {
      store_row_sums(scores, seen, x.stat(j, 1), x.stat(j, 2), row);
      __syncthreads();  // before the next tile overwrites this one
    } else {
      store_probabilities(scores, seen, x.row_stats, tile, x.stat(j, kMassPlane), row);
      __syncthreads();
      add_up_tile(tile, halves, x.tokens + first,
                  static_cast<int>(plan_min(kBlock, s.visible_keys - first)), x.diagonals(j));
    }
    if (L::kStages == 1 && j + 1 < end_block) load_keys(j + 1);
  }
}

// Grid (heads): 1 / sum and maximum of every row. A thread per row and group of key blocks.
__global__ void __launch_bounds__(kRowGroups* kPlanRows) total_official(const PlanTable* table) {
  const auto n = static_cast<int32_t>(blockIdx.x);
  const PlanProblem p = find_problem(*table, &PlanProblem::first_head, n);
  const int32_t h = n - p.first_head;
  if (p.stats == nullptr) return;
  const PlanShape s = shape_of(p);
  if (!is_scored(*table, s, h, PlanPolicy::kOfficial)) return;
  const HeadScores x = scores_of(p, h);
  __shared__ float tops[kRowGroups][kPlanRows];
  __shared__ double sums[kRowGroups][kPlanRows];
  const auto r = static_cast<int32_t>(threadIdx.x) % kPlanRows;
  const auto group = static_cast<int32_t>(threadIdx.x) / kPlanRows;
  float top = -INFINITY;
  for (int32_t j = group; j < s.visible_blocks; j += kRowGroups) top = fmaxf(top, x.stat(j, 1)[r]);
  tops[group][r] = top;
  __syncthreads();
  for (int32_t other = 0; other < kRowGroups; ++other) top = fmaxf(top, tops[other][r]);
  double sum = 0.0;
  for (int32_t j = group; j < s.visible_blocks; j += kRowGroups) {
    sum += static_cast<double>(x.stat(j, 2)[r] * expf(x.stat(j, 1)[r] - top));
  }
  sums[group][r] = sum;
  __syncthreads();
  if (group != 0) return;
  for (int32_t other = 1; other < kRowGroups; ++other) sum += sums[other][r];
  x.row_stats[r] = top;
  x.row_stats[kPlanRows + r] = static_cast<float>(1.0 / sum);
}

// Grid (kv heads of all problems, key blocks): mean of the keys, rounded to bf16 before.
__global__ void __launch_bounds__(128) mean_keys(const PlanTable* table) {
  const auto n = static_cast<int32_t>(blockIdx.x);
  const PlanProblem p = find_problem(*table, &PlanProblem::first_head, n);
  const int32_t h = n - p.first_head;  // the first head of its kv head does it
  if (p.stats == nullptr || h != member_head(p, plan_kv_head(p, h), 0)) return;
  const PlanShape s = shape_of(p);
  const int32_t g = plan_kv_head(p, h);
  bool scored = false;
  for (int32_t m = 0; m < p.heads / p.kv_heads; ++m) {
    scored |= is_scored(*table, s, member_head(p, g, m), PlanPolicy::kOfficial);
  }
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  const int32_t j = static_cast<int32_t>(blockIdx.y) * 4 + warp;
  if (!scored || j >= s.visible_blocks) return;
  const int64_t first = int64_t{j} * kBlock;
  float* const mean = p.official_k_mean + int64_t{g} * p.head_dim * p.k_blocks + j;
  warp_mean_rows<8>(
      static_cast<int32_t>(tokens_of_block(s, j)), p.head_dim, p.k_aligned, p.is_f16,
      [&](int32_t r) { return key_row(p, first + r, g); },
      [](float value) { return as_bf16(value); }, mean, p.k_blocks);
}

template <int kHeadDim, int kPass>
void launch_pass(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  const uint32_t classes = tile_class(false, kHeadDim) | tile_class(true, kHeadDim);
  if ((sizes.tiles & classes) == 0) return;
  constexpr uint32_t kBytes = Layout<kHeadDim>::kBytes;
  check(cudaFuncSetAttribute(score_official<kHeadDim, kPass>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "cudaFuncSetAttribute");
  const int32_t parts = std::clamp((kSms + sizes.heads - 1) / sizes.heads, 1, sizes.max_k_blocks);
  launch("score_official", score_official<kHeadDim, kPass>,
         {.grid = dim3(static_cast<unsigned>(sizes.heads), static_cast<unsigned>(parts)),
          .block = kPairThreads,
          .shared_bytes = kBytes,
          .stream = stream},
         table);
}

template <int kPass>
void launch_pass(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  launch_pass<64, kPass>(table, sizes, stream);
  launch_pass<96, kPass>(table, sizes, stream);
  launch_pass<128, kPass>(table, sizes, stream);
  launch_pass<192, kPass>(table, sizes, stream);
  launch_pass<256, kPass>(table, sizes, stream);
}

}  // namespace

void launch_score_official(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  const auto heads = static_cast<unsigned>(sizes.heads);
  launch("mean_keys", mean_keys,
         {.grid = dim3(heads, static_cast<unsigned>((sizes.max_k_blocks + 3) / 4)),
          .block = 128,
          .stream = stream},
         table);
  launch_pass<1>(table, sizes, stream);
  launch("total_official", total_official,
         {.grid = heads, .block = kRowGroups * kPlanRows, .stream = stream}, table);
  launch_pass<2>(table, sizes, stream);
}

}  // namespace flexprefill::internal::cuda
