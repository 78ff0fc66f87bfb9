// Rule::kCoverage, the pass over the keys: probe rows times key blocks with wgmma, and per row and
// block three numbers (maximum, near sum, far sum: BlockMass of src/cpu/kernels.h). The block means
// of the keys come from the same tiles.
//
// One block of threads takes a run of key blocks for up to four query heads of a kv head. The
// heads' probe rows stay in shared memory, key tiles alternate between two buffers, and while the
// sums of one head are taken the products of the next are under way.

#include <bit>

#include "cuda/head_scores.h"
#include "cuda/lanes.cuh"
#include "cuda/launch.cuh"
#include "cuda/plan_kernels.cuh"
#include "cuda/probe_tile.cuh"

namespace flexprefill::internal::cuda {
namespace {

constexpr float kLog2E = 1.44269504088896341f;
// Named barriers, one per pair: whose turn at the tensor cores; its own further heads are loaded.
constexpr uint32_t kTurn = 1, kOwnHeads = 3;

template <int kHeadDim>
struct Layout {
  static constexpr int kHeads = probe_heads(kHeadDim);
  // Of warpgroups. With 64 channels two pairs spill; one head of 256 channels has work for one.
  static constexpr int kPairs = kHeadDim > 64 && kHeads > 1 ? 2 : 1;
  static constexpr int kThreads = kPairs * kPairThreads;
  static constexpr uint32_t kTile = tile_bytes(kHeadDim);
  static constexpr int kColumns = panels_of(kHeadDim) * 32;  // pairs of channels
  static constexpr int kPerSm = kHeadDim > 64 ? 1 : 2;  // blocks that shared memory has room for
  // Threads that share a column: a power of two, so that they divide the rows.
  static constexpr int kParts = std::bit_floor(static_cast<unsigned>(kThreads / kColumns));
  static constexpr uint32_t kKeys = kHeads * kTile;      // offset of the key tiles
  static constexpr uint32_t kMeans = kKeys + 2 * kTile;  // offset of the partial means
  static constexpr uint32_t kBytes = kMeans + kParts * kColumns * sizeof(float2) + 1024;
  static_assert(kPerSm * (kBytes + 2048) <= 228 * 1024);
};

// Of the 32 columns that a thread holds per row, in ascending order, how many lie below `end`.
__device__ __forceinline__ int columns_below(int64_t end) {
  const int first = static_cast<int>(threadIdx.x % 4) * 2;  // then the next, then 8 further on
  const int below = static_cast<int>(plan_max(plan_min(end, 128), 0));
  const auto count = [&](int a) { return below > a ? (below - a + 7) / 8 : 0; };
  return count(first) + count(first + 1);
}

// A thread's two rows of the block: how many of its columns it sees, and how many are near.
struct RowColumns {
  int seen[2], near[2];
};

// The sums of one head and key block; s holds 2 rows x 32 columns per thread, as wgmma leaves them.
template <bool kEdge>
__device__ __forceinline__ void store_row_sums(const float (&s)[64], float scale_log2,
                                               const RowColumns& columns, float* stat, int row) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    // Compared where they are used: hoisted out of the loop over heads, 64 predicates would have to
    // be packed into registers and unpacked again.
    int near_columns = columns.near[half], seen = columns.seen[half];
    asm volatile("" : "+r"(near_columns), "+r"(seen));
    const int last_pair = near_columns & ~1;
    const float odd = static_cast<float>(near_columns & 1);
    const auto score = [&](int e) {
      const float value = s[e / 2 * 4 + half * 2 + e % 2];
      return kEdge && e >= seen ? -INFINITY : value;
    };
    float top[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
#pragma unroll
    for (int e = 0; e < 32; ++e) top[e % 4] = fmaxf(top[e % 4], score(e));
    float max = fmaxf(fmaxf(top[0], top[1]), fmaxf(top[2], top[3]));
    max = quad_max(max);
    const float offset = max * scale_log2;
    const float subtract = max == -INFINITY ? 0.0f : offset;  // no key seen: all sums are 0
    // The near columns are the first ones, so their sum is where the sum of all stands when the
    // last of them is added: half the instructions of two sums.
    float all = 0.0f, near = 0.0f;
#pragma unroll
    for (int e = 0; e < 32; e += 2) {
      const float p = exp2_approx(fmaf(score(e), scale_log2, -subtract));
      const float next = exp2_approx(fmaf(score(e + 1), scale_log2, -subtract));
      if (e == last_pair) near = fmaf(p, odd, all);
      all += p + next;
    }
    if (last_pair == 32) near = all;
    float sums[2] = {near, all - near};  // not negative: rounding keeps the order
#pragma unroll
    for (float& sum : sums) sum = quad_sum(sum);
    const int plane = static_cast<int>(threadIdx.x % 4);
    const float value = plane == 0 ? offset : plane == 1 ? sums[0] : sums[1];
    if (plane < kStatPlanes) stat[plane * kPlanRows + row + 8 * half] = value;
  }
}

// Sums of a thread's channel pair over its parts of the tile's rows; missing rows are zeros. By
// the last pair, as the first has the first turn at the tensor cores.
template <typename T, int kHeadDim>
__device__ __forceinline__ void add_up_columns(const unsigned char* tile, float2* parts) {
  using L = Layout<kHeadDim>;
  constexpr int kStep = kPairThreads / L::kColumns;  // parts that the pair takes at a time
  static_assert(kStep > 0);
  const int thread = static_cast<int>(threadIdx.x) % kPairThreads;
  const int column = thread % L::kColumns;
  if (thread >= kStep * L::kColumns) return;
#pragma unroll 1
  for (int part = thread / L::kColumns; part < L::kParts; part += kStep) {
    float2 sum = {0.0f, 0.0f};
    for (int r = part; r < 8; r += L::kParts) {  // rows 8 apart lie alike in the swizzle
      const unsigned char* const rows =
          tile + chunk_offset(r, column / 4) + static_cast<uint32_t>(column % 4) * 4;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        const float2 value = to_float2<T>(*reinterpret_cast<const uint32_t*>(rows + n * 8 * 128));
        sum.x += value.x;
        sum.y += value.y;
      }
    }
    parts[part * L::kColumns + column] = sum;
  }
}

