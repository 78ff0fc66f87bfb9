// The rows of the masks. Most are words made of the head's lines; a query-aware head chooses per
// row: the softmax of its mean query's (mean_queries.cu) scores with the mean keys, and the fewest
// blocks that reach gamma.

#include <algorithm>

#include "cuda/decide_head.h"
#include "cuda/launch.cuh"
#include "cuda/plan_kernels.cuh"
#include "cuda/team.cuh"

namespace flexprefill::internal::cuda {
namespace {

constexpr int kRowThreads = 256;

// Some rows of one head.
struct RowItem {
  const PlanProblem& p;
  const PlanShape& s;
  const PlanPolicy& policy;
  const HeadState& state;
  HeadScores x;
  int32_t h, first;  // row

  __device__ uint64_t* row(int32_t i) const { return p.row(h, i); }
};

__device__ uint64_t word_of(const RowItem& item, int32_t i, int32_t w) {
  if (i >= item.s.q_blocks) return 0;
  switch (item.state.pattern) {
    case Pattern::kDense: return bits_below(item.s.causal_blocks(i), w);
    case Pattern::kAShape: return a_shape_word(item.s, item.policy, i, w);
    default: break;
  }
  const bool local = item.policy.kind == PlanPolicy::kCoverage;
  return vertical_slash_word(item.s, item.x, i, w, local);
}

// Returns how many blocks this thread kept.
__device__ uint32_t write_lines(const RowItem& item, int32_t rows) {
  const int32_t words = item.p.row_words;
  uint32_t kept = 0;
  for (int32_t n = static_cast<int32_t>(threadIdx.x); n < rows * words; n += kRowThreads) {
    const int32_t i = item.first + n / words, w = n % words;
    const uint64_t word = word_of(item, i, w);
    item.row(i)[w] = word;
    kept += static_cast<uint32_t>(__popcll(word));
  }
  return kept;
}

// A warp takes the products of this many rows and 32 key blocks, one key block per lane: a mean key
// is read once for all of its rows.
__host__ __device__ constexpr int unit_rows(int rows) { return rows < 8 ? rows : 8; }

// Shared memory: mean queries [head_dim, kStride], weights [kRows, stride].
template <int kRows>
struct QueryAwareMemory {
  static constexpr int32_t kStride = (kRows + 3) / 4 * 4;  // floats, read by fours
  float* q_mean;
  float* weights;
  int32_t stride;

  __device__ QueryAwareMemory(float4* memory, int32_t max_k_blocks)
      : q_mean(reinterpret_cast<float*>(memory)),
        weights(q_mean + 256 * kStride),
        stride(max_k_blocks) {}

