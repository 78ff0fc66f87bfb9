#pragma once

// Scratch memory per thread, and views of one head of a problem.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "cpu/kernels.h"
#include "flexprefill/tensor.h"

namespace flexprefill::internal {

inline constexpr size_t kScratchAlign = 64;  // a cache line, and a vector of AVX-512

constexpr size_t align_scratch(size_t bytes) {
  return (bytes + kScratchAlign - 1) / kScratchAlign * kScratchAlign;
}

// The part of a span that starts at an aligned address.
inline std::span<std::byte> aligned_part(std::span<std::byte> memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  return memory.subspan(std::min(memory.size(), align_scratch(address) - address));
}

// Equal parts of scratch, one per thread.
struct PerThread {
  std::byte* data;
  size_t bytes;
  int threads;

  std::span<std::byte> of(int thread) const {
    return {data + bytes * static_cast<size_t>(thread), bytes};
  }
};

// Splits aligned memory for as many of `threads` as it holds: OpenMP's default may have grown since
// the caller asked for the size.
inline PerThread split_scratch(std::span<std::byte> memory, size_t bytes, int threads) {
  const size_t part = align_scratch(bytes);
  const size_t fit = part == 0 ? static_cast<size_t>(threads) : memory.size() / part;
  return {memory.data(), part,
          static_cast<int>(std::min<size_t>(fit, static_cast<size_t>(threads)))};
}

// Head h of a view from token t on.
inline TokenRows rows_of(const HeadView& view, int64_t h, int64_t t) {
  const int64_t offset = t * view.token_stride + h * view.head_stride;
  return {static_cast<const char*>(view.data) + offset * dtype_bytes(view.dtype), view.dtype,
          view.token_stride};
}

inline float softmax_scale_of(const AttentionProblem& problem) {
  return problem.softmax_scale.value_or(1.0f /
                                        std::sqrt(static_cast<float>(problem.kv.k.head_dim)));
}

// For exponentials of base 2. Infinity times a score of 0 would be NaN.
inline float scale_log2_of(const AttentionProblem& problem) {
  return std::min(softmax_scale_of(problem) * kLog2E, std::numeric_limits<float>::max());
}

}  // namespace flexprefill::internal
