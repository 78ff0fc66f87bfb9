#pragma once

// Tile sizes and the shared memory of the attend kernels.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/attend_problem.cuh"
#include "cuda/tile.cuh"

namespace flexprefill::internal::cuda {

// A tile in shared memory: rows of a panel's channels, swizzled in groups of eight.
//   kByPanel   [panel][group][8 rows]: one copy of a tensor's box of kRowCount rows
//   kByGroup   [group][panel][8 rows]: copies of fewer rows, each with all panels, lie side by side
enum class TileOrder { kByPanel, kByGroup };

template <int kRowCount, int kHeadDim, TileOrder kOrder = TileOrder::kByPanel>
struct TileLayout {
  static constexpr int kPanel = kHeadDim % 64 == 0 ? 64 : 32;  // channels: rows of 128 or 64 bytes
  static constexpr int kPanels = kHeadDim / kPanel;
  static constexpr uint32_t kRowBytes = kPanel * 2;
  static constexpr uint32_t kBytes = kRowCount * kPanels * kRowBytes;
  // From one panel, and from one group, to the next.
  static constexpr bool kByPanel = kOrder == TileOrder::kByPanel;
  static constexpr uint32_t kPanelBytes = (kByPanel ? kRowCount : 8) * kRowBytes;
  static constexpr uint32_t kGroupBytes = (kByPanel ? 1 : kPanels) * 8 * kRowBytes;
};

// What a row's chunks of 16 bytes are exchanged by.
template <typename Layout>
__device__ constexpr uint32_t swizzle(int row) {
  return Layout::kPanel == 64 ? row & 7 : (row >> 1) & 3;
}

// Address of the 16 bytes from channel 8 * chunk on of a row.
template <typename Layout>
__device__ inline uint32_t chunk_address(uint32_t s_tile, int row, int chunk) {
  constexpr int kChunks = Layout::kPanel / 8;
  return s_tile + (chunk / kChunks) * Layout::kPanelBytes + (row / 8) * Layout::kGroupBytes +
         (row % 8) * Layout::kRowBytes + (((chunk % kChunks) ^ swizzle<Layout>(row)) << 4);
}

// What the scheduling warp announces about a tile.
struct TileWork {
  // For the loading warps.
  const AttendProblem* problem;
  TileId id;
  int32_t steps;  // key steps; -1: no more tiles
  // For the computing warps.
  void* g_out;   // row of query 0
  float* g_lse;  // of query 0, or null
  int64_t out_token_stride;
  int32_t first_row;  // query of the tile's first row; negative where the block begins before the
                      // queries
  int32_t q_len;
  int32_t diagonal;  // position of the first row, from the first key of the first step
  int32_t tail;      // kv_len, from the same key
  float scale_log2;
};

template <typename ElementType, int kQkHeadDim, int kOutHeadDim, KeyCopies kCopies>
struct AttendShape {
  using Element = ElementType;
  static constexpr int kHeadDim = kQkHeadDim, kVHeadDim = kOutHeadDim;
  static constexpr KeyCopies kKeyCopies = kCopies;
  static constexpr bool kGather = kKeyCopies == KeyCopies::kRows;
  static constexpr int kRows = 128;  // queries of a tile: two groups of 64
  // Keys of a step. Above a head dim of 128 (output), the sums of O and S no longer fit beside P.
  static constexpr int kKeys = kVHeadDim > 128 ? 64 : 128;
  static constexpr int kStepsPerBlock = 128 / kKeys;
  // Where registers are left for S beside two sets of P, most steps do without the maximum of S
  // (softmax.cuh).
  static constexpr bool kReusesMax = kVHeadDim < 128 || kHeadDim == 128;
  // Whether a step asks for the next K and V while it waits for its scores: the answer of a barrier
  // takes some 50 cycles, which show where products are short. Wide heads lose by the registers.
  static constexpr bool kAsksEarly = kHeadDim <= 64;

  using Q = TileLayout<kRows, kHeadDim>;
  static constexpr TileOrder kOrder =
      kKeyCopies == KeyCopies::kPages ? TileOrder::kByGroup : TileOrder::kByPanel;
  using K = TileLayout<kKeys, kHeadDim, kOrder>;
  using V = TileLayout<kKeys, kVHeadDim, kOrder>;

  static constexpr uint32_t kSharedLimit = 227 * 1024 - 2048;  // less barriers and alignment
  static constexpr int kQStages = kHeadDim > 128 ? 1 : 2;
  static constexpr int kVStages = std::min<int>(
      4, static_cast<int>((kSharedLimit - kQStages * Q::kBytes) / (K::kBytes + V::kBytes)));
  static constexpr int kKStages = std::min<int>(
      4,
      static_cast<int>((kSharedLimit - kQStages * Q::kBytes - kVStages * V::kBytes) / K::kBytes));
  static_assert(kKStages >= 2 && kVStages >= 2, "loads must overlap with products");

  static constexpr int kGroups = 2;  // of 4 warps that compute
  static constexpr int kComputeThreads = kGroups * 128;
  // One loads K, one V, so that neither waits for the other; or four load a quarter of both.
  static constexpr int kLoadWarps = kGather ? 4 : 2;
  static constexpr int kLoadArrivals = kGather ? 4 : 1;  // at k_full and v_full
  // A warp of its own finds the next tile, whose latencies would delay loads. Where four load,
  // the first does.
  static constexpr bool kHasScheduler = !kGather;
  static constexpr int kThreads = kComputeThreads + 128;
  // Registers are given to groups of four warps, of the 168 that 384 threads start with.
  static constexpr int kLoadRegisters = kReusesMax && kVHeadDim == 128 ? 56 : 72;
  static constexpr int kComputeRegisters =
      (168 * kThreads - 128 * kLoadRegisters) / kComputeThreads;

  static constexpr int kTileStages = 2;  // the tile that is computed, and the next
  // Steps whose K is not asked for yet when a tile is said to end: enough to find the next tile.
  // Tiles of no more steps do not say so: the scheduling warp does not wait for theirs, and the
  // barrier's phases have to be those that it waits for.
  static constexpr int kEndingSteps = 8;

  // Barriers are named by their event. "full": one arrival of each warp that writes, and the bytes
  // of the copy. "empty": one arrival of every warp that reads; of tile_empty one of every lane, as
  // compute-sanitizer's racecheck does not see that lanes wait for each other before. "ending": the
  // warp that loads K has kEndingSteps to go.
  struct Shared {
    alignas(1024) std::byte q[kQStages][Q::kBytes];  // O leaves through it as well
    alignas(1024) std::byte k[kKStages][K::kBytes];
    alignas(1024) std::byte v[kVStages][V::kBytes];
    // Of the rows that a loading warp gathers.
    alignas(16) uint64_t row_addresses[kLoadWarps][kGather ? kKeys / kLoadWarps : 1];
    TileWork work[kTileStages];
    Barrier tile_full[kTileStages], tile_empty[kTileStages];
    Barrier tile_ending;
    Barrier q_full[kQStages], q_empty[kQStages];
    Barrier k_full[kKStages], k_empty[kKStages];
    Barrier v_full[kVStages], v_empty[kVStages];
    Barrier v_tail_landed;  // the copy of a V tile that the loading warp completes with zeros
  };
  static constexpr size_t kSharedBytes = sizeof(Shared) + 1024;  // aligned by hand
  static_assert(kSharedBytes <= 227 * 1024);
};

}  // namespace flexprefill::internal::cuda
