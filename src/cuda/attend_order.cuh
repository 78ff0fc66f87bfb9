#pragma once

// The order in which a problem's tiles are taken: most key blocks first. So the last tiles, which
// leave multiprocessors idle, are short; and tiles that are computed at the same time are equally
// long and stay at the same keys, which the L2 then holds. Sections (attend_problem.cuh) stay
// apart, and so do runs of tiles: from run to run, query blocks descend. No result depends on it.

#include <cub/block/block_scan.cuh>

#include "cuda/attend_problem.cuh"

namespace flexprefill::internal::cuda {

// By one block of threads, a run of tiles at a time.
class TileSorter {
 public:
  static constexpr int kThreads = 1024;

  // Writes g_order of the run that begins with the problem's tile `first`: kSortedTiles, or those
  // that are left. Entries count from the call's first tile. `lengths`: the problem's, which
  // problem.lengths may not hold yet.
  __device__ void order(const AttendProblem& problem, const Lengths& lengths, int32_t first) {
    const int32_t end = first + min(kSortedTiles, problem.tiles() - first);
    if (problem.mask.bits != nullptr) {
      sort(problem, lengths, first, end);
    } else {  // nothing to sort by, but the call's order has to be complete
      for_each_tile(first, end,
                    [&](int, int32_t n) { problem.g_order[n] = problem.first_tile + n; });
    }
  }

 private:
  static constexpr int kTilesPerThread = kSortedTiles / kThreads;
  static constexpr int kBins = kSortedTiles, kBinsPerThread = kBins / kThreads;
  using Scan = cub::BlockScan<int32_t, kThreads>;

  __device__ void sort(const AttendProblem& problem, const Lengths& lengths, int32_t first,
                       int32_t end) {
    const int32_t section_tiles = problem.group * problem.tile_blocks * problem.section;
    // Sections stay apart: a range of bins for each, of at least one.
    const int32_t first_section = first / section_tiles;
    const int32_t bins = kBins / ((end - 1) / section_tiles - first_section + 1);
    // The first bin has the longest lists.
    const float bins_per_block =
        static_cast<float>(bins - 1) /
        static_cast<float>(max(lengths.causal_blocks(max(lengths.q_blocks, 1) - 1), 1));
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) starts_[bin] = 0;
    __syncthreads();
    int32_t blocks[kTilesPerThread], my_bin[kTilesPerThread];
    count_blocks(problem, lengths, first, end, blocks);
    for_each_tile(first, end, [&](int m, int32_t n) {
      my_bin[m] = (n / section_tiles - first_section) * bins + bins - 1 -
                  static_cast<int32_t>(static_cast<float>(blocks[m]) * bins_per_block);
      atomicAdd(&starts_[my_bin[m]], 1);
    });
    __syncthreads();
    start_bins();
    for_each_tile(first, end, [&](int m, int32_t n) {
      problem.g_order[first + atomicAdd(&starts_[my_bin[m]], 1)] = problem.first_tile + n;
    });
  }

  // visit(m, n) for this thread's tiles n in [first, end), of which n is the m-th. m is a constant
  // in each call, so that arrays of kTilesPerThread stay in registers.
  template <typename Visit>
  __device__ static void for_each_tile(int32_t first, int32_t end, const Visit& visit) {
#pragma unroll
    for (int m = 0; m < kTilesPerThread; ++m) {
      const int32_t n = first + m * kThreads + static_cast<int32_t>(threadIdx.x);
      if (n < end) visit(m, n);
    }
  }

  // How many blocks the rows of this thread's tiles have. The rows are read side by side: a tile
  // after the other, the latency of every read would show.
  __device__ static void count_blocks(const AttendProblem& problem, const Lengths& lengths,
                                      int32_t first, int32_t end,
                                      int32_t (&blocks)[kTilesPerThread]) {
    const uint64_t* rows[kTilesPerThread] = {};
    int32_t ends[kTilesPerThread] = {};  // key blocks that count
    int32_t longest = 0;
    for_each_tile(first, end, [&](int m, int32_t n) {
      const TileId id = tile_in_problem(problem, n);
      rows[m] = problem.mask.row(id.h, id.i);
      ends[m] = id.i < lengths.q_blocks ? lengths.causal_blocks(id.i) : 0;
      longest = max(longest, ends[m]);
    });
#pragma unroll
    for (int m = 0; m < kTilesPerThread; ++m) blocks[m] = 0;
#pragma unroll 4
    for (int32_t word = 0; word * 64 < longest; ++word) {
#pragma unroll
      for (int m = 0; m < kTilesPerThread; ++m) {
        const int32_t left = ends[m] - word * 64;
        if (left > 0) blocks[m] += __popcll(lowest_bits(rows[m][word], left));
      }
    }
  }

  // Numbers of tiles per bin become the places of their first ones.
  __device__ void start_bins() {
    int32_t counts[kBinsPerThread];
#pragma unroll
    for (int m = 0; m < kBinsPerThread; ++m) counts[m] = starts_[kBinsPerThread * threadIdx.x + m];
    Scan(scan_).ExclusiveSum(counts, counts);
#pragma unroll
    for (int m = 0; m < kBinsPerThread; ++m) starts_[kBinsPerThread * threadIdx.x + m] = counts[m];
    __syncthreads();
  }

  int32_t starts_[kBins];  // tiles per bin, then the place of the next one
  typename Scan::TempStorage scan_;
};

}  // namespace flexprefill::internal::cuda
