// The rows of the masks. Most are words made of the head's lines; a query-aware head chooses per
// row: the softmax of its mean query's scores with the mean keys, and the fewest blocks that reach
// gamma.

#include <algorithm>
#include "cuda/decide_head.h"

#include "cuda/launch.cuh"
#include "cuda/mean_rows.cuh"
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

  __device__ uint64_t* row(int32_t i) const {
    return p.bits + (int64_t{h} * p.q_blocks + i) * p.row_words;
  }
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

// Shared memory: weights [kRows, stride], mean queries [head_dim, kRows].
template <int kRows>
struct QueryAwareMemory {
  float* weights;
  float* q_mean;
  int32_t stride;

  __device__ QueryAwareMemory(float* memory, int32_t max_k_blocks)
      : weights(memory), q_mean(memory + kRows * max_k_blocks), stride(max_k_blocks) {}
};

template <int kRows>
size_t query_aware_bytes(int32_t max_k_blocks) {
  return sizeof(float) * (static_cast<size_t>(kRows) * static_cast<size_t>(max_k_blocks) +
                          256 * kRows + 8 * kRowThreads);
}

template <int kRows>
__device__ void score_rows(const RowItem& item, int32_t rows, const QueryAwareMemory<kRows>& m) {
  const PlanProblem& p = item.p;
  const PlanShape& s = item.s;
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  for (int32_t r = warp; r < rows; r += kRowThreads / 32) {
    const int64_t block = (s.first_q_block + item.first + r) * kBlock - s.q_start;
    const int64_t begin = plan_max(block, 0), end = plan_min(block + kBlock, s.q_len);
    warp_mean_rows(
        static_cast<int32_t>(end - begin), p.head_dim, p.q_aligned, p.is_f16,
        [&](int32_t t) { return query_row(p, begin + t, item.h); }, AsIs{}, m.q_mean + r, kRows);
  }
  __syncthreads();
  const int32_t blocks = s.causal_blocks(item.first + rows - 1);
  for (int32_t j = static_cast<int32_t>(threadIdx.x); j < blocks; j += kRowThreads) {
    float dot[kRows] = {};
    const float* const k_mean = item.x.k_mean + j;
#pragma unroll 8
    for (int32_t c = 0; c < p.head_dim; ++c) {
      const float k = k_mean[int64_t{c} * p.k_blocks];
#pragma unroll
      for (int r = 0; r < kRows; ++r) dot[r] = fmaf(m.q_mean[c * kRows + r], k, dot[r]);
    }
    const int64_t tokens = tokens_of_block(s, j);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      m.weights[r * m.stride + j] = pooled_score(dot[r], p.softmax_scale, tokens);
    }
  }
  __syncthreads();
}

// One warp writes row i from its scores, [causal_blocks(i)]. Returns how many blocks it kept, in
// lane 0.
__device__ uint32_t write_query_aware(const RowItem& item, int32_t i, float* weights) {
  const PlanShape& s = item.s;
  const WarpTeam team;
  const int32_t n = s.causal_blocks(i), lane = static_cast<int32_t>(threadIdx.x % 32);
  const Maximum top = team.sum(n, [&](int32_t j) { return Maximum{weights[j]}; });
  const bool ranks = softmax(team, weights, n, top.value, kWeightUnits);
  const WeightMass scores{weights};
  const Cut cut = ranks ? cover_scores(team, n, scores, item.policy) : cover_unranked(item.policy);
  const int64_t diagonal = s.first_q_block + i;
  uint32_t kept = 0;
  for (int32_t w = 0; w < item.p.row_words; ++w) {
    const auto keeps = [&](int32_t j) {
      return j < n && cut.keeps(ranks ? scores.key(j) : 0xffffffffu, j);
    };
    const int32_t first = 64 * w + lane;
    const uint32_t low = __ballot_sync(~0u, keeps(first));
    const uint32_t high = __ballot_sync(~0u, keeps(first + 32));
    if (lane != 0) continue;
    const uint64_t forced = bit_of(0, w) | bit_of(diagonal, w) | bit_of(diagonal - 1, w);
    const uint64_t word = ((uint64_t{high} << 32 | low) | forced) & bits_below(n, w);
    item.row(i)[w] = word;
    kept += static_cast<uint32_t>(__popcll(word));
  }
  return kept;
}

template <int kRows>
__global__ void __launch_bounds__(kRowThreads, 2)
    write_rows(const PlanTable* table, int32_t num_items, int32_t max_k_blocks) {
  extern __shared__ float memory[];
  const QueryAwareMemory<kRows> m(memory, max_k_blocks);
  __shared__ __align__(16) unsigned char partial[CtaTeam::kBytes];
  const CtaTeam team{partial};
  for (int32_t n = static_cast<int32_t>(blockIdx.x); n < num_items;
       n += static_cast<int32_t>(gridDim.x)) {
    const PlanProblem p = find_problem(*table, &PlanProblem::first_row_item, n);
    const int32_t items = (p.q_blocks + kRows - 1) / kRows;
    const int32_t h = (n - p.first_row_item) / items;
    const PlanShape s = shape_of(p);
    HeadState& state = table->states[p.first_head + h];
    const RowItem item{p,
                       s,
                       policy_of(*table, h),
                       state,
                       scores_of(p, h),
                       h,
                       (n - p.first_row_item) % items * kRows};
    const int32_t rows = min(kRows, p.q_blocks - item.first);
    uint32_t kept = 0;
    if (state.pattern == Pattern::kQueryAware && item.policy.kind == PlanPolicy::kCoverage) {
      const int32_t there = min(rows, s.q_blocks - item.first);
      if (there > 0) score_rows<kRows>(item, there, m);
      for (int32_t r = static_cast<int32_t>(threadIdx.x / 32); r < rows; r += kRowThreads / 32) {
        if (r < there) {
          kept += write_query_aware(item, item.first + r, m.weights + r * m.stride);
        } else {
          WarpTeam{}.for_each(p.row_words, [&](int32_t w) { item.row(item.first + r)[w] = 0; });
        }
      }
    } else {
      kept = write_lines(item, rows);
    }
    // Integers: the order of the heads' parts does not matter.
    const uint32_t total = team.sum(kRowThreads, [&](int32_t) { return kept; });
    if (threadIdx.x == 0 && total != 0) atomicAdd(&state.kept_blocks, total);
  }
}

template <int kRows>
void launch_with(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  const size_t bytes = query_aware_bytes<kRows>(sizes.max_k_blocks);
  check(cudaFuncSetAttribute(write_rows<kRows>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  constexpr int32_t kMaxGrid = 132 * 16;  // further items are taken in turn
  launch("write_rows", write_rows<kRows>,
         {.grid = static_cast<unsigned>(std::min(sizes.row_items, kMaxGrid)),
          .block = kRowThreads,
          .shared_bytes = bytes,
          .stream = stream},
         table, sizes.row_items, sizes.max_k_blocks);
}

}  // namespace

void launch_rows(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  switch (sizes.rows_per_item) {
    case 16: return launch_with<16>(table, sizes, stream);
    case 6: return launch_with<6>(table, sizes, stream);
    case 4: return launch_with<4>(table, sizes, stream);
    default: return launch_with<1>(table, sizes, stream);
  }
}

}  // namespace flexprefill::internal::cuda
