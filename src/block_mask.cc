// Counting, filling, merging and exporting block masks, on the host.

#include "flexprefill/block_mask.h"

#include <algorithm>
#include <string>

#include "flexprefill/error.h"

namespace flexprefill {
namespace {

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

BlockMask block_grid(const AttentionProblem& problem) {
  BlockMask grid;
  const int64_t q_len = problem.q.tokens;
  const int64_t start = q_start(problem);
  grid.heads = problem.q.heads;
  grid.first_q_block = floor_div(start, kBlock);
  grid.q_blocks =
      q_len == 0
          ? 0
          : static_cast<int32_t>(floor_div(start + q_len - 1, kBlock) - grid.first_q_block + 1);
  const bool lengths_on_device =
      problem.q_len_device != nullptr || problem.kv_len_device != nullptr;
  if (lengths_on_device && !problem.q_start && q_len > 0) {
    // The first query may then lie anywhere in its block.
    grid.q_blocks = static_cast<int32_t>(ceil_div(q_len + kBlock - 1, kBlock));
  }
  grid.k_blocks = static_cast<int32_t>(ceil_div(kv_len(problem), kBlock));
  return grid;
}

int64_t causal_blocks(const BlockMask& mask) {
  int64_t count = 0;
  for (int32_t i = 0; i < mask.q_blocks; ++i) count += mask.causal_blocks(i);
  return count;
}

int64_t kept_blocks(const BlockMask& mask, int32_t h) {
  int64_t count = 0;
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    mask.for_each_block(h, i, [&](int32_t) { ++count; });
  }
  return count;
}

double computed_share(const BlockMask& mask) {
  if (mask.bits == nullptr) return 1.0;  // of any size: nothing bounds it but the bits' memory
  const int64_t causal = causal_blocks(mask) * mask.heads;
  if (causal == 0) return 1.0;
  int64_t kept = 0;
  for (int32_t h = 0; h < mask.heads; ++h) kept += kept_blocks(mask, h);
  return static_cast<double>(kept) / static_cast<double>(causal);
}

void fill_causal(const BlockMask& mask, int32_t h) {
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    uint64_t* words = mask.row(h, i);
    const int32_t end = mask.causal_blocks(i);
    for (int32_t w = 0; w < mask.row_words(); ++w) {
      const int32_t left = std::clamp(end - 64 * w, 0, 64);
      words[w] = left == 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
    }
  }
}

void merge(const BlockMask& target, const BlockMask& other) {
  const auto grid = [](const BlockMask& m) {
    return std::to_string(m.heads) + " heads, " + std::to_string(m.q_blocks) + " x " +
           std::to_string(m.k_blocks) + " blocks from row " + std::to_string(m.first_q_block);
  };
  if (grid(target) != grid(other)) {
    throw Error("merge: other = " + grid(other) + ", expected the grid of target, " + grid(target));
  }
  if (target.bits == nullptr) return;  // already every causal block
  for (int32_t h = 0; h < target.heads; ++h) {
    if (other.bits == nullptr) {
      fill_causal(target, h);
      continue;
    }
    const int64_t first = static_cast<int64_t>(h) * target.q_blocks * target.row_words();
    const int64_t count = static_cast<int64_t>(target.q_blocks) * target.row_words();
    for (int64_t w = first; w < first + count; ++w) target.bits[w] |= other.bits[w];
  }
}

std::vector<uint8_t> to_bytes(const BlockMask& mask) {
  std::vector<uint8_t> bytes(static_cast<size_t>(mask.heads) * static_cast<size_t>(mask.q_blocks) *
                             static_cast<size_t>(mask.k_blocks));
  size_t row = 0;
  for (int32_t h = 0; h < mask.heads; ++h) {
    for (int32_t i = 0; i < mask.q_blocks; ++i, ++row) {
      uint8_t* out = bytes.data() + row * static_cast<size_t>(mask.k_blocks);
      mask.for_each_block(h, i, [&](int32_t j) { out[j] = 1; });
    }
  }
  return bytes;
}

}  // namespace flexprefill