  static size_t bytes(int32_t max_k_blocks) {
    return sizeof(float) *
           (256 * kStride + static_cast<size_t>(kRows) * static_cast<size_t>(max_k_blocks));
  }
};

template <int kRows>
__device__ void score_rows(const RowItem& item, int32_t rows, const QueryAwareMemory<kRows>& m) {
  constexpr int kUnit = unit_rows(kRows), kUnits = kRows / kUnit;
  constexpr int kLoads = kRows > 8 ? 16 : 32;  // under way; 32 spill with 16 rows
  constexpr int32_t kStride = QueryAwareMemory<kRows>::kStride;
  const PlanProblem& p = item.p;
  const int32_t head_dim = p.head_dim;
  for (int32_t n = static_cast<int32_t>(threadIdx.x); n < kStride * head_dim; n += kRowThreads) {
    const int32_t r = n % kStride, c = n / kStride;
    m.q_mean[n] = r < rows ? item.x.q_mean(item.first + r)[c] : 0.0f;
  }
  __syncthreads();
  const int32_t blocks = item.s.causal_blocks(item.first + rows - 1);
  const int32_t units = (blocks + 31) / 32 * kUnits, lane = static_cast<int32_t>(threadIdx.x % 32);
  for (int32_t n = static_cast<int32_t>(threadIdx.x / 32); n < units; n += kRowThreads / 32) {
    const int32_t j = n / kUnits * 32 + lane, first = n % kUnits * kUnit;
    if (j >= blocks) continue;
    float dot[kUnit] = {};
    const float* k = item.x.k_mean + j;
    const float* q = m.q_mean + first;
#pragma unroll kLoads
    for (int32_t c = 0; c < head_dim; ++c) {
#pragma unroll
      for (int r = 0; r < kUnit; r += 4) {
        const float4 four = *reinterpret_cast<const float4*>(q + r);
        const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int v = 0; v < 4 && r + v < kUnit; ++v) dot[r + v] = fmaf(values[v], *k, dot[r + v]);
      }
      k += p.k_blocks;
      q += kStride;
    }
    const int64_t tokens = tokens_of_block(item.s, j);
#pragma unroll
    for (int r = 0; r < kUnit; ++r) {
      m.weights[(first + r) * m.stride + j] = pooled_score(dot[r], p.softmax_scale, tokens);
    }
  }
  __syncthreads();
}

// The same by one warp, for row i alone: a key block per lane. Short problems have fewer units than
// warps, and latency is all they cost.
__device__ void score_row(const RowItem& item, int32_t i, float* weights) {
  const PlanProblem& p = item.p;
  const int32_t head_dim = p.head_dim, n = item.s.causal_blocks(i);
  const int64_t stride = p.k_blocks;
  const float* const q = item.x.q_mean(i);
  for (int32_t j = static_cast<int32_t>(threadIdx.x % 32); j < n; j += 32) {
    const float* k = item.x.k_mean + j;
    float dot = 0.0f;
    int32_t c = 0;
#pragma unroll 8
    for (; c + 4 <= head_dim; c += 4, k += 4 * stride) {
      const float4 four = *reinterpret_cast<const float4*>(q + c);
      dot = fmaf(four.x, k[0], dot);
      dot = fmaf(four.y, k[stride], dot);
      dot = fmaf(four.z, k[2 * stride], dot);
      dot = fmaf(four.w, k[3 * stride], dot);
    }
    for (; c < head_dim; ++c, k += stride) dot = fmaf(q[c], *k, dot);
    weights[j] = pooled_score(dot, p.softmax_scale, tokens_of_block(item.s, j));
  }
  __syncwarp();
}

// One warp writes row i from its scores, [causal_blocks(i)]. Returns how many blocks it kept, in
// lane 0.
__device__ uint32_t write_query_aware(const WarpTeam& team, const RowItem& item, int32_t i,
                                      float* weights) {
  const PlanShape& s = item.s;
  const int32_t n = s.causal_blocks(i);
  const Maximum top = team.sum(n, [&](int32_t j) { return Maximum{weights[j]}; });
  const bool ranks = softmax(team, weights, n, top.value, kWeightUnits);
  const WeightMass scores{weights};
  const Cut cut = ranks ? cover_scores(team, n, scores, item.policy) : cover_unranked(item.policy);
  const int64_t diagonal = s.first_q_block + i;
  const auto keeps = [&](int32_t j) {
    return j < n && cut.keeps(ranks ? scores.key(j) : 0xffffffffu, j);
  };
  uint32_t kept = 0;
  team.store_bits(item.p.row_words, keeps, [&](int32_t w, uint64_t chosen) {
    const uint64_t forced = bit_of(0, w) | bit_of(diagonal, w) | bit_of(diagonal - 1, w);
    const uint64_t word = (chosen | forced) & bits_below(n, w);
    item.row(i)[w] = word;
    kept += static_cast<uint32_t>(__popcll(word));
  });
  return kept;
}

// kFew: of few key blocks; a warp takes a row from its products to its bits, and none waits for
// another.
template <int kRows, bool kFew>
__global__ void __launch_bounds__(kRowThreads, kFew ? 2 : 3)
    write_rows(const PlanTable* table, int32_t num_items, int32_t max_k_blocks) {
  extern __shared__ float4 memory[];
  const QueryAwareMemory<kRows> m(memory, max_k_blocks);
  __shared__ __align__(16) unsigned char partial[CtaTeam::kBytes];
  const CtaTeam team{partial};
  __shared__ int32_t slots[kRowThreads];
  const WarpTeam warp{slots + threadIdx.x / 32 * 32};
  for (int32_t n = static_cast<int32_t>(blockIdx.x); n < num_items;
       n += static_cast<int32_t>(gridDim.x)) {
    const PlanProblem p = find_problem(*table, &PlanProblem::first_row_item, n);
    // The longest rows first, as the last items to start decide when all end.
    const int32_t items = (p.q_blocks + kRows - 1) / kRows;
    const int32_t h = (n - p.first_row_item) % p.heads;
    const int32_t part = items - 1 - (n - p.first_row_item) / p.heads;
    const PlanShape s = shape_of(p);
    // Only now: the table is older than the kernel before. Few blocks leave room for the next.
    if (kFew && gridDim.x <= 2 * kSms) {
      join_stream_and_release();
    } else {
      join_stream();
    }
    HeadState& state = table->states[p.first_head + h];
    const RowItem item{p, s, policy_of(*table, h), state, scores_of(p, h), h, part * kRows};
    const int32_t rows = min(kRows, p.q_blocks - item.first);
    uint32_t kept = 0;
    if (state.pattern == Pattern::kQueryAware && item.policy.kind == PlanPolicy::kCoverage) {
      const int32_t there = min(rows, s.q_blocks - item.first);
      if constexpr (!kFew) {
        if (there > 0) score_rows<kRows>(item, there, m);
      }
      for (int32_t r = static_cast<int32_t>(threadIdx.x / 32); r < rows; r += kRowThreads / 32) {
        if (r < there) {
          float* const weights = m.weights + r * m.stride;
          if constexpr (kFew) score_row(item, item.first + r, weights);
          kept += write_query_aware(warp, item, item.first + r, weights);
        } else {
          warp.for_each(p.row_words, [&](int32_t w) { item.row(item.first + r)[w] = 0; });
        }
      }
    } else {
      kept = write_lines(item, rows);
    }
    // Integers: the order of the heads' parts does not matter.
    if constexpr (kFew) {
      const uint32_t total = warp_sum(kept);
      if (threadIdx.x % 32 == 0 && total != 0) atomicAdd(&state.kept_blocks, total);
    } else {
      const uint32_t total = team.sum(kRowThreads, [&](int32_t) { return kept; });
      if (threadIdx.x == 0 && total != 0) atomicAdd(&state.kept_blocks, total);
    }
  }
}

template <int kRows, bool kFew = false>
void launch_with(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  // No weights where nothing is scored: those of 16 rows would not fit above 3376 key blocks.
  const int32_t weights = sizes.tiles == 0 ? 0 : sizes.max_k_blocks;
  const size_t bytes = QueryAwareMemory<kRows>::bytes(weights);
  check(cudaFuncSetAttribute(write_rows<kRows, kFew>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  constexpr int32_t kMaxGrid = kSms * 16;  // further items are taken in turn
  launch("write_rows", write_rows<kRows, kFew>,
         {.grid = static_cast<unsigned>(std::min(sizes.row_items, kMaxGrid)),
          .block = kRowThreads,
          .shared_bytes = bytes,
          .stream = stream,
          .joins = true},
         table, sizes.row_items, weights);
}

}  // namespace

void launch_rows(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  switch (sizes.rows_per_item) {
    case 16: return launch_with<16>(table, sizes, stream);
    case 8:
      if (is_short(sizes)) return launch_with<8, /*kFew=*/true>(table, sizes, stream);
      return launch_with<8>(table, sizes, stream);
    case 6: return launch_with<6>(table, sizes, stream);
    case 4: return launch_with<4>(table, sizes, stream);
    default: return launch_with<1>(table, sizes, stream);
  }
}

}  // namespace flexprefill::internal::cuda
