#pragma once

// Tile sizes and the shared memory of the attend kernels.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda/tile.cuh"

namespace flexprefill::internal::cuda {

// A tile in shared memory as TMA writes it: [panel][row][channels of a panel], rows swizzled.
template <int kRowCount, int kHeadDim>
struct TileLayout {
  static constexpr int kPanel = kHeadDim % 64 == 0 ? 64 : 32;  // channels: rows of 128 or 64 bytes
  static constexpr int kPanels = kHeadDim / kPanel;
  static constexpr uint32_t kRowBytes = kPanel * 2;
  static constexpr uint32_t kPanelBytes = kRowCount * kRowBytes;
  static constexpr uint32_t kBytes = kPanels * kPanelBytes;
};

// Address of the 16 bytes from channel 8 * chunk on of a row.
template <typename Layout>
__device__ inline uint32_t chunk_address(uint32_t s_tile, int row, int chunk) {
  constexpr int kChunks = Layout::kPanel / 8;
  const int swizzle = Layout::kPanel == 64 ? row & 7 : (row >> 1) & 3;
  return s_tile + (chunk / kChunks) * Layout::kPanelBytes + row * Layout::kRowBytes +
         (((chunk % kChunks) ^ swizzle) << 4);
}

// What the loading warp tells the computing warps about a tile.
struct TileWork {
  void* g_out;   // row of query 0
  float* g_lse;  // of query 0, or null
  int64_t out_token_stride;
  int32_t steps;      // key steps; -1: no more tiles
  int32_t first_row;  // query of the tile's first row; negative where the block begins before the
                      // queries
  int32_t q_len;
  int32_t diagonal;  // position of the first row, from the first key of the first step
  int32_t tail;      // kv_len, from the same key
  float scale_log2;
};

template <typename ElementType, int kQkHeadDim, int kOutHeadDim, bool kSmallPages>
struct AttendShape {
  using Element = ElementType;
  static constexpr int kHeadDim = kQkHeadDim, kVHeadDim = kOutHeadDim;
  // K and V come from pages that do not hold whole tiles.
  static constexpr bool kGather = kSmallPages;
  static constexpr int kRows = 128;  // queries of a tile: two groups of 64
  // Keys of a step. Above a head dim of 128 (output), the sums of O and S no longer fit beside P.
  static constexpr int kKeys = kVHeadDim > 128 ? 64 : 128;
  static constexpr int kStepsPerBlock = 128 / kKeys;
  // The two groups take turns with the tensor cores, so that one's softmax hides behind the other's
  // products. Narrow heads have more softmax than products, and lose by waiting for their turn.
  static constexpr bool kTakeTurns = kHeadDim > 64;
  // A vote is cheaper than the multiplications of a wide O, and saves power; of a narrow O it is
  // not.
  static constexpr bool kLazyRescale = kHeadDim > 64;

  using Q = TileLayout<kRows, kHeadDim>;
  using K = TileLayout<kKeys, kHeadDim>;
  using V = TileLayout<kKeys, kVHeadDim>;

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
  static constexpr int kThreads = kComputeThreads + 128;  // one more group, of which one warp loads
  // Arrivals at k_full and v_full: one per loading warp.
  static constexpr int kLoadWarps = kGather ? 4 : 1;
  // The launch gives 168 registers to each of 384 threads. Computing needs 190 at a head dim of 128
  // and 202 at 256.
  static constexpr int kLoadRegisters = kGather ? 88 : 72;
  static constexpr int kComputeRegisters = kGather ? 208 : 216;

  // Barriers are named by their event. "full": one arrival of each loading
  // warp, and the bytes of the copy. "empty": one
  // arrival of every computing warp.
  struct Shared {
    alignas(1024) std::byte q[kQStages][Q::kBytes];  // O leaves through it as well
    alignas(1024) std::byte k[kKStages][K::kBytes];
    alignas(1024) std::byte v[kVStages][V::kBytes];
    TileWork work[kQStages];
    Barrier q_full[kQStages], q_empty[kQStages];
    Barrier k_full[kKStages], k_empty[kKStages];
    Barrier v_full[kVStages], v_empty[kVStages];
    int32_t taken[2];       // tile numbers on their way to all loading warps
    Barrier v_tail_landed;  // the copy of a V tile that the loading warp completes with zeros
  };
  static constexpr size_t kSharedBytes = sizeof(Shared) + 1024;  // aligned by hand
  static_assert(kSharedBytes <= 227 * 1024);
};

}  // namespace flexprefill::internal::cuda
