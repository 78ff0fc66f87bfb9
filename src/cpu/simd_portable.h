#pragma once

// Any processor, through the compilers' vector extension: 4 lanes (SSE2, NEON or whatever the
// target's base has). Included by simd.h only.

namespace flexprefill::internal::FLEXPREFILL_ISA {

using Vec = float __attribute__((vector_size(16)));
using Mask = int32_t __attribute__((vector_size(16)));
using Bits = uint32_t __attribute__((vector_size(16)));

inline constexpr int kLanes = 4;
inline constexpr int kPanel = 4;  // 4 x 2 sums leave room among 16 registers
inline constexpr int kStripVecs = 2;

FLEXPREFILL_INLINE Vec broadcast(float x) { return Vec{x, x, x, x}; }
FLEXPREFILL_INLINE Vec load_f32(const void* data) {
  Vec x;
  std::memcpy(&x, data, sizeof x);
  return x;
}
FLEXPREFILL_INLINE void store_f32(void* data, Vec x) { std::memcpy(data, &x, sizeof x); }

FLEXPREFILL_INLINE Bits load_words(const void* data) {
  uint16_t words[kLanes];
  std::memcpy(words, data, sizeof words);
  return Bits{words[0], words[1], words[2], words[3]};
}
FLEXPREFILL_INLINE void store_words(void* data, Bits x) {
  const uint16_t words[kLanes] = {static_cast<uint16_t>(x[0]), static_cast<uint16_t>(x[1]),
                                  static_cast<uint16_t>(x[2]), static_cast<uint16_t>(x[3])};
  std::memcpy(data, words, sizeof words);
}

FLEXPREFILL_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
FLEXPREFILL_INLINE Mask less(Vec a, Vec b) { return a < b; }
FLEXPREFILL_INLINE bool any(Mask m) { return (m[0] | m[1] | m[2] | m[3]) != 0; }
FLEXPREFILL_INLINE Bits select_bits(Mask m, Bits yes, Bits no) {
  return (yes & (Bits)m) | (no & ~(Bits)m);
}
FLEXPREFILL_INLINE Vec select(Mask m, Vec yes, Vec no) {
  return (Vec)select_bits(m, (Bits)yes, (Bits)no);
}
FLEXPREFILL_INLINE Vec max(Vec a, Vec b) { return select(b < a, a, b); }  // b when either is NaN
FLEXPREFILL_INLINE float sum_of_lanes(Vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }
// 2^(n - 127) for the whole number n in the low 8 bits of x's pattern, bit 8 being 0; 0 for n = 0.
FLEXPREFILL_INLINE Vec low_bits_to_exponent(Vec x) { return (Vec)((Bits)x << 23); }

FLEXPREFILL_INLINE Vec load_bf16(const void* data) { return (Vec)(load_words(data) << 16); }

// To the nearest bf16 value, ties to even, kept as fp32; NaN stays a quiet NaN.
FLEXPREFILL_INLINE Vec round_to_bf16(Vec x) {
  const Bits bits = (Bits)x;
  const Bits rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const Mask is_nan = (Mask)((bits & 0x7fffffff) > Bits{} + 0x7f800000);
  return (Vec)(select_bits(is_nan, bits | 0x400000, rounded) & 0xffff0000u);
}
FLEXPREFILL_INLINE void store_bf16(void* data, Vec x) {
  store_words(data, (Bits)round_to_bf16(x) >> 16);
}

FLEXPREFILL_INLINE Vec load_f16(const void* data) {
  const Bits half = load_words(data);
  const Bits sign = (half & 0x8000) << 16;
  const Bits magnitude = (half & 0x7fff) << 13;
  // Moving the exponent's bias by a multiplication also normalises the denormals.
  const Bits scaled = (Bits)((Vec)magnitude * broadcast(0x1p112f));
  const Bits special = magnitude | 0x7f800000;  // infinity and NaN
  const Mask is_special = (Mask)(magnitude >= Bits{} + 0x0f800000);
  return (Vec)(sign | select_bits(is_special, special, scaled));
}
FLEXPREFILL_INLINE void store_f16(void* data, Vec x) {
  const Bits bits = (Bits)x;
  const Bits sign = (bits >> 16) & 0x8000;
  const Bits magnitude = bits & 0x7fffffff;
  // Normal range: round the lower 13 bits away, ties to even; an overflow carries into infinity.
  const Bits normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Denormals: adding 1/2 puts a unit of 2^-24 at the last bit, so the addition itself rounds.
  const Bits denormal = (Bits)((Vec)magnitude + broadcast(0.5f)) - 0x3f000000;
  const Bits is_nan_payload = Bits{} + 0x7e00;
  Bits result = select_bits((Mask)(magnitude < Bits{} + 0x38800000), denormal, normal);
  result = select_bits((Mask)(magnitude >= Bits{} + 0x477ff000), Bits{} + 0x7c00, result);
  result = select_bits((Mask)(magnitude > Bits{} + 0x7f800000), is_nan_payload, result);
  store_words(data, sign | result);
}

// rows[i] lane j <-> rows[j] lane i.
FLEXPREFILL_INLINE void transpose(Vec (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float upper = rows[j][i];
      rows[j][i] = rows[i][j];
      rows[i][j] = upper;
    }
  }
}

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
