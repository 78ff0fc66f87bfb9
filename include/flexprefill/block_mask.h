#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "flexprefill/export.h"
#include "flexprefill/tensor.h"

namespace flexprefill {

/// Edge of a block of the attention matrix, in tokens. The only supported size today.
inline constexpr int32_t kBlock = 128;

/// The only form of sparsity: bit j of row (h, i) says that query block i of head h reads key block
/// j.
///
/// Query blocks lie on the key grid: row i covers the absolute positions [128 I, 128 I + 128) with
/// I = first_q_block + i, clipped to the queries of the problem. So every row whose block I holds
/// keys has one diagonal block, j = I, the last it may read. attend() ignores bits of future
/// blocks, accepts masks without a diagonal, and gives empty rows output 0 and log-sum-exp -inf.
struct BlockMask {
  /// [heads, q_blocks, row_words()] on the device of the problem; null = every causal block.
  uint64_t* bits = nullptr;
  int32_t heads = 0;
  int32_t q_blocks = 0;
  int32_t k_blocks = 0;
  int32_t q_block = kBlock;
  int32_t k_block = kBlock;
  /// floor(q_start / 128): the absolute number of row 0. With lengths on the device that of the
  /// upper bounds; row 0 is then floor(q_start / 128) of the true lengths.
  int64_t first_q_block = 0;

  int32_t row_words() const { return (k_blocks + 63) / 64; }
  int64_t num_words() const { return static_cast<int64_t>(heads) * q_blocks * row_words(); }

  /// Key blocks that row i may read: those before the diagonal and the diagonal itself.
  int32_t causal_blocks(int32_t i) const {
    const int64_t visible = first_q_block + i + 1;
    return static_cast<int32_t>(visible < 0 ? 0 : visible > k_blocks ? k_blocks : visible);
  }

  uint64_t* row(int32_t h, int32_t i) const {
    return bits + (static_cast<int64_t>(h) * q_blocks + i) * row_words();
  }

  /// Whether row (h, i) reads block j; false for future blocks whatever the bits say.
  bool test(int32_t h, int32_t i, int32_t j) const {
    if (j < 0 || j >= causal_blocks(i)) return false;
    return bits == nullptr || ((row(h, i)[j / 64] >> (j % 64)) & 1) != 0;
  }

  /// Sets bit j of row (h, i). `bits` must not be null.
  void set(int32_t h, int32_t i, int32_t j) const { row(h, i)[j / 64] |= uint64_t{1} << (j % 64); }

  /// Calls visit(j) for every causal block that row (h, i) reads, in ascending order.
  template <typename Visit>
  void for_each_block(int32_t h, int32_t i, Visit visit) const {
    const int32_t end = causal_blocks(i);
    for (int32_t base = 0; base < end; base += 64) {
      uint64_t word = bits == nullptr ? ~uint64_t{0} : row(h, i)[base / 64];
      if (end - base < 64) word &= (uint64_t{1} << (end - base)) - 1;
      for (; word != 0; word &= word - 1) visit(base + std::countr_zero(word));
    }
  }
};

/// The grid of a problem: sizes and first_q_block filled in, bits null.
FLEXPREFILL_EXPORT BlockMask block_grid(const AttentionProblem& problem);

/// Number of causal blocks of one head: what Dense computes.
FLEXPREFILL_EXPORT int64_t causal_blocks(const BlockMask& mask);

/// Number of causal blocks that head h keeps.
FLEXPREFILL_EXPORT int64_t kept_blocks(const BlockMask& mask, int32_t h);

/// Fraction of the causal blocks computed, over all heads; 1 for an empty grid.
FLEXPREFILL_EXPORT double computed_share(const BlockMask& mask);

/// Sets every causal bit of head h and clears all others. Host masks only, like all that follows.
FLEXPREFILL_EXPORT void fill_causal(const BlockMask& mask, int32_t h);

/// target |= other. Both must have the same grid; throws Error otherwise.
FLEXPREFILL_EXPORT void merge(const BlockMask& target, const BlockMask& other);

/// One byte per block, [heads, q_blocks, k_blocks], 1 = computed: for files and pictures.
FLEXPREFILL_EXPORT std::vector<uint8_t> to_bytes(const BlockMask& mask);

}  // namespace flexprefill