template <int kHeadDim>
__device__ __forceinline__ void store_means(const float2* parts, const PlanProblem& p, int32_t g,
                                            int32_t j, int64_t tokens) {
  using L = Layout<kHeadDim>;
  const int column = static_cast<int>(threadIdx.x);
  if (2 * column >= p.head_dim) return;
  float2 sum = parts[column];
#pragma unroll
  for (int part = 1; part < L::kParts; ++part) {
    sum.x += parts[part * L::kColumns + column].x;
    sum.y += parts[part * L::kColumns + column].y;
  }
  const float inverse = 1.0f / static_cast<float>(tokens);
  float* const mean = p.k_mean + (int64_t{g} * p.head_dim + 2 * column) * p.k_blocks + j;
  mean[0] = sum.x * inverse;
  if (2 * column + 1 < p.head_dim) mean[p.k_blocks] = sum.y * inverse;
}

template <typename T, int kHeadDim>
__global__ void __launch_bounds__(Layout<kHeadDim>::kThreads, Layout<kHeadDim>::kPerSm)
    score_coverage(const PlanTable* table, bool releases) {
  using L = Layout<kHeadDim>;
  extern __shared__ unsigned char raw[];
  join_stream();
  // Shared, as the sums need the registers.
  __shared__ PlanProblem p;
  copy_problem(
      p, find_problem(*table, &PlanProblem::first_score_item, static_cast<int32_t>(blockIdx.x)));
  if (p.stats == nullptr || p.tile_dim != kHeadDim || p.is_f16 != std::is_same_v<T, __half>) {
    return;
  }
  __shared__ PlanShape s;
  __shared__ ScoreItem item;
  if (threadIdx.x == 0) {
    s = shape_of(p);
    item = score_item(*table, p, s, static_cast<int32_t>(blockIdx.x) - p.first_score_item);
  }
  __syncthreads();
  if (item.first_block >= item.end_block) return;

  // A head per lane. The means are the business of the kv head's first part.
  __shared__ uint32_t scored;
  __shared__ bool means;
  if (threadIdx.x < 32) {
    const auto lane = static_cast<int32_t>(threadIdx.x);
    const auto is_scored_member = [&](int32_t member) {
      return is_scored(*table, s, member_head(p, item.g, member), PlanPolicy::kCoverage);
    };
    const bool needed = lane < item.members && is_scored_member(item.first_member + lane);
    bool any = false;
    for (int32_t m = lane; item.first_member == 0 && m < p.heads / p.kv_heads; m += 32) {
      any |= is_scored_member(m);
    }
    const uint32_t all_needed = __ballot_sync(kAllLanes, needed);
    any = __any_sync(kAllLanes, any) != 0;
    if (lane == 0) {
      scored = all_needed;
      means = any;
    }
  }
  __syncthreads();
  if (scored == 0 && !means) return;
  __shared__ float* s_stats[L::kHeads];
  if (threadIdx.x < static_cast<unsigned>(item.members)) {
    const int32_t h = member_head(p, item.g, item.first_member + static_cast<int32_t>(threadIdx.x));
    s_stats[threadIdx.x] = scores_of(p, h).stats;
  }

  unsigned char* const memory = raw + (-shared_address(raw) & 1023);
  const uint32_t base = shared_address(memory);
  float2* const parts = reinterpret_cast<float2*>(memory + L::kMeans);
  const auto load_keys = [&](int32_t j) {
    const int64_t first = int64_t{j} * kBlock;
    const uint32_t to = base + L::kKeys + (j & 1) * L::kTile;
    const int rows = static_cast<int>(plan_min(128, s.visible_keys - first));
    if (p.page_size == 0) {
      const uint16_t* const keys = key_row(p, first, item.g);
      const int64_t stride = p.k_token_stride;
      load_tile<kHeadDim, L::kThreads>(to, rows, p.head_dim, p.k_aligned,
                                       [=](int r) { return keys + r * stride; });
    } else {
      load_tile<kHeadDim, L::kThreads>(to, rows, p.head_dim, p.k_aligned,
                                       [&](int r) { return key_row(p, first + r, item.g); });
    }
    commit_copies();
  };
  // The first products need the keys and a head per pair; a pair's other heads follow under them.
  const int pair = L::kPairs == 1 ? 0 : static_cast<int>(threadIdx.x / kPairThreads);
  constexpr bool kOthers = L::kHeads > L::kPairs;
  load_keys(item.first_block);
#pragma unroll 1
  for (int m = pair; m < L::kHeads; m += L::kPairs) {
    const int32_t h = m < item.members ? member_head(p, item.g, item.first_member + m) : 0;
    load_tile<kHeadDim, kPairThreads>(
        base + m * L::kTile, m < item.members ? s.probe_rows : 0, p.head_dim, p.q_aligned,
        [&](int r) { return query_row(p, s.q_len - s.probe_rows + r, h); });
    if (m == pair) commit_copies();
  }
  if (kOthers) commit_copies();

  const int group = static_cast<int>(threadIdx.x / 128 % 2);  // of the pair: rows from 64 on
  const int row = static_cast<int>(threadIdx.x % kPairThreads / 32 * 16 + threadIdx.x % 32 / 4);
  const float scale_log2 = p.softmax_scale * kLog2E;
  RowColumns columns;
  for (int half = 0; half < 2; ++half) {
    columns.near[half] = columns_below(((s.first_position + row + 8 * half) & 127) + 1);
  }
  if (pair == 1) named_barrier_arrive(kTurn, L::kThreads);  // the first turn is pair 0's
#pragma unroll 1
  for (int32_t j = item.first_block; j < item.end_block; ++j) {
    // A group of copies each: this block's keys, the first heads, the others, the next keys.
    if (j + 1 < item.end_block) {
      load_keys(j + 1);
    } else {
      commit_copies();  // of nothing
    }
    if (kOthers && j == item.first_block) {
      wait_for_copies<2>();
    } else {
      wait_for_copies<1>();
    }
    fence_async_shared();
    __syncthreads();
    if (releases && j + 1 == item.end_block) release_stream();
    const uint32_t keys = base + L::kKeys + (j & 1) * L::kTile;
    const uint32_t queries = base + group * 64 * 128;
    const int64_t first = int64_t{j} * kBlock;
    const int64_t there = s.visible_keys - first;
    const bool edge = there < kBlock || s.first_position + 1 - first < kBlock;
    if (means && pair == L::kPairs - 1) {
      add_up_columns<T, kHeadDim>(memory + L::kKeys + (j & 1) * L::kTile, parts);
    }
#pragma unroll 1
    for (int m = pair; m < L::kHeads; m += L::kPairs) {
      if (kOthers && m == pair + L::kPairs && j == item.first_block) {
        wait_for_copies<1>();
        fence_async_shared();
        named_barrier_sync(kOwnHeads + pair, kPairThreads);
      }
      const bool needed = ((scored >> m) & 1) != 0;
      float scores[64];
      if constexpr (L::kPairs == 2) named_barrier_sync(kTurn + pair, L::kThreads);
      if (needed) {
        start_scores<T, kHeadDim>(scores, queries + m * L::kTile, keys);
        wgmma_wait<0>();
        pin(scores);
      }
      if constexpr (L::kPairs == 2) named_barrier_arrive(kTurn + 1 - pair, L::kThreads);
      if (!needed) continue;
      float* const stat = s_stats[m] + int64_t{j} * kStatPlanes * kPlanRows;
      if (edge) {
        for (int half = 0; half < 2; ++half) {
          const int64_t seen = s.first_position + row + 8 * half + 1 - first;
          columns.seen[half] = columns_below(plan_min(there, seen));
        }
        store_row_sums<true>(scores, scale_log2, columns, stat, row);
      } else {
        store_row_sums<false>(scores, scale_log2, columns, stat, row);
      }
    }
    __syncthreads();  // before the next tile overwrites this one
    if (means) store_means<kHeadDim>(parts, p, item.g, j, plan_min(there, kBlock));
  }
  if (L::kPairs == 2 && pair == 0) named_barrier_sync(kTurn, L::kThreads);  // ends the last turn
}

