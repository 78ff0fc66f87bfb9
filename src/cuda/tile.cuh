#pragma once

// Thin wrappers of the PTX around a tile: barriers in shared memory, the bulk copy engine (TMA),
// roles of warps, and conversions. wgmma.cuh has the matrix products; nothing else has PTX.

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstdint>

namespace flexprefill::internal::cuda {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- mbarrier: an event that happens once per phase, when all arrivals and bytes are in ----

struct Barrier {
  uint64_t state;
};

__device__ inline void init(Barrier& barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(arrivals)
               : "memory");
}
// Makes initialised barriers visible to the copy engine.
__device__ inline void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void arrive(uint32_t s_barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(s_barrier) : "memory");
}
__device__ inline void arrive(Barrier& barrier) { arrive(shared_address(&barrier)); }
__device__ inline void arrive_expecting(Barrier& barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
      "r"(bytes)
      : "memory");
}
__device__ inline bool has_passed(Barrier& barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;"
      " selp.u32 %0, 1, 0, p; }"
      : "=r"(passed)
      : "r"(shared_address(&barrier)), "r"(parity)
      : "memory");
  return passed != 0;
}
// The same without any patience: for an answer that is used later.
__device__ inline bool has_passed_already(Barrier& barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;"
      " selp.u32 %0, 1, 0, p; }"
      : "=r"(passed)
      : "r"(shared_address(&barrier)), "r"(parity)
      : "memory");
  return passed != 0;
}
// Waits for the end of the phase with this parity: 0, 1, 0, ...
__device__ inline void wait(Barrier& barrier, uint32_t parity) {
  while (!has_passed(barrier, parity)) {
  }
}

// Where a role is in a ring of buffers: the stage, and the parity of its barriers' phase.
template <int kStages>
class Ring {
 public:
  __device__ uint32_t stage() const { return stage_; }
  __device__ uint32_t full_parity() const { return parity_; }
  // The first pass over a ring finds it empty.
  __device__ uint32_t empty_parity() const { return parity_ ^ 1; }
  __device__ void advance() {
    if (++stage_ == kStages) {
      stage_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  uint32_t stage_ = 0, parity_ = 0;
};

// The same in one register, where the number of stages is a power of two.
template <int kStages>
requires(std::has_single_bit(unsigned{kStages})) class Ring<kStages> {
 public:
  __device__ uint32_t stage() const { return count_ % kStages; }
  __device__ uint32_t previous_stage() const { return (count_ - 1) % kStages; }
  __device__ uint32_t full_parity() const { return count_ / kStages % 2; }
  __device__ uint32_t empty_parity() const { return full_parity() ^ 1; }
  __device__ void advance() { ++count_; }

 private:
  uint32_t count_ = 0;
};

// The place after this one.
template <int kStages>
__device__ inline Ring<kStages> after(Ring<kStages> ring) {
  ring.advance();
  return ring;
}

// ---- TMA ----

constexpr uint64_t kEvictFirst = 0x12f0000000000000;  // L2: used once
constexpr uint64_t kEvictLast = 0x14f0000000000000;   // L2: other thread blocks read it too

// Before the first use of a map that lies in global memory, by the thread that uses it.
__device__ inline void acquire_map(const CUtensorMap* map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}
// After writing maps to global memory.
__device__ inline void release_maps() {
  asm volatile("fence.proxy.tensormap::generic.release.gpu;" ::: "memory");
}

// Of the first element, in the dimensions of the map; the first is the channel.
struct BoxStart {
  int32_t at[5];
};

// Copies a box to shared memory; its bytes count at the barrier. Out of bounds reads as zero.
__device__ inline void load_box(uint32_t s_to, const CUtensorMap* map, Barrier& barrier,
                                BoxStart start, uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(s_to),
      "l"(map), "r"(shared_address(&barrier)), "r"(start.at[0]), "r"(start.at[1]), "r"(start.at[2]),
      "r"(start.at[3]), "r"(start.at[4]), "l"(hint)
      : "memory");
}

// ---- asynchronous copies of 16 bytes ----

// Zeros where `exists` is false; `from` is then not read.
__device__ inline void copy_chunk(uint32_t s_to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(s_to), "l"(from),
               "r"(exists ? 16 : 0)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kGroups committed groups of this thread are unfinished.
template <int kGroups>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// Orders this thread's ordinary accesses to shared memory before those of TMA and wgmma that follow
// a barrier.
__device__ inline void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- roles ----

template <int kRegisters>
__device__ inline void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
__device__ inline void named_barrier_sync(uint32_t id, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void named_barrier_arrive(uint32_t id, uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- numbers ----

template <typename Element>
__device__ uint32_t pack(float low, float high);
template <>
__device__ inline uint32_t pack<__nv_bfloat16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
template <>
__device__ inline uint32_t pack<__half>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- shared memory ----

// Four 8 x 8 matrices of 16-bit elements in the layout of wgmma's sums; lane n gives the address of
// row n % 8 of matrix n / 8.
__device__ inline void store_matrices(uint32_t s_to, uint32_t a, uint32_t b, uint32_t c,
                                      uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(s_to),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}
__device__ inline uint4 load_shared(uint32_t s_from) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(s_from)
               : "memory");
  return x;
}
__device__ inline void store_shared(uint32_t s_to, uint4 x) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(s_to), "r"(x.x), "r"(x.y), "r"(x.z),
               "r"(x.w)
               : "memory");
}

}  // namespace flexprefill::internal::cuda
