#pragma once

// The order in which a problem's tiles are taken: most key blocks first, so that the last tiles,
// which leave multiprocessors idle, are short. No result depends on it.

#include <cub/block/block_scan.cuh>

#include "cuda/attend_problem.cuh"

namespace flexprefill::internal::cuda {

class TileSorter {
 public:
  static constexpr int kThreads = 1024;

  // By all threads of the block, once the problem's lengths are known. `g_order` is [tiles of the
  // problem]; its entries count from the call's first tile.
  __device__ void write(const AttendProblem& problem, const Lengths& lengths, int32_t* g_order) {
    const int32_t tiles = problem.tiles();
    const int32_t section_tiles = problem.group * problem.tile_blocks * problem.section;
    // Sections stay apart: a range of bins for each.
    const int32_t bins = kBins / ((tiles + section_tiles - 1) / section_tiles);
    // The first bin has the longest lists.
    const float bins_per_block =
        static_cast<float>(bins - 1) /
        static_cast<float>(max(lengths.causal_blocks(max(lengths.q_blocks, 1) - 1), 1));
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) starts_[bin] = 0;
    __syncthreads();
    int32_t my_bin[kTilesPerThread];
#pragma unroll
    for (int m = 0; m < kTilesPerThread; ++m) {
      const int32_t n = m * kThreads + static_cast<int32_t>(threadIdx.x);
      if (n >= tiles) break;
      const int32_t blocks = blocks_of_tile(problem, lengths, n);
      my_bin[m] = n / section_tiles * bins + bins - 1 -
                  static_cast<int32_t>(static_cast<float>(blocks) * bins_per_block);
      atomicAdd(&starts_[my_bin[m]], 1);
    }
    __syncthreads();
    start_bins();
#pragma unroll
    for (int m = 0; m < kTilesPerThread; ++m) {
      const int32_t n = m * kThreads + static_cast<int32_t>(threadIdx.x);
      if (n >= tiles) break;
      g_order[atomicAdd(&starts_[my_bin[m]], 1)] = problem.first_tile + n;
    }
  }

 private:
  static constexpr int kTilesPerThread = kMaxSortedTiles / kThreads;
  static constexpr int kBins = 4096, kBinsPerThread = kBins / kThreads;
  using Scan = cub::BlockScan<int32_t, kThreads>;

  __device__ static int32_t blocks_of_tile(const AttendProblem& problem, const Lengths& lengths,
                                           int32_t n) {
    const TileId id = tile_in_problem(problem, n);
    if (id.i >= lengths.q_blocks) return 0;
    const int32_t end = lengths.causal_blocks(id.i);
    const uint64_t* const row = problem.mask.row(id.h, id.i);
    int32_t blocks = 0;
#pragma unroll 4
    for (int32_t word = 0; word < end / 64; ++word) blocks += __popcll(row[word]);
    if (end % 64 != 0) blocks += __popcll(row[end / 64] & ((uint64_t{1} << end % 64) - 1));
    return blocks;
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