template <typename T, int kHeadDim>
void launch_if_needed(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  if ((sizes.tiles & tile_class(std::is_same_v<T, __half>, kHeadDim)) == 0) return;
  constexpr uint32_t kBytes = Layout<kHeadDim>::kBytes;
  check(cudaFuncSetAttribute(score_coverage<T, kHeadDim>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "cudaFuncSetAttribute");
  // Then decide() follows (or scores of another dtype), whose few blocks need an SM each and cannot
  // crowd.
  const bool releases = is_short(sizes);
  launch("score_coverage", score_coverage<T, kHeadDim>,
         {.grid = static_cast<unsigned>(sizes.score_items),
          .block = Layout<kHeadDim>::kThreads,
          .shared_bytes = kBytes,
          .stream = stream,
          .joins = true},
         table, releases);
}

template <typename T>
void launch_all(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  launch_if_needed<T, 64>(table, sizes, stream);
  launch_if_needed<T, 96>(table, sizes, stream);
  launch_if_needed<T, 128>(table, sizes, stream);
  launch_if_needed<T, 192>(table, sizes, stream);
  launch_if_needed<T, 256>(table, sizes, stream);
}

}  // namespace

void launch_score_coverage(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  launch_all<__nv_bfloat16>(table, sizes, stream);
  launch_all<__half>(table, sizes, stream);
}

}  // namespace flexprefill::internal::cuda
