#pragma once

// Tiles of 128 tokens in shared memory as wgmma wants them: panels of 64 channels, rows of 128 bytes
// in the 128-byte swizzle; and their products. The plan kernels load with cp.async instead of TMA, as
// any page size, stride and row address is then the same code, and their time is not in the loads.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "cuda/plan_table.h"

namespace flexprefill::internal::cuda {

inline constexpr int kProbeThreads = 256;           // two warpgroups of 64 probe rows each
inline constexpr uint32_t kPanelBytes = 128 * 128;  // 128 rows of 64 channels

__host__ __device__ constexpr int panels_of(int head_dim) { return (head_dim + 63) / 64; }
__host__ __device__ constexpr uint32_t tile_bytes(int head_dim) {
  return static_cast<uint32_t>(panels_of(head_dim)) * kPanelBytes;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Where the 16 bytes of channels [8 c, 8 c + 8) of a row lie in a tile.
__device__ __forceinline__ uint32_t chunk_offset(int row, int c) {
  return static_cast<uint32_t>(c / 8) * kPanelBytes + static_cast<uint32_t>(row) * 128 +
         static_cast<uint32_t>(((c % 8) ^ (row % 8)) * 16);
}

__device__ __forceinline__ void copy_async_16(uint32_t to, const void* from, bool there) {
  const int bytes = there ? 16 : 0;  // the rest is zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// Makes this thread's writes to shared memory visible to wgmma.
__device__ __forceinline__ void fence_for_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most kPending groups run; `s` is then safe to read.
template <int kPending>
__device__ __forceinline__ void wgmma_wait(float (&s)[64]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#pragma unroll
  for (float& value : s) asm volatile("" : "+f"(value)::"memory");
}
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// K-major operand with the 128-byte swizzle: groups of eight rows lie 1024 bytes apart.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | (uint64_t{1} << 16) |
         (uint64_t{1024 >> 4} << 32) | (uint64_t{1} << 62);
}

#define FLEXPREFILL_F8(x, o)                                                                 \
  "+f"(x[o]), "+f"(x[o + 1]), "+f"(x[o + 2]), "+f"(x[o + 3]), "+f"(x[o + 4]), "+f"(x[o + 5]), \
      "+f"(x[o + 6]), "+f"(x[o + 7])
#define FLEXPREFILL_WGMMA(TYPE)                                                                 \
  asm volatile(                                                                                 \
      "{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"                                                \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                              \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,"    \
      "%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,"    \
      "%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63},"       \
      " %64, %65, p, 1, 1, 0, 0; }"                                                             \
      : FLEXPREFILL_F8(s, 0), FLEXPREFILL_F8(s, 8), FLEXPREFILL_F8(s, 16),                      \
        FLEXPREFILL_F8(s, 24), FLEXPREFILL_F8(s, 32), FLEXPREFILL_F8(s, 40),                    \
        FLEXPREFILL_F8(s, 48), FLEXPREFILL_F8(s, 56)                                            \
      : "l"(q), "l"(k), "r"(accumulate))

template <typename T>
__device__ __forceinline__ void wgmma_64x128x16(float (&s)[64], uint64_t q, uint64_t k,
                                                int accumulate) {
  if constexpr (sizeof(T) == 2 && std::is_same_v<T, __half>) {
    FLEXPREFILL_WGMMA("f16");
  } else {
    FLEXPREFILL_WGMMA("bf16");
  }
}
#undef FLEXPREFILL_WGMMA
#undef FLEXPREFILL_F8

// Starts s = 64 probe rows (at q) times 128 keys (at k): one group of wgmma.
template <typename T, int kHeadDim>
__device__ __forceinline__ void start_scores(float (&s)[64], uint32_t q, uint32_t k) {
  const uint64_t q_tile = tile_descriptor(q), k_tile = tile_descriptor(k);
#pragma unroll
  for (float& value : s) asm volatile("" : "+f"(value)::"memory");
  wgmma_begin();
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    const uint64_t at = static_cast<uint64_t>(step / 4) * (kPanelBytes >> 4) + (step % 4) * 2;
    wgmma_64x128x16<T>(s, q_tile + at, k_tile + at, step > 0);
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

// Loads rows [0, rows) of a tile, zeros elsewhere; row(r) is a row's address. Asynchronous where the
// rows are aligned.
template <int kHeadDim, typename Row>
__device__ __forceinline__ void load_tile(uint32_t tile, int rows, int head_dim, bool aligned,
                                          const Row& row) {
  constexpr int kChunks = panels_of(kHeadDim) * 8;
  const bool whole = aligned && head_dim % 8 == 0;
#pragma unroll 4
  for (int n = static_cast<int>(threadIdx.x); n < 128 * kChunks; n += kProbeThreads) {
    const int r = n / kChunks, c = n % kChunks;
    const bool there = r < rows && 8 * c < head_dim;
    const uint16_t* const from = row(there ? r : 0);
    const uint32_t to = tile + chunk_offset(r, c);
    if (whole) {
      copy_async_16(to, there ? from + 8 * c : from, there);
    } else {
      alignas(16) uint16_t values[8] = {};
      if (there) load_channels(from, c, head_dim, aligned, values);
      const uint4 packed = *reinterpret_cast<const uint4*>(values);
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(packed.x),
                   "r"(packed.y), "r"(packed.z), "r"(packed.w)
                   : "memory");
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

}  // namespace flexprefill::internal::cuda
