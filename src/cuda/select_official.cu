// Rule::kOfficial after the passes over the keys: the decisions of each head, and step 12, the
// query-aware entries. Those are chosen among all rows of a head together, up to 2^25 of them, so
// the last one kept is found by a histogram of the scores' bits, ten at a time; weights are
// computed anew in each round rather than stored. Masses are integers: their order does not matter.

#include <algorithm>

#include "cuda/lanes.cuh"
#include "cuda/launch.cuh"
#include "cuda/mean_rows.cuh"
#include "cuda/official.h"
#include "cuda/plan_kernels.cuh"
#include "cuda/team.cuh"

namespace flexprefill::internal::cuda {
namespace {

constexpr int kDecideThreads = 512;
constexpr int kRowThreads = 256;
constexpr int kBins = 1024;  // of one level: ten bits; weights are at most 1, so 30 bits do
constexpr int kLevels = 3;

// Grid (heads).
__global__ void __launch_bounds__(kDecideThreads, 1) decide_heads(const PlanTable* table) {
  const auto n = static_cast<int32_t>(blockIdx.x);
  const PlanProblem p = find_problem(*table, &PlanProblem::first_head, n);
  const int32_t h = n - p.first_head;
  if (p.stats == nullptr) return;
  const PlanShape s = shape_of(p);
  if (!is_scored(*table, s, h, PlanPolicy::kOfficial)) return;
  __shared__ float parts[8 * kDecideThreads];
  __shared__ float probe_mean[256];
  __shared__ __align__(16) unsigned char partial[CtaTeam::kBytes];
  const int64_t begin = s.q_len - s.probe_rows;
  const OverSqrt over_sqrt{1.0f / sqrtf(static_cast<float>(p.head_dim))};
  mean_rows<kDecideThreads>(
      s.probe_rows, p.head_dim, p.q_aligned, p.is_f16,
      [&](int32_t r) { return query_row(p, begin + r, h); }, over_sqrt, parts, probe_mean);
  const CtaTeam team{partial};
  team.for_each(p.head_dim, [&](int32_t c) { probe_mean[c] = as_bf16(probe_mean[c]); });
  const HeadState state =
      decide_official(team, p, s, policy_of(*table, h), scores_of(p, h), h, probe_mean);
  if (threadIdx.x == 0) table->states[n] = state;
  unsigned long long* const histogram = p.histogram + int64_t{h} * 2 * kBins;
  team.for_each(2 * kBins, [&](int32_t bin) { histogram[bin] = 0; });
}

// Some rows of a query-aware head.
struct EntryItem {
  const PlanProblem& p;
  const PlanShape& s;
  HeadState& state;
  int32_t h, first, rows;
};

// Calls visit(item, i, weights, n) for every row of every query-aware head, by a warp, with the
// row's weights in shared memory; end(item) by all threads after each item.
template <int kRows, typename Visit, typename End>
__device__ void for_each_row(const PlanTable& table, int32_t num_items, int32_t max_k_blocks,
                             float* weights, const Visit& visit, const End& end) {
  float* const queries = weights + kRows * max_k_blocks;  // [head_dim, kRows]
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  for (int32_t n = static_cast<int32_t>(blockIdx.x); n < num_items;
       n += static_cast<int32_t>(gridDim.x)) {
    const PlanProblem p = find_problem(table, &PlanProblem::first_row_item, n);
    const int32_t items = (p.q_blocks + kRows - 1) / kRows;
    const int32_t h = (n - p.first_row_item) / items;
    HeadState& state = table.states[p.first_head + h];
    if (policy_of(table, h).kind != PlanPolicy::kOfficial ||
        state.pattern != Pattern::kQueryAware) {
      continue;
    }
    const PlanShape s = shape_of(p);
    const int32_t first = (n - p.first_row_item) % items * kRows;
    const EntryItem item{p, s, state, h, first, min(kRows, s.q_blocks - first)};
    const float inverse_sqrt = 1.0f / sqrtf(static_cast<float>(p.head_dim));
    for (int32_t r = warp; r < item.rows; r += kRowThreads / 32) {
      const int64_t begin = int64_t{first + r} * kBlock;
      const int64_t tokens = plan_min(kBlock, s.q_len - begin);
      warp_mean_rows<8>(
          static_cast<int32_t>(tokens), p.head_dim, p.q_aligned, p.is_f16,
          [&](int32_t t) { return query_row(p, begin + t, h); },
          [](float value) { return as_bf16(value); }, queries + r, kRows);
      __syncwarp();
      WarpTeam{}.for_each(p.head_dim, [&](int32_t c) {
        float& q = queries[c * kRows + r];
        q = official_query(q, tokens, inverse_sqrt);
      });
    }
    __syncthreads();
    const float* const k_mean =
        p.official_k_mean + int64_t{plan_kv_head(p, h)} * p.head_dim * p.k_blocks;
    for (int32_t j = static_cast<int32_t>(threadIdx.x); j < first + item.rows; j += kRowThreads) {
      float dot[kRows] = {};
#pragma unroll 4
      for (int32_t c = 0; c < p.head_dim; ++c) {
        const float k = as_bf16(k_mean[int64_t{c} * p.k_blocks + j]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) dot[r] = fmaf(queries[c * kRows + r], k, dot[r]);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) weights[r * max_k_blocks + j] = as_bf16(dot[r]);
    }
    __syncthreads();
    for (int32_t r = warp; r < item.rows; r += kRowThreads / 32) {
      const WarpTeam team;
      float* const row = weights + r * max_k_blocks;
      const int32_t entries = first + r + 1;
      const Maximum top = team.sum(entries, [&](int32_t j) { return Maximum{row[j]}; });
      const bool ranks = softmax(team, row, entries, top.value);
      visit(item, first + r, row, entries, ranks);
    }
    __syncthreads();
    end(item);
  }
}

__device__ __forceinline__ uint32_t score_bits(float weight) { return score_key(weight) - 1; }

// Adds every entry whose leading bits are those of the cut to the bin of the next ten.
template <int kRows>
__global__ void __launch_bounds__(kRowThreads, 2)
    count_entries(const PlanTable* table, int32_t num_items, int32_t max_k_blocks, int32_t level) {
  extern __shared__ float weights[];
  // Count, and mass in two parts that do not overflow: 2^16 low parts of 16 bits, 16 rows of 24.
  __shared__ uint32_t counts[kBins], low[kBins], high[kBins];
  const CtaTeam team{nullptr};
  const auto clear = [&] {
    team.for_each(kBins, [&](int32_t bin) { counts[bin] = low[bin] = high[bin] = 0; });
  };
  clear();
  const int32_t shift = 10 * (kLevels - 1 - level);
  for_each_row<kRows>(
      *table, num_items, max_k_blocks, weights,
      [&](const EntryItem& item, int32_t, const float* row, int32_t n, bool ranks) {
        if (!ranks) {
          atomicOr(&item.state.unranked, 1);
          return;
        }
        const uint32_t prefix = item.state.cut_bits;
        WarpTeam{}.for_each(n, [&](int32_t j) {
          const uint32_t bits = score_bits(row[j]);
          if (level > 0 && (bits >> (shift + 10)) != prefix) return;
          const uint32_t bin = (bits >> shift) % kBins;
          const uint64_t mass = mass_of_key(bits + 1);
          atomicAdd(&counts[bin], 1);
          atomicAdd(&low[bin], static_cast<uint32_t>(mass & 0xffff));
          atomicAdd(&high[bin], static_cast<uint32_t>(mass >> 16));
        });
      },
      [&](const EntryItem& item) {
        unsigned long long* const histogram = item.p.histogram + int64_t{item.h} * 2 * kBins;
        team.for_each(kBins, [&](int32_t bin) {
          if (counts[bin] == 0) return;
          atomicAdd(&histogram[bin], counts[bin]);
          atomicAdd(&histogram[kBins + bin],
                    (static_cast<unsigned long long>(high[bin]) << 16) + low[bin]);
        });
        clear();
      });
}

// Grid (heads), one thread: follows the bins from the top to the one in which the running sum
// passes the target. That entry is dropped, as the official code does.
__global__ void find_bin(const PlanTable* table, int32_t level) {
  const auto n = static_cast<int32_t>(blockIdx.x);
  const PlanProblem p = find_problem(*table, &PlanProblem::first_head, n);
  const int32_t h = n - p.first_head;
  const PlanPolicy& policy = policy_of(*table, h);
  HeadState& state = table->states[n];
  if (policy.kind != PlanPolicy::kOfficial || state.pattern != Pattern::kQueryAware) return;
  unsigned long long* const histogram = p.histogram + int64_t{h} * 2 * kBins;
  __shared__ unsigned long long counts[kBins], masses[kBins];
  for (int32_t bin = static_cast<int32_t>(threadIdx.x); bin < kBins; bin += blockDim.x) {
    counts[bin] = histogram[bin];
    masses[bin] = histogram[kBins + bin];
    histogram[bin] = histogram[kBins + bin] = 0;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  const PlanShape s = shape_of(p);
  const double target = static_cast<double>(policy.gamma) * s.visible_blocks * kMassUnits;
  unsigned long long above = state.cut_mass;
  int32_t bin = kBins - 1;
  while (bin > 0 && static_cast<double>(above + masses[bin]) <= target) above += masses[bin--];
  state.cut_mass = above;
  state.cut_bits = state.cut_bits << 10 | static_cast<uint32_t>(bin);
  if (level < kLevels - 1) return;
  // Equal entries: as many as still fit.
  const double mass = static_cast<double>(mass_of_key(state.cut_bits + 1));
  const double fit = mass > 0 ? floor((target - static_cast<double>(above)) / mass)
                              : static_cast<double>(counts[bin]);
  state.cut_entries = static_cast<unsigned long long>(fit < 0 ? 0 : fit);
}

// Per row, the entries equal to the cut.
template <int kRows>
__global__ void __launch_bounds__(kRowThreads, 2)
    count_ties(const PlanTable* table, int32_t num_items, int32_t max_k_blocks) {
  extern __shared__ float weights[];
  for_each_row<kRows>(
      *table, num_items, max_k_blocks, weights,
      [&](const EntryItem& item, int32_t i, const float* row, int32_t n, bool) {
        const uint32_t ties = WarpTeam{}.sum(n, [&](int32_t j) {
          return score_bits(row[j]) == item.state.cut_bits ? uint32_t{1} : uint32_t{0};
        });
        if (threadIdx.x % 32 == 0) item.p.row_ties[int64_t{item.h} * item.p.q_blocks + i] = ties;
      },
      [](const EntryItem&) {});
}

// Adds the entries to the rows, which hold the lines.
template <int kRows>
__global__ void __launch_bounds__(kRowThreads, 2)
    add_entries(const PlanTable* table, int32_t num_items, int32_t max_k_blocks) {
  extern __shared__ float weights[];
  for_each_row<kRows>(
      *table, num_items, max_k_blocks, weights,
      [&](const EntryItem& item, int32_t i, const float* row, int32_t n, bool) {
        if (item.state.unranked != 0) return;
        const auto lane = static_cast<int32_t>(threadIdx.x % 32);
        const uint32_t* const row_ties = item.p.row_ties + int64_t{item.h} * item.p.q_blocks;
        unsigned long long before = WarpTeam{}.sum(
            i, [&](int32_t other) { return static_cast<unsigned long long>(row_ties[other]); });
        uint32_t added = 0;
        for (int32_t w = 0; 64 * w < n; ++w) {
          uint32_t halves[2];
#pragma unroll
          for (int32_t half = 0; half < 2; ++half) {
            const int32_t j = 64 * w + 32 * half + lane;
            const uint32_t bits = j < n ? score_bits(row[j]) : 0;
            const bool tie = j < n && bits == item.state.cut_bits;
            const uint32_t ties = __ballot_sync(kAllLanes, tie);
            const unsigned long long rank =
                before + static_cast<unsigned>(__popc(ties & ((1u << lane) - 1)));
            const bool keep =
                j < n && (bits > item.state.cut_bits || (tie && rank < item.state.cut_entries));
            halves[half] = __ballot_sync(kAllLanes, keep);
            before += static_cast<unsigned>(__popc(ties));
          }
          if (lane != 0) continue;
          uint64_t* const word = item.p.row(item.h, i) + w;
          const uint64_t entries = uint64_t{halves[1]} << 32 | halves[0];
          added += static_cast<uint32_t>(__popcll(entries & ~*word));
          *word |= entries;
        }
        if (lane == 0 && added > 0) atomicAdd(&item.state.kept_blocks, added);
      },
      [](const EntryItem&) {});
}

template <typename... Parameters, typename... Arguments>
void launch_on_rows(const char* name, void (*kernel)(Parameters...), int32_t rows,
                    const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream,
                    Arguments... arguments) {
  const size_t bytes =
      sizeof(float) * static_cast<size_t>(rows) * (static_cast<size_t>(sizes.max_k_blocks) + 256);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  launch(name, kernel,
         {.grid = static_cast<unsigned>(std::min(sizes.row_items, kSms * 8)),
          .block = kRowThreads,
          .shared_bytes = bytes,
          .stream = stream},
         table, sizes.row_items, sizes.max_k_blocks, arguments...);
}

template <int kRows>
void launch_entries(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  for (int32_t level = 0; level < kLevels; ++level) {
    launch_on_rows("count_entries", count_entries<kRows>, kRows, table, sizes, stream, level);
    launch("find_bin", find_bin,
           {.grid = static_cast<unsigned>(sizes.heads), .block = 128, .stream = stream}, table,
           level);
  }
  launch_on_rows("count_ties", count_ties<kRows>, kRows, table, sizes, stream);
  launch_on_rows("add_entries", add_entries<kRows>, kRows, table, sizes, stream);
}

}  // namespace

void launch_decide_official(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  launch("decide_heads", decide_heads,
         {.grid = static_cast<unsigned>(sizes.heads), .block = kDecideThreads, .stream = stream},
         table);
}

void launch_entries_official(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  switch (sizes.rows_per_item) {
    case 16: return launch_entries<16>(table, sizes, stream);
    case 8: return launch_entries<8>(table, sizes, stream);
    case 6: return launch_entries<6>(table, sizes, stream);
    case 4: return launch_entries<4>(table, sizes, stream);
    default: return launch_entries<1>(table, sizes, stream);
  }
}

}  // namespace flexprefill::internal::cuda
