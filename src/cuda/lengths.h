#pragma once

// The lengths of a problem as the kernels of plan and attend see them, and the grid of query blocks
// that follows. Lengths may lie on the device (engines, graph replay): the views then hold upper
// bounds, and so do the sizes of the mask. Compiles without CUDA, as plan_table.h does.

#include <cstdint>

#include "flexprefill/block_mask.h"
#include "flexprefill/tensor.h"

#ifdef __CUDACC__
#define FLEXPREFILL_DEVICE_FN __host__ __device__ __forceinline__
#else
#define FLEXPREFILL_DEVICE_FN inline
#endif

namespace flexprefill::internal::cuda {

// What to resolve; plain data that kernels get.
struct LengthSource {
  int64_t q_tokens, kv_tokens;  // the views': upper bounds where a pointer below is set
  int64_t q_start;              // used where has_q_start
  const int32_t* q_len_device;  // or null
  const int32_t* kv_len_device;
  bool has_q_start;
};

inline LengthSource length_source(const AttentionProblem& problem) {
  return {problem.q.tokens,     kv_len(problem),       problem.q_start.value_or(0),
          problem.q_len_device, problem.kv_len_device, problem.q_start.has_value()};
}

struct Lengths {
  int64_t q_len, kv_len;
  int64_t q_start;        // position of the first query
  int64_t first_q_block;  // floor(q_start / 128): absolute number of row 0 of the mask
  int32_t q_blocks;       // rows of the mask in use, at most BlockMask::q_blocks
  int32_t k_blocks;       // key blocks in use, at most BlockMask::k_blocks

  // Key blocks that row i may read.
  FLEXPREFILL_DEVICE_FN int32_t causal_blocks(int32_t i) const {
    const int64_t visible = first_q_block + i + 1;
    return static_cast<int32_t>(visible < 0 ? 0 : visible > k_blocks ? k_blocks : visible);
  }
};

// Where the lengths can be read. Where no q_start is given, the queries are the last tokens of the
// true kv_len. A length outside [0, upper bound] counts as the nearer end.
FLEXPREFILL_DEVICE_FN Lengths resolve(const LengthSource& s) {
  const int64_t q_len = s.q_len_device != nullptr ? *s.q_len_device : s.q_tokens;
  const int64_t kv_len = s.kv_len_device != nullptr ? *s.kv_len_device : s.kv_tokens;
  Lengths lengths;
  lengths.q_len = q_len < 0 ? 0 : q_len > s.q_tokens ? s.q_tokens : q_len;
  lengths.kv_len = kv_len < 0 ? 0 : kv_len > s.kv_tokens ? s.kv_tokens : kv_len;
  lengths.q_start = s.has_q_start ? s.q_start : lengths.kv_len - lengths.q_len;
  static_assert(kBlock == 128);
  lengths.first_q_block = lengths.q_start >> 7;  // floor, also of negative positions
  lengths.q_blocks = lengths.q_len == 0
                         ? 0
                         : static_cast<int32_t>(((lengths.q_start + lengths.q_len - 1) >> 7) -
                                                lengths.first_q_block + 1);
  lengths.k_blocks = static_cast<int32_t>((lengths.kv_len + kBlock - 1) >> 7);
  return lengths;
}

// The lowest `count` bits of a word; all for 64 and more. count > 0.
FLEXPREFILL_DEVICE_FN uint64_t lowest_bits(uint64_t word, int32_t count) {
  return count >= 64 ? word : word & ((uint64_t{1} << count) - 1);
}

// A mask as kernels see it. Its sizes are upper bounds where lengths lie on the device.
struct DeviceMask {
  uint64_t* bits;  // [heads, q_blocks, row_words], or null: every causal block
  int32_t q_blocks, row_words;

  FLEXPREFILL_DEVICE_FN uint64_t* row(int32_t h, int32_t i) const {
    return bits + (int64_t{h} * q_blocks + i) * row_words;
  }
};

inline DeviceMask device_mask(const BlockMask& mask) {
  return {mask.bits, mask.q_blocks, mask.row_words()};
}

}  // namespace flexprefill::internal::cuda
