#pragma once

// Decodes a row of a block mask.

#include <cstdint>

#include "cuda/lanes.cuh"
#include "cuda/lengths.h"

namespace flexprefill::internal::cuda {

// The key blocks of a mask row in descending order. The lanes hold 32 words at a time.
class BlockList {
 public:
  // g_row may be null: every block below `end`.
  __device__ BlockList(const uint64_t* g_row, int32_t end, uint32_t lane)
      : g_row_(g_row), end_(end), lane_(lane), top_((end - 1) >> 6), word_(load(top_)) {}

  // How many blocks there are; before the first next().
  __device__ int32_t count() const {
    int32_t count = __popcll(word_);
    for (int32_t top = top_ - 32; top >= 0; top -= 32) count += __popcll(load(top));
    return static_cast<int32_t>(__reduce_add_sync(kAllLanes, static_cast<uint32_t>(count)));
  }

  // The next block; at most as often as there are blocks.
  __device__ int32_t next() {
    while (current_ == 0) {
      const uint32_t left = __ballot_sync(kAllLanes, word_ != 0);
      if (left == 0) {
        top_ -= 32;
        word_ = load(top_);
        continue;
      }
      const int source = __ffs(static_cast<int>(left)) - 1;
      current_ = __shfl_sync(kAllLanes, word_, source);
      current_index_ = top_ - source;
      if (static_cast<int>(lane_) == source) word_ = 0;
    }
    const int bit = 63 - __clzll(static_cast<long long>(current_));
    current_ ^= uint64_t{1} << bit;
    return current_index_ * 64 + bit;
  }

 private:
  // Word top - lane, without bits at or above end_; 0 below the row's first word.
  __device__ uint64_t load(int32_t top) const {
    const int32_t index = top - static_cast<int32_t>(lane_);
    if (index < 0) return 0;
    const uint64_t word = g_row_ == nullptr ? ~uint64_t{0} : g_row_[index];
    return lowest_bits(word, end_ - index * 64);
  }

  const uint64_t* g_row_;
  int32_t end_;
  uint32_t lane_;
  int32_t top_;  // index of lane 0's word
  uint64_t word_;
  uint64_t current_ = 0;  // what is left of the word being read, the same in all lanes
  int32_t current_index_ = 0;
};

}  // namespace flexprefill::internal::cuda
