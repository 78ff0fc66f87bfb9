#pragma once

// Conversions between float and the 16-bit types, in software and rounding to nearest even: what
// every host component agrees on. Vectorised forms must give the same bits.

#include <bit>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "flexprefill/tensor.h"

namespace flexprefill::internal {

inline float bf16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value)
    return static_cast<uint16_t>((bits >> 16) | 0x40);  // rounding could reach inf
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float round_to_bf16(float value) { return bf16_to_float(float_to_bf16(value)); }

inline float f16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
  // Shifting aligns the mantissa; multiplying by 2^112 corrects the exponent, subnormals included.
  if (magnitude < 0x7c00u << 13) {
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | sign);
  }
  return std::bit_cast<float>(sign | magnitude | 0x7f800000u);  // inf or NaN
}

inline uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;   // NaN
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to inf
  if (magnitude < 0x38800000) {                       // below 2^-14: a multiple of 2^-24
    // Adding 0.5 leaves exactly the subnormal's ten bits (and the carry) in the mantissa.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(aligned) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

// Element `index` of an array of a 16- or 32-bit floating-point type.
inline float load_element(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32: return static_cast<const float*>(data)[index];
    case DType::kF16: return f16_to_float(static_cast<const uint16_t*>(data)[index]);
    case DType::kBF16: return bf16_to_float(static_cast<const uint16_t*>(data)[index]);
    default: assert(!"8-bit types are refused by why_not"); return 0.0f;
  }
}

inline void store_element(void* data, DType dtype, int64_t index, float value) {
  switch (dtype) {
    case DType::kF32: static_cast<float*>(data)[index] = value; return;
    case DType::kF16: static_cast<uint16_t*>(data)[index] = float_to_f16(value); return;
    case DType::kBF16: static_cast<uint16_t*>(data)[index] = float_to_bf16(value); return;
    default: assert(!"8-bit types are refused by why_not");
  }
}

inline int64_t row_offset(const HeadView& view, int64_t t, int32_t h) {
  return t * view.token_stride + h * view.head_stride;
}

// Copies row (t, h) of a view, [head_dim], as float or double. One loop per type: compilers
// vectorise it.
template <typename Real>
void load_row(const HeadView& view, int64_t t, int32_t h, Real* row) {
  const int64_t offset = row_offset(view, t, h);
  const auto convert = [&]<typename Element>(const Element* data, auto to_float) {
    for (int32_t c = 0; c < view.head_dim; ++c) {
      row[c] = static_cast<Real>(to_float(data[offset + c]));
    }
  };
  switch (view.dtype) {
    case DType::kF32:
      return convert(static_cast<const float*>(view.data), [](float value) { return value; });
    case DType::kF16: return convert(static_cast<const uint16_t*>(view.data), f16_to_float);
    case DType::kBF16: return convert(static_cast<const uint16_t*>(view.data), bf16_to_float);
    default: assert(!"8-bit types are refused by why_not");
  }
}

}  // namespace flexprefill::internal
