#pragma once

// Tiles of 128 tokens in shared memory as wgmma wants them: panels of 64 channels, rows of 128
// bytes in the 128-byte swizzle; and their products. The plan kernels load with cp.async instead of
// TMA, as any page size, stride and row address is then the same code, and their time is not in the
// loads.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/plan_table.h"
#include "cuda/tile.cuh"
#include "cuda/wgmma.cuh"

namespace flexprefill::internal::cuda {

inline constexpr int kPairThreads = 256;            // two warpgroups of 64 probe rows each
inline constexpr uint32_t kPanelBytes = 128 * 128;  // 128 rows of 64 channels

__host__ __device__ constexpr int panels_of(int head_dim) { return (head_dim + 63) / 64; }
__host__ __device__ constexpr uint32_t tile_bytes(int head_dim) {
  return static_cast<uint32_t>(panels_of(head_dim)) * kPanelBytes;
}

// Where the 16 bytes of channels [8 c, 8 c + 8) of a row lie in a tile.
__device__ __forceinline__ uint32_t chunk_offset(int row, int c) {
  return static_cast<uint32_t>(c / 8) * kPanelBytes + static_cast<uint32_t>(row) * 128 +
         static_cast<uint32_t>(((c % 8) ^ (row % 8)) * 16);
}

// Starts s = 64 probe rows (at q) times 128 keys (at k): one group of wgmma.
template <typename T, int kHeadDim>
__device__ __forceinline__ void start_scores(float (&s)[64], uint32_t q, uint32_t k) {
  const uint64_t q_tile = matrix_descriptor<64>(q, 16), k_tile = matrix_descriptor<64>(k, 16);
  pin(s);
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const uint64_t at = static_cast<uint64_t>(step / 4) * (kPanelBytes >> 4) + (step % 4) * 2;
    Wgmma<T, 128>::template ss<0>(s, q_tile + at, k_tile + at, step > 0);
  }
  wgmma_commit();
}

// Address of key n of kv head g, in elements of 16 bits.
__device__ __forceinline__ const uint16_t* key_row(const PlanProblem& p, int64_t n, int32_t g) {
  const auto* const k = static_cast<const uint16_t*>(p.k) + g * p.k_head_stride;
  if (p.page_size == 0) return k + n * p.k_token_stride;
  const int64_t page = p.block_table[n / p.page_size];
  return k + page * p.page_stride + n % p.page_size * p.k_token_stride;
}

__device__ __forceinline__ const uint16_t* query_row(const PlanProblem& p, int64_t t, int32_t h) {
  return static_cast<const uint16_t*>(p.q) + t * p.q_token_stride + h * p.q_head_stride;
}

// Eight channels of a row from channel 8 c on; zeros past head_dim.
__device__ __forceinline__ void load_channels(const uint16_t* row, int c, int head_dim,
                                              bool aligned, uint16_t (&values)[8]) {
  if (aligned && 8 * c + 8 <= head_dim) {
    *reinterpret_cast<uint4*>(values) = *reinterpret_cast<const uint4*>(row + 8 * c);
    return;
  }
#pragma unroll
  for (int n = 0; n < 8; ++n) values[n] = 8 * c + n < head_dim ? row[8 * c + n] : 0;
}

// Loads rows [0, rows) of a tile, zeros elsewhere; row(r) is a row's address. By kThreads threads
// that start at a multiple of that. Asynchronous where the rows are aligned.
template <int kHeadDim, int kThreads, typename Row>
__device__ __forceinline__ void load_tile(uint32_t tile, int rows, int head_dim, bool aligned,
                                          const Row& row) {
  constexpr int kChunks = panels_of(kHeadDim) * 8;
  const bool whole = aligned && head_dim % 8 == 0;
#pragma unroll 1
  for (int n = static_cast<int>(threadIdx.x % kThreads); n < 128 * kChunks; n += kThreads) {
    const int r = n / kChunks, c = n % kChunks;
    const bool there = r < rows && 8 * c < head_dim;
    const uint16_t* const from = row(there ? r : 0);
    const uint32_t to = tile + chunk_offset(r, c);
    if (whole) {
      copy_chunk(to, there ? from + 8 * c : from, there);
    } else {
      alignas(16) uint16_t values[8] = {};
      if (there) load_channels(from, c, head_dim, aligned, values);
      store_shared(to, *reinterpret_cast<const uint4*>(values));
    }
  }
}

template <typename T>
__device__ __forceinline__ float2 to_float2(uint32_t pair) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
  } else {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
  }
}

// The same with every element converted: convert(float) gives a float that bf16 holds exactly.
template <int kHeadDim, int kThreads, typename Row, typename Convert>
__device__ __forceinline__ void load_tile_as_bf16(uint32_t tile, int rows, int head_dim,
                                                  bool aligned, bool is_f16, const Row& row,
                                                  const Convert& convert) {
  constexpr int kChunks = panels_of(kHeadDim) * 8;
#pragma unroll 2
  for (int n = static_cast<int>(threadIdx.x); n < 128 * kChunks; n += kThreads) {
    const int r = n / kChunks, c = n % kChunks;
    alignas(16) uint16_t values[8] = {};
    if (r < rows && 8 * c < head_dim) load_channels(row(r), c, head_dim, aligned, values);
    uint32_t pairs[4];
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      const uint32_t pair = values[2 * x] | static_cast<uint32_t>(values[2 * x + 1]) << 16;
      const float2 value = is_f16 ? to_float2<__half>(pair) : to_float2<__nv_bfloat16>(pair);
      pairs[x] = pack<__nv_bfloat16>(convert(value.x), convert(value.y));
    }
    store_shared(tile + chunk_offset(r, c), {pairs[0], pairs[1], pairs[2], pairs[3]});
  }
}

}  // namespace flexprefill::internal::cuda
