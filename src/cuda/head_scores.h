#pragma once

// One head's scores in scratch, and what the steps of plan() share: row masses, sums per block and
// bucket, words of the mask. Team code (team.h); the formulas and their reasons are in
// docs/algorithm.md and src/select_coverage.cc.

#include <cmath>
#include <cstdint>

#include "cuda/cut.h"

namespace flexprefill::internal::cuda {

// The slices of a problem's scratch that belong to head h.
struct HeadScores {
  float* stats;         // [stat_blocks, kStatPlanes, 128]
  float* row_stats;     // [2, 128] maximum in log2 units, 1 / sum
  double* row_parts;    // [2, kRowGroups, 128]
  double* sums;         // [kSumPlanes, k_blocks]
  float* vertical;      // [k_blocks]
  float* pooled;        // [k_blocks]
  float* slash;         // [buckets]
  uint64_t* columns;    // [row_words] bit j: column j is kept
  uint64_t* offsets;    // [line_words - row_words] kept block offsets in reverse, see store_lines()
  float* tokens;        // kOfficial: [2, 128 k_blocks] mass per key and per distance
  const float* k_mean;  // [head_dim, k_blocks]
  int32_t k_blocks, offset_words;

  FLEXPREFILL_DEVICE_FN float* stat(int32_t j, int32_t plane) const {
    return stats + (int64_t{j} * kStatPlanes + plane) * kPlanRows;
  }
  // kOfficial, second pass: sums of block j along the diagonals row - key = -127 .. 127, [256];
  // they take the place of the maxima and sums of the first pass.
  FLEXPREFILL_DEVICE_FN float* diagonals(int32_t j) const { return stat(j, 1); }
  // kCoverage: the mean query of block row i, [head_dim], once the block sums have made the near
  // and far sums superfluous.
  FLEXPREFILL_DEVICE_FN float* q_mean(int32_t i) const { return stat(i, 1); }
  FLEXPREFILL_DEVICE_FN double& sum(SumPlane plane, int32_t j) const {
    return sums[int64_t{plane} * k_blocks + j];
  }
};

FLEXPREFILL_DEVICE_FN HeadScores scores_of(const PlanProblem& p, int32_t h) {
  HeadScores x;
  const int64_t blocks = p.k_blocks;
  x.stats = p.stats + int64_t{h} * p.stat_blocks * kStatPlanes * kPlanRows;
  x.row_stats = p.row_stats + int64_t{h} * 2 * kPlanRows;
  x.row_parts = p.row_parts + int64_t{h} * 2 * kRowGroups * kPlanRows;
  x.sums = p.sums + h * blocks * kSumPlanes;
  x.vertical = p.vertical + h * blocks;
  x.pooled = p.pooled + h * blocks;
  x.slash = p.slash + h * (blocks + 2);
  x.columns = p.lines + int64_t{h} * p.line_words;
  x.offsets = x.columns + p.row_words;
  x.tokens = p.tokens + h * blocks * 2 * kBlock;
  x.k_mean = p.k_mean + int64_t{plan_kv_head(p, h)} * p.head_dim * blocks;
  x.k_blocks = p.k_blocks;
  x.offset_words = p.line_words - p.row_words;
  return x;
}

// Key blocks that probe row r sees.
FLEXPREFILL_DEVICE_FN int32_t seen_blocks(const PlanShape& s, int32_t r) {
  return static_cast<int32_t>((s.seen(r) + kBlock - 1) / kBlock);
}

// What a block of probe row r weighs against the row's maximum: both maxima may be -inf.
FLEXPREFILL_DEVICE_FN float block_factor(float block_max, float row_max) {
  return exp2f(block_max - row_max);
}

// Mass of one key block in one probe row.
struct BlockShare {
  float near = 0.0f, far = 0.0f;
  FLEXPREFILL_DEVICE_FN float mass() const { return near + far; }
};

FLEXPREFILL_DEVICE_FN BlockShare block_share(const PlanShape& s, const HeadScores& x, int32_t j,
                                             int32_t r) {
  if (!s.sees_keys(r) || j >= seen_blocks(s, r)) return {};
  const float factor = block_factor(x.stat(j, 0)[r], x.row_stats[r]) * x.row_stats[kPlanRows + r];
  return {x.stat(j, 1)[r] * factor, x.stat(j, 2)[r] * factor};
}

// Sums of one key block over the probe rows.
struct BlockSums {
  double planes[kSumPlanes] = {};

