#pragma once

// AVX2 with FMA and F16C: 8 lanes, 16 registers. Included by simd.h only.

#include <immintrin.h>

namespace flexprefill::internal::FLEXPREFILL_ISA {

using Vec = __m256;
using Mask = __m256;

inline constexpr int kLanes = 8;
inline constexpr int kPanel = 6;  // 6 x 2 sums + 2 operands + 1 broadcast = 15 of 16 registers
inline constexpr int kStripVecs = 2;

FLEXPREFILL_INLINE Vec broadcast(float x) { return _mm256_set1_ps(x); }
FLEXPREFILL_INLINE Vec load_f32(const void* data) {
  return _mm256_loadu_ps(static_cast<const float*>(data));
}
FLEXPREFILL_INLINE void store_f32(void* data, Vec x) {
  _mm256_storeu_ps(static_cast<float*>(data), x);
}
FLEXPREFILL_INLINE Vec load_f16(const void* data) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(data)));
}
FLEXPREFILL_INLINE void store_f16(void* data, Vec x) {
  _mm_storeu_si128(static_cast<__m128i*>(data),
                   _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FLEXPREFILL_INLINE Vec load_bf16(const void* data) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(data)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

// To the nearest bf16 value, ties to even, kept as fp32; NaN stays a quiet NaN.
FLEXPREFILL_INLINE Vec round_to_bf16(Vec x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i value = _mm256_blendv_epi8(rounded, quiet, is_nan);
  return _mm256_castsi256_ps(_mm256_and_si256(value, _mm256_set1_epi32(-65536)));
}
FLEXPREFILL_INLINE void store_bf16(void* data, Vec x) {
  const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(round_to_bf16(x)), 16);
  _mm_storeu_si128(
      static_cast<__m128i*>(data),
      _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
}

FLEXPREFILL_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
FLEXPREFILL_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }  // b when either is NaN
FLEXPREFILL_INLINE Mask less(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
FLEXPREFILL_INLINE bool any(Mask m) { return _mm256_movemask_ps(m) != 0; }
FLEXPREFILL_INLINE Vec select(Mask m, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, m); }
FLEXPREFILL_INLINE float sum_of_lanes(Vec x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// 2^(n - 127) for the whole number n in the low 8 bits of x's pattern, bit 8 being 0; 0 for n = 0.
FLEXPREFILL_INLINE Vec low_bits_to_exponent(Vec x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 23));
}

// rows[i] lane j <-> rows[j] lane i: pairs, then fours of 32-bit words within 128 bits, then the
// two 128-bit halves.
FLEXPREFILL_INLINE void transpose(Vec (&rows)[kLanes]) {
  Vec pairs[kLanes], fours[kLanes];
  FLEXPREFILL_UNROLL
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  FLEXPREFILL_UNROLL
  for (int i = 0; i < kLanes; i += 4) {
    FLEXPREFILL_UNROLL
    for (int k = 0; k < 2; ++k) {
      const __m256d low = _mm256_castps_pd(pairs[i + k]), high = _mm256_castps_pd(pairs[i + k + 2]);
      fours[i + 2 * k] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
      fours[i + 2 * k + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
    }
  }
  FLEXPREFILL_UNROLL
  for (int b = 0; b < 4; ++b) {
    rows[b] = _mm256_permute2f128_ps(fours[b], fours[4 + b], 0x20);
    rows[4 + b] = _mm256_permute2f128_ps(fours[b], fours[4 + b], 0x31);
  }
}

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
