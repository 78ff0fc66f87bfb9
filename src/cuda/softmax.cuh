#pragma once

// The online softmax of one warpgroup, on the registers of wgmma's sums:
//
//   m' = max(m, max S);  P = 2^(z S - z m');  alpha = 2^(z m - z m');  l = l alpha + sum P
//
// m is lazy: while it grew by no more than about 12 (log2) it is kept, so that O needs no
// correction; P then stays a finite f16, and O finite where |v| times the number of keys stays
// below 2^115. softmax_step_reusing_max() lets it follow sooner.
//
// A thread holds two rows, 8 apart: register n belongs to row (n / 2) % 2, column
// 8 (n / 4) + 2 (lane % 4) + n % 2 of its tile. z = softmax_scale log2(e), scale_log2 in the code.

#include <cmath>
#include <cstdint>

#include "cuda/lanes.cuh"
#include "cuda/tile.cuh"

namespace flexprefill::internal::cuda {

struct RowState {
  float m[2];      // largest score so far (lazily), not scaled
  float bias[2];   // -z m, rounded once: every use must be the same number
  float l[2];      // this thread's part of the sum of P
  float alpha[2];  // what the last step did to O and l
};

// -inf where the column lies behind last[row], which counts from this thread's first column.
template <int kCount>
__device__ inline void mask_scores(float (&r_s)[kCount], const int32_t (&last)[2]) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    if ((n >> 2) * 8 + (n & 1) > last[(n >> 1) & 1]) r_s[n] = -INFINITY;
  }
}

// How far, in log2, a score may exceed m before m follows. A row whose sums of P stay below
// kMaxSum, which is less than 2^kMaxGrowth by more than rounding, has no score for which m would
// follow.
constexpr float kMaxGrowth = 12.01f;
constexpr float kMaxSum = 0x1p12f;

// Before the first step of a tile.
__device__ inline void reset(RowState& row) {
  row.m[0] = row.m[1] = -INFINITY;
  row.bias[0] = row.bias[1] = NAN;
  row.l[0] = row.l[1] = 0.0f;
}

// Scores become P in place. kMayBeMasked: a row may have seen no key yet. follows: of a row, m
// takes the largest score even if it exceeds m by less than kMaxGrowth.
template <bool kMayBeMasked, int kCount>
__device__ inline void softmax_step(float (&r_s)[kCount], RowState& row, float scale_log2,
                                    const bool (&follows)[2]) {
  // Four chains per row: one chain of kCount / 2 dependent maxima would cost its latency.
  float part[8];
#pragma unroll
  for (int n = 0; n < 8; ++n) part[n] = r_s[n];
#pragma unroll
  for (int n = 8; n < kCount; ++n) part[n & 7] = fmaxf(part[n & 7], r_s[n]);
  float m[2] = {fmaxf(fmaxf(part[0], part[1]), fmaxf(part[4], part[5])),
                fmaxf(fmaxf(part[2], part[3]), fmaxf(part[6], part[7]))};
  bool huge[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    m[r] = quad_max(fmaxf(m[r], row.m[r]));
    // Judged by the exponent that softmax_step_reusing_max() would use, and no stricter: a row must
    // not move m here for another row's sake. NaN moves m.
    const float growth =
        kMayBeMasked ? (m[r] - row.m[r]) * scale_log2 : fmaf(m[r], scale_log2, row.bias[r]);
    if (growth <= kMaxGrowth && !follows[r]) m[r] = row.m[r];
    const float bias = kMayBeMasked && m[r] == -INFINITY ? 0.0f : -__fmul_rn(m[r], scale_log2);
    row.alpha[r] = exp2_approx(__fmul_rn(row.m[r], scale_log2) + bias);
    row.bias[r] = bias;
    // z S - z m in one operation is off by the rounding of z m. A row's P share that factor, so it
    // does no harm as long as it is small.
    huge[r] = fabsf(bias) > 0x1p14f;
  }
  if (__any_sync(kAllLanes, huge[0] || huge[1])) {
    // The other rows of the warp get the same bits as below.
    // Nothing is subtracted from rows whose scores so far are all -inf: they weigh 0.
    const auto shift_of = [&](int r) { return huge[r] && m[r] != -INFINITY ? m[r] : 0.0f; };
    const float shift[2] = {shift_of(0), shift_of(1)};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!huge[r]) continue;
      row.alpha[r] = m[r] == row.m[r] ? 1.0f : exp2_approx((row.m[r] - m[r]) * scale_log2);
      row.bias[r] = 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const int r = (n >> 1) & 1;
      r_s[n] = fmaf(r_s[n] - shift[r], scale_log2, row.bias[r]);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (huge[r]) row.bias[r] = NAN;  // softmax_step_reusing_max() has to come here
    }
  } else {
#pragma unroll
    for (int n = 0; n < kCount; ++n) r_s[n] = fmaf(r_s[n], scale_log2, row.bias[(n >> 1) & 1]);
  }
  float sum[4];
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    r_s[n] = exp2_approx(r_s[n]);
    sum[n & 3] = n < 4 ? r_s[n] : sum[n & 3] + r_s[n];
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    row.m[r] = m[r];
    row.l[r] = fmaf(row.l[r], row.alpha[r], sum[2 * r] + sum[2 * r + 1]);
  }
}