  FLEXPREFILL_DEVICE_FN void add(const PlanShape& s, int32_t r, const BlockShare& share) {
    if (!s.sees_keys(r)) return;
    const double values[3] = {static_cast<double>(share.mass()), static_cast<double>(share.near),
                              static_cast<double>(share.far)};
    static_assert(kMassA == 0 && kNearA == 2 && kFarA == 4);
    for (int32_t n = 0; n < 3; ++n) {  // not indexed by the row: registers have no addresses
      if (s.in_second_row(r)) {
        planes[2 * n + 1] += values[n];
      } else {
        planes[2 * n] += values[n];
      }
    }
  }
  FLEXPREFILL_DEVICE_FN BlockSums& operator+=(const BlockSums& other) {
    for (int32_t n = 0; n < kSumPlanes; ++n) planes[n] += other.planes[n];
    return *this;
  }
};

FLEXPREFILL_DEVICE_FN void store_sums(const PlanShape& s, const HeadScores& x, int32_t j,
                                      const BlockSums& sums) {
  for (int32_t n = 0; n < kSumPlanes; ++n) {
    x.sum(static_cast<SumPlane>(n), j) = sums.planes[n];
  }
  x.vertical[j] = static_cast<float>((sums.planes[kMassA] + sums.planes[kMassB]) / s.seeing_rows());
}

// Bucket b takes the near part of the block at its distance and the far part of the one before it,
// for either block row of the probe.
FLEXPREFILL_DEVICE_FN float slash_of(const PlanShape& s, const HeadScores& x, int32_t b) {
  const int64_t row = (s.first_position + s.first_seeing) / kBlock;
  double sum = 0.0;
  for (int32_t second = 0; second < 2; ++second) {
    const int64_t near = row + second - (s.first_bucket + b);
    const int64_t far = near - 1;
    if (near >= 0 && near < s.visible_blocks) {
      sum += x.sum(static_cast<SumPlane>(kNearA + second), static_cast<int32_t>(near));
    }
    if (far >= 0 && far < s.visible_blocks) {
      sum += x.sum(static_cast<SumPlane>(kFarA + second), static_cast<int32_t>(far));
    }
  }
  return static_cast<float>(sum / s.seeing_rows());
}

// Score of a block of `tokens` keys for a mean query: every key counts at its mean's score.
FLEXPREFILL_DEVICE_FN float pooled_score(float dot, float softmax_scale, int64_t tokens) {
  constexpr float kLogBlock = 4.85203026391961717f;  // ln 128
  return softmax_scale * dot + (tokens == kBlock ? kLogBlock : logf(static_cast<float>(tokens)));
}

FLEXPREFILL_DEVICE_FN int64_t tokens_of_block(const PlanShape& s, int32_t j) {
  return plan_min(kBlock, s.visible_keys - int64_t{j} * kBlock);
}

// Half of a ln(a / m) + b ln(b / m), m the mean of both; 0 ln 0 = `zero`.
FLEXPREFILL_DEVICE_FN double js_term(float a, float b, double zero) {
  const double x = a, y = b, mean = 0.5 * (x + y);
  return 0.5 * ((a == 0.0f ? zero : x * log(x / mean)) + (b == 0.0f ? zero : y * log(y / mean)));
}

// 64 bits of a bit set from bit `begin` on, which may lie outside.
FLEXPREFILL_DEVICE_FN uint64_t bits_from(const uint64_t* words, int32_t num_words, int64_t begin) {
  const int64_t first = plan_floor_div(begin, 64);
  const int32_t shift = static_cast<int32_t>(begin - first * 64);
  const uint64_t low = first >= 0 && first < num_words ? words[first] : 0;
  if (shift == 0) return low;
  const uint64_t high = first + 1 >= 0 && first + 1 < num_words ? words[first + 1] : 0;
  return (low >> shift) | (high << (64 - shift));
}

// Words of the lines that the cuts keep. Under kCoverage bucket b crosses block offsets
// first_bucket + b and one more; offset first_bucket + x is bit (64 offset_words - 1 - x), so that
// a mask row, in which offsets fall while columns rise, is a run of 64 bits.
template <typename Team>
FLEXPREFILL_DEVICE_FN void store_lines(const Team& team, const PlanShape& s, const HeadScores& x,
                                       int32_t row_words, const Cut& columns, const Cut& buckets,
                                       bool both_offsets) {
  const auto column = [&](int32_t j) {
    return j == 0 || (j < s.visible_blocks && columns.keeps(score_key(x.vertical[j]), j));  // sink
  };
  team.store_bits(row_words, column, [&](int32_t w, uint64_t word) { x.columns[w] = word; });
  const auto kept = [&](int32_t b) {
    return b >= 0 && b < s.buckets && buckets.keeps(score_key(x.slash[b]), b);
  };
  const auto offset = [&](int32_t bit) {
    const int32_t b = 64 * x.offset_words - 1 - bit;
    return kept(b) || (both_offsets && kept(b - 1));
  };
  team.store_bits(x.offset_words, offset, [&](int32_t w, uint64_t word) { x.offsets[w] = word; });
}

// Bits [64 w, 64 w + 64) below `end`.
FLEXPREFILL_DEVICE_FN uint64_t bits_below(int64_t end, int32_t w) {
  const int64_t left = end - int64_t{64} * w;
  return left >= 64 ? ~uint64_t{0} : left <= 0 ? 0 : (uint64_t{1} << left) - 1;
}

FLEXPREFILL_DEVICE_FN uint64_t bit_of(int64_t j, int32_t w) {
  return j >= 0 && j / 64 == w ? uint64_t{1} << (j % 64) : 0;
}

// Word w of row i of a vertical-slash head; kCoverage keeps the local blocks whatever the lines
// are.
FLEXPREFILL_DEVICE_FN uint64_t vertical_slash_word(const PlanShape& s, const HeadScores& x,
                                                   int32_t i, int32_t w, bool keep_local) {
  const int64_t row = s.first_q_block + i;
  const int64_t begin = int64_t{64} * x.offset_words - 1 - (row - s.first_bucket) + int64_t{64} * w;
  const uint64_t local = keep_local ? bit_of(row, w) | bit_of(row - 1, w) : 0;
  const uint64_t word = x.columns[w] | bits_from(x.offsets, x.offset_words, begin) | local;
  return word & bits_below(s.causal_blocks(i), w);
}

// Word w of row i of an A-shape head.
FLEXPREFILL_DEVICE_FN uint64_t a_shape_word(const PlanShape& s, const PlanPolicy& policy, int32_t i,
                                            int32_t w) {
  const int64_t position = (s.first_q_block + i) * kBlock;
  const int64_t local = plan_floor_div(position - (policy.local_tokens - 1), kBlock);
  const uint64_t word = bits_below(policy.sink_blocks, w) | ~bits_below(plan_max(local, 0), w);
  return word & bits_below(s.causal_blocks(i), w);
}

}  // namespace flexprefill::internal::cuda
