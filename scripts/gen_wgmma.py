#!/usr/bin/env python3
"""Writes src/cuda/wgmma.cuh: one wrapper per operand type and width of wgmma. Run it from the project's root."""

WIDTHS = (64, 96, 128, 192, 256)
TYPES = (("__nv_bfloat16", "bf16"), ("__half", "f16"))

HEAD = """#pragma once

// Written by scripts/gen_wgmma.py; change that. Wrappers of the warpgroup matrix products:
//
//   d[64, kWidth] (+)= a[64, 16] b[16, kWidth]     16-bit operands, fp32 sums
//
// a comes from shared memory (ss) or from registers (rs); b from shared memory, as rows of 16 k
// (K-major) or, transposed, as 16 rows of k (MN-major). keep = 0 overwrites d.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace flexprefill::internal::cuda {

// Shared-memory matrix descriptors. A tile is stored as TMA writes it: panels of kPanel elements,
// [panel][row][kPanel], rows of 128 bytes (128-byte swizzle) or 64 bytes (64-byte swizzle). The start
// is aligned to eight rows, or lies a multiple of 32 bytes behind such a place.
//   stride: from eight rows to the next eight;  lead: from one panel to the next (MN-major only).
template <int kPanel>
__device__ inline uint64_t matrix_descriptor(uint32_t address, uint32_t lead_bytes,
                                             uint32_t stride_bytes = 8 * kPanel * 2) {
  static_assert(kPanel == 64 || kPanel == 32);
  constexpr uint64_t kSwizzle = kPanel == 64 ? 1 : 2;
  return uint64_t{(address & 0x3ffff) >> 4} | (uint64_t{lead_bytes >> 4} << 16) |
         (uint64_t{stride_bytes >> 4} << 32) | (kSwizzle << 62);
}

// Orders the registers of a wgmma before it reads or adds to them.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most kGroups committed groups are unfinished.
template <int kGroups>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
// Keeps the compiler from moving uses of registers over the asynchronous products.
template <int kCount>
__device__ inline void pin(float (&r)[kCount]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) asm volatile("" : "+f"(r[n])::"memory");
}
template <int kCount>
__device__ inline void pin(uint32_t (&r)[kCount]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) asm volatile("" : "+r"(r[n])::"memory");
}

// clang-format off
template <typename Element, int kWidth>
struct Wgmma;
"""


def registers(count, first=0):
    return ",".join(f"%{n + first}" for n in range(count))


def wrapper(type_name, ptx, width):
    count = width // 2
    sums = ", ".join(f'"+f"(d[{n}])' for n in range(count))
    shape = f"wgmma.mma_async.sync.aligned.m64n{width}k16.f32.{ptx}.{ptx}"
    lines = [
        "template <>",
        f"struct Wgmma<{type_name}, {width}> {{",
        "  template <int kTransposed>",
        f"  static __device__ __forceinline__ void ss(float (&d)[{count}], uint64_t a, uint64_t b, int keep) {{",
        f'    asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{count + 2}, 0; {shape} {{{registers(count)}}},'
        f' %{count}, %{count + 1}, p, 1, 1, 0, %{count + 3}; }}"',
        f'      : {sums} : "l"(a), "l"(b), "r"(keep), "n"(kTransposed));',
        "  }",
        "  template <int kTransposed>",
        f"  static __device__ __forceinline__ void rs(float (&d)[{count}], const uint32_t* a, uint64_t b, int keep) {{",
        f'    asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{count + 5}, 0; {shape} {{{registers(count)}}},'
        f' {{{registers(4, count)}}}, %{count + 4}, p, 1, 1, %{count + 6}; }}"',
        f'      : {sums} : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(kTransposed));',
        "  }",
        "};",
    ]
    return "\n".join(lines) + "\n"


def main():
    body = "".join(wrapper(name, ptx, width) for name, ptx in TYPES for width in WIDTHS)
    with open("src/cuda/wgmma.cuh", "w", encoding="ascii") as file:
        file.write(HEAD + body + "// clang-format on\n\n}  // namespace flexprefill::internal::cuda\n")


if __name__ == "__main__":
    main()
