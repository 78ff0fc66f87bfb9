#pragma once

// The vector type of the instruction set being compiled, and everything the kernels do with it.
// This header and the simd_<set>.h it includes are the only place with intrinsics.
//
//   Vec      kLanes floats            Mask   result of a comparison of two Vec
//   kPanel   rows of a register tile  kStripVecs   its width in Vec (tile.h; docs/kernels.md)
//
// The including unit is compiled with FLEXPREFILL_ISA (name of the namespace) and FLEXPREFILL_SIMD
// (one of the numbers below). All names live in flexprefill::internal::<isa>, so no two units share
// code.

#include <cstdint>
#include <cstring>

#include "flexprefill/tensor.h"

#define FLEXPREFILL_SIMD_PORTABLE 0
#define FLEXPREFILL_SIMD_AVX2 1
#define FLEXPREFILL_SIMD_AVX512 2
#define FLEXPREFILL_SIMD_AVX512BF16 3

#define FLEXPREFILL_INLINE static inline __attribute__((always_inline))
#define FLEXPREFILL_INLINE_MEMBER inline __attribute__((always_inline))
#ifdef __clang__
#define FLEXPREFILL_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FLEXPREFILL_UNROLL _Pragma("GCC unroll 16")
#endif

#if FLEXPREFILL_SIMD == FLEXPREFILL_SIMD_PORTABLE
#include "cpu/simd_portable.h"
#elif FLEXPREFILL_SIMD == FLEXPREFILL_SIMD_AVX2
#include "cpu/simd_avx2.h"
#else
#include "cpu/simd_avx512.h"
#endif

namespace flexprefill::internal::FLEXPREFILL_ISA {

#ifndef FLEXPREFILL_EXP2_PARTS
// 2^x = 2^fraction * 2^n: the fraction in [kExp2From, kExp2From + 1], n + 127 in the low bits of
// `whole`, ready to become an exponent field. 0 for x <= -126.5.
inline constexpr float kExp2From = -0.5f;
struct Exp2Parts {
  Vec fraction, whole;
};
FLEXPREFILL_INLINE Exp2Parts split_exp2(Vec x) {
  // 1.5 * 2^23 + 127: the sum's low bits are round(x) + 127
  const Vec to_integer = broadcast(12583039.0f);
  const Vec clamped = max(broadcast(-127.0f), x);  // in this order NaN passes through
  const Vec whole = clamped + to_integer;
  return {clamped - (whole - to_integer), whole};
}
// A product, because p + n in the exponent field would turn a NaN into any number: the low bits of
// `whole` then hold the NaN's payload.
FLEXPREFILL_INLINE Vec scale_exp2(Vec p, Exp2Parts parts) {
  return p * low_bits_to_exponent(parts.whole);
}
#endif

// 2^x for x <= 0; 0 for -inf and for x <= -150, and at the latest there; NaN stays NaN. A minimax
// polynomial of 2^fraction with the constant fixed at 1, so that 2^0 = 1. Relative error 1.7e-7,
// rounding included.
FLEXPREFILL_INLINE Vec exp2_of_nonpositive(Vec x) {
  constexpr bool kCentred = kExp2From == -0.5f;  // else the fraction begins at 0
  static_assert(kCentred || kExp2From == 0.0f);
  const Exp2Parts parts = split_exp2(x);
  const Vec f = parts.fraction;
  const auto next = [&f](Vec sum, float centred, float from_zero) __attribute__((always_inline)) {
    return fma(sum, f, broadcast(kCentred ? centred : from_zero));
  };
  Vec p = broadcast(kCentred ? 0x1.5bb994p-10f : 0x1.e97512p-10f);
  p = next(p, 0x1.3cea84p-7f, 0x1.27784ap-7f);
  p = next(p, 0x1.c6b754p-5f, 0x1.c91ceap-5f);
  p = next(p, 0x1.ebf9bcp-3f, 0x1.ebdb56p-3f);
  p = next(p, 0x1.62e42ap-1f, 0x1.62e4bap-1f);
  return scale_exp2(next(p, 1.0f, 1.0f), parts);
}

FLEXPREFILL_INLINE void prefetch(const void* line) { __builtin_prefetch(line, 0, 2); }
FLEXPREFILL_INLINE void prefetch_to_write(const void* line) { __builtin_prefetch(line, 1, 2); }

// Element types in memory: kLanes values as fp32, from any alignment.
template <DType kType>
FLEXPREFILL_INLINE Vec load_as_f32(const void* data) {
  if constexpr (kType == DType::kF32) {
    return load_f32(data);
  } else if constexpr (kType == DType::kF16) {
    return load_f16(data);
  } else {
    static_assert(kType == DType::kBF16);
    return load_bf16(data);
  }
}

template <DType kType>
inline constexpr int kBytes = kType == DType::kF32 ? 4 : 2;

// The first `count` < kLanes values; the other lanes are 0 and their memory is not read.
template <DType kType>
FLEXPREFILL_INLINE Vec load_as_f32(const void* data, int count) {
  alignas(64) unsigned char padded[kLanes * 4] = {};
  std::memcpy(padded, data, static_cast<size_t>(count) * kBytes<kType>);
  return load_as_f32<kType>(padded);
}

template <DType kType>
FLEXPREFILL_INLINE void store_from_f32(void* data, Vec x) {
  if constexpr (kType == DType::kF32) {
    store_f32(data, x);
  } else if constexpr (kType == DType::kF16) {
    store_f16(data, x);
  } else {
    static_assert(kType == DType::kBF16);
    store_bf16(data, x);
  }
}

template <DType kType>
FLEXPREFILL_INLINE void store_from_f32(void* data, Vec x, int count) {
  alignas(64) unsigned char padded[kLanes * 4];
  store_from_f32<kType>(padded, x);
  std::memcpy(data, padded, static_cast<size_t>(count) * kBytes<kType>);
}

// How a matrix product multiplies. A Unit is one 32-bit word of an operand and holds kDepth
// neighbours along the summed dimension; dot() adds the products of two vectors of units to fp32
// sums; exp2() is 2^x for x <= 0 as exact as P has to be.
struct F32Product {
  using Unit = float;
  static constexpr int kDepth = 1;
  static Vec exp2(Vec x) { return exp2_of_nonpositive(x); }
  static Vec load(const float* units) { return load_f32(units); }
  static Vec broadcast_unit(const float* unit) { return broadcast(*unit); }
  static Vec dot(Vec sum, Vec a, Vec b) { return fma(a, b, sum); }
};

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
