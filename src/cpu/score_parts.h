#pragma once

// What both rules' scores are made of (score_coverage.cc, score_official.cc): the part of plan()
// that reads keys, one head's probe rows against all keys they see. As in attend.cc lanes are
// queries, so the softmax statistics of a row never cross lanes. In the namespace of the
// instruction set.

#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {

void mean_of_tokens(const TokenRows& tokens, int64_t count, int32_t columns, bool round,
                    float* mean);

// Score of a key that a row must not see; finite, so that no NaN comes from inf - inf.
inline constexpr float kMasked = -3.0e38f;

// kOfficial keeps the probabilities of a block as [128 keys, kSkewStride], kSkewPad zeros on both
// sides of the 128 rows: reading with stride kSkewStride + 1 walks along a diagonal, that is a
// distance.
inline constexpr int kSkewPad = 16;
inline constexpr int kSkewStride = kTile + 2 * kSkewPad;

template <typename Product>
struct ScoreScratch {
  using Unit = typename Product::Unit;
  int units, stride;
  Unit* k;       // [128, stride]
  Unit* q;       // strips of [units, lanes]
  float* s;      // [128, kSkewStride]; kCoverage: [128, lanes] of the strip at hand
  float* limit;  // [128] keys of the block at hand that a row sees; <= 0: none
  float* split;  // [128] keys of any block that are at the row's own offset or before it
  float* max;    // [128]
  float* sum;    // [128]
  size_t bytes;

  ScoreScratch(void* memory, int head_dim) {
    units = (head_dim + Product::kDepth - 1) / Product::kDepth;
    stride = tile_stride(units);
    Carver carver(memory);
    k = carver.take<Unit>(int64_t{kTile} * stride);
    q = carver.take<Unit>(int64_t{kTile} * units);
    s = carver.take<float>(int64_t{kTile} * kSkewStride);
    limit = carver.take<float>(kTile);
    split = carver.take<float>(kTile);
    max = carver.take<float>(kTile);
    sum = carver.take<float>(kTile);
    bytes = carver.bytes();
  }
};

// Sets limit for the block at first_key; true when some row does not see all of the block's 128
// keys.
FLEXPREFILL_INLINE bool set_limits(const ScoreItem& item, int64_t first_key, float* limit) {
  const int64_t keys = min_int64(kTile, item.keys - first_key);
  for (int r = 0; r < kTile; ++r) {
    const int64_t seen = min_int64(keys, item.first_position + r + 1 - first_key);
    limit[r] = static_cast<float>(seen < 0 ? 0 : seen);
  }
  return limit[0] < kTile || keys < kTile;
}

FLEXPREFILL_INLINE TokenRows keys_from(const ScoreItem& item, int64_t first_key) {
  const int bytes = item.k.dtype == DType::kF32 ? 4 : 2;
  return {row_of(item.k, first_key, bytes), item.k.dtype, item.k.stride};
}

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
