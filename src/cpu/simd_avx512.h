#pragma once

// AVX-512 F, BW, VL, DQ, and BF16 where FLEXPREFILL_SIMD says so: 16 lanes, 32 registers. Included
// by simd.h only.

#include <immintrin.h>

namespace flexprefill::internal::FLEXPREFILL_ISA {

using Vec = __m512;
using Mask = __mmask16;

inline constexpr int kLanes = 16;
inline constexpr int kPanel = 12;  // 12 x 2 sums + 2 operands + 1 broadcast = 27 of 32 registers
inline constexpr int kStripVecs = 2;

FLEXPREFILL_INLINE Vec broadcast(float x) { return _mm512_set1_ps(x); }
FLEXPREFILL_INLINE Vec load_f32(const void* data) { return _mm512_loadu_ps(data); }
FLEXPREFILL_INLINE void store_f32(void* data, Vec x) { _mm512_storeu_ps(data, x); }
FLEXPREFILL_INLINE Vec load_f16(const void* data) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(data)));
}
FLEXPREFILL_INLINE void store_f16(void* data, Vec x) {
  _mm256_storeu_si256(static_cast<__m256i*>(data),
                      _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
FLEXPREFILL_INLINE Vec load_bf16(const void* data) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(data)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// To the nearest bf16 value, ties to even, kept as fp32; NaN stays a quiet NaN. Not vcvtneps2bf16,
// which flushes denormals.
FLEXPREFILL_INLINE Vec round_to_bf16(Vec x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const Mask is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i value = _mm512_mask_blend_epi32(is_nan, rounded, quiet);
  return _mm512_castsi512_ps(_mm512_and_si512(value, _mm512_set1_epi32(-65536)));
}
FLEXPREFILL_INLINE void store_bf16(void* data, Vec x) {
  const __m512i high = _mm512_srli_epi32(_mm512_castps_si512(round_to_bf16(x)), 16);
  _mm256_storeu_si256(static_cast<__m256i*>(data), _mm512_cvtepi32_epi16(high));
}

FLEXPREFILL_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
FLEXPREFILL_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }  // b when either is NaN
FLEXPREFILL_INLINE Mask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
FLEXPREFILL_INLINE bool any(Mask m) { return m != 0; }
FLEXPREFILL_INLINE Vec select(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_ps(m, no, yes); }
FLEXPREFILL_INLINE float sum_of_lanes(Vec x) { return _mm512_reduce_add_ps(x); }
// The two halves of exp2_of_nonpositive (simd.h). Two instructions do what takes five elsewhere:
// x - floor(x), and p * 2^floor(x) with underflow to 0.
#define FLEXPREFILL_EXP2_PARTS 1
inline constexpr float kExp2From = 0.0f;
struct Exp2Parts {
  Vec fraction, x;
};
FLEXPREFILL_INLINE Exp2Parts split_exp2(Vec x) {
  return {_mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), x};
}
FLEXPREFILL_INLINE Vec scale_exp2(Vec p, Exp2Parts parts) { return _mm512_scalef_ps(p, parts.x); }