// P as the left operand of the next product: a thread's sums are its operand registers in this
// order.
template <typename Element, int kCount>
__device__ inline void pack_p(uint32_t (&r_p)[kCount / 2], const float (&r_s)[kCount]) {
#pragma unroll
  for (int n = 0; n < kCount / 2; ++n) r_p[n] = pack<Element>(r_s[2 * n], r_s[2 * n + 1]);
}

// softmax_step() and pack_p() without a maximum, as long as every thread's sums of P are at most
// kMaxSum: no P can then exceed it. r_s stays for the other case. Returns whether O has to be
// rescaled. A row's result depends on nothing but the row: where its own sums are small,
// softmax_step() keeps m and finds the same P; where one is large, m follows even if no score
// exceeds it by kMaxGrowth. Else a row whose first block has few and small keys would send its warp
// here in every step.
template <typename Element, int kCount>
__device__ inline bool softmax_step_reusing_max(uint32_t (&r_p)[kCount / 2], float (&r_s)[kCount],
                                                RowState& row, float scale_log2) {
  float sum[4];
#pragma unroll
  for (int n = 0; n < kCount / 2; ++n) {
    float p[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      p[k] = exp2_approx(fmaf(r_s[2 * n + k], scale_log2, row.bias[n & 1]));
      float& to = sum[(n & 1) * 2 + k];
      to = n < 2 ? p[k] : to + p[k];
    }
    r_p[n] = pack<Element>(p[0], p[1]);
  }
  const float sums[2] = {sum[0] + sum[1], sum[2] + sum[3]};
  // Not (a <= b): so that NaN counts as too much.
  if (__any_sync(kAllLanes, !(sums[0] <= kMaxSum) || !(sums[1] <= kMaxSum))) {
    softmax_step</*kMayBeMasked=*/false>(
        r_s, row, scale_log2,
        /*follows=*/{quad_max(sums[0]) > kMaxSum, quad_max(sums[1]) > kMaxSum});
    pack_p<Element>(r_p, r_s);
    return true;
  }
  row.l[0] += sums[0];
  row.l[1] += sums[1];
  return false;
}

// O after a step that may have changed m. A vote is cheaper than the multiplications, and saves
// power.
template <int kCount>
__device__ inline void rescale(float (&r_o)[kCount], const RowState& row) {
  if (!__any_sync(kAllLanes, row.alpha[0] != 1.0f || row.alpha[1] != 1.0f)) return;
#pragma unroll
  for (int n = 0; n < kCount; ++n) r_o[n] *= row.alpha[(n >> 1) & 1];
}

}  // namespace flexprefill::internal::cuda
