#pragma once

#include <cstdint>
#include <cstring>

#include "flexprefill/tensor.h"
#include "runtime/widest_vectors.h"
#include "src/numeric.h"

namespace flexprefill::runtime {

/// Rounds a row of floats to f32, f16 or bf16.
FLEXPREFILL_INLINE inline void convert_row(const float* in, int64_t count, DType dtype, void* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, in, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  auto* bits = static_cast<uint16_t*>(out);
  if (dtype == DType::kBF16) {
    for (int64_t n = 0; n < count; ++n) bits[n] = internal::float_to_bf16(in[n]);
  } else {
    for (int64_t n = 0; n < count; ++n) bits[n] = internal::float_to_f16(in[n]);
  }
}

}  // namespace flexprefill::runtime