// rows[i] lane j <-> rows[j] lane i: pairs, then fours of 32-bit words within 128 bits, then
// 128-bit parts.
FLEXPREFILL_INLINE void transpose(Vec (&rows)[kLanes]) {
  Vec pairs[kLanes], fours[kLanes], parts[kLanes];
  FLEXPREFILL_UNROLL
  for (int i = 0; i < kLanes; i += 2) {
    pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  // fours[4 a + b] holds column b of rows 4 a .. 4 a + 3 in its first 128 bits, 4 + b in the next.
  FLEXPREFILL_UNROLL
  for (int i = 0; i < kLanes; i += 4) {
    FLEXPREFILL_UNROLL
    for (int k = 0; k < 2; ++k) {
      const __m512d low = _mm512_castps_pd(pairs[i + k]), high = _mm512_castps_pd(pairs[i + k + 2]);
      fours[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      fours[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  }
  FLEXPREFILL_UNROLL
  for (int b = 0; b < 4; ++b) {
    parts[b] = _mm512_shuffle_f32x4(fours[b], fours[4 + b], 0x88);
    parts[4 + b] = _mm512_shuffle_f32x4(fours[8 + b], fours[12 + b], 0x88);
    parts[8 + b] = _mm512_shuffle_f32x4(fours[b], fours[4 + b], 0xdd);
    parts[12 + b] = _mm512_shuffle_f32x4(fours[8 + b], fours[12 + b], 0xdd);
  }
  FLEXPREFILL_UNROLL
  for (int b = 0; b < 4; ++b) {
    rows[b] = _mm512_shuffle_f32x4(parts[b], parts[4 + b], 0x88);
    rows[8 + b] = _mm512_shuffle_f32x4(parts[b], parts[4 + b], 0xdd);
    rows[4 + b] = _mm512_shuffle_f32x4(parts[8 + b], parts[12 + b], 0x88);
    rows[12 + b] = _mm512_shuffle_f32x4(parts[8 + b], parts[12 + b], 0xdd);
  }
}

#if FLEXPREFILL_SIMD == FLEXPREFILL_SIMD_AVX512BF16
#define FLEXPREFILL_BF16_PRODUCT 1

// exp2_of_nonpositive() with a relative error of 1.2e-6 and three multiplications instead of six:
// it runs between those of a product. With y = x rounded to 16ths and r = x - y,
//
//   2^x = 2^floor(y - 23/16) * power(y mod 1) * (u^2 + d),  u = r + 23/16
//
// where b (u^2 + d) is 2^r within 1/32 of 0, b in the powers. A sum with 1.5 * 2^19 rounds to 16ths
// and leaves y mod 1 in its low four bits. Below -200 the result is 0 in any case.
FLEXPREFILL_INLINE Vec exp2_by_table(Vec x) {
  constexpr float kRounds = 786432.0f, kShift = 1.4375f;
  const Vec powers = _mm512_setr_ps(0x1.edcc86p-1f, 0x1.01d4a4p+0f, 0x1.0d3eecp+0f, 0x1.192a92p+0f,
                                    0x1.259d56p+0f, 0x1.329d32p+0f, 0x1.403062p+0f, 0x1.4e5d6ep-1f,
                                    0x1.5d2b28p-1f, 0x1.6ca0aap-1f, 0x1.7cc562p-1f, 0x1.8da114p-1f,
                                    0x1.9f3bd8p-1f, 0x1.b19e22p-1f, 0x1.c4d0ccp-1f, 0x1.d8dd0cp-1f);
  const Vec clamped = max(broadcast(-200.0f), x);  // in this order NaN passes through
  const Vec sum = clamped + broadcast(kRounds);
  const Vec shifted = sum - broadcast(kRounds + kShift);  // y - 23/16, exactly
  const Vec u = clamped - shifted;
  const Vec power = _mm512_permutexvar_ps(_mm512_castps_si512(sum), powers);
  return _mm512_scalef_ps(power * fma(u, u, broadcast(0x1.0a5f38p+1f)), shifted);
}

// Units of two bf16 values: the lower half is the earlier neighbour. vdpbf16ps sums in fp32, treats
// denormals as zero.
struct Bf16Product {
  using Unit = uint32_t;
  static constexpr int kDepth = 2;
  static Vec exp2(Vec x) { return exp2_by_table(x); }
  static Vec load(const uint32_t* units) { return _mm512_loadu_ps(units); }
  static Vec broadcast_unit(const uint32_t* unit) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(*unit)));
  }
  static Vec dot(Vec sum, Vec a, Vec b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};

// Neighbouring lanes become the halves of kLanes / 2 units.
FLEXPREFILL_INLINE void store_bf16_units(uint32_t* units, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(units),
                      reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}

// Words 0 .. 15 and 16 .. 31 of `halves` become the lower and upper halves of 16 units.
FLEXPREFILL_INLINE void store_interleaved(uint32_t* units, __m512i halves) {
  const __m512i interleave =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                       21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_storeu_si512(units, _mm512_permutexvar_epi16(interleave, halves));
}

// units[lane] = (first[lane], second[lane]), rounded to bf16.
FLEXPREFILL_INLINE void store_pairs(uint32_t* units, Vec first, Vec second) {
  store_interleaved(units, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first)));
}

// The same for kLanes values in memory; bf16 values stay as they are.
template <DType kType>
FLEXPREFILL_INLINE void pair_tokens(uint32_t* units, const void* first, const void* second) {
  if constexpr (kType == DType::kBF16) {
    const __m512i low =
        _mm512_castsi256_si512(_mm256_loadu_si256(static_cast<const __m256i*>(first)));
    const __m256i high = _mm256_loadu_si256(static_cast<const __m256i*>(second));
    store_interleaved(units, _mm512_inserti64x4(low, high, 1));
  } else if constexpr (kType == DType::kF16) {
    store_pairs(units, load_f16(first), load_f16(second));
  } else {
    store_pairs(units, load_f32(first), load_f32(second));
  }
}
#endif

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
