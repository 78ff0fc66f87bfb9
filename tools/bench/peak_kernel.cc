// Multiply-adds from registers alone and reads of memory, as fast as the instruction set allows,
// through the same simd.h as the attention kernels. Compiled once per instruction set.

#include "cpu/simd.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {
namespace {

// Independent sums: enough to hide 4 to 6 clocks of latency on two units.
constexpr int kChains = 12;

template <typename Product>
double multiply_add(int64_t iterations, float* result) {
  Vec sums[kChains];
  FLEXPREFILL_UNROLL
  for (int n = 0; n < kChains; ++n) sums[n] = broadcast(static_cast<float>(n));
  const Vec a = broadcast(*result), b = broadcast(*result * 0.5f);
  for (int64_t n = 0; n < iterations; ++n) {
    FLEXPREFILL_UNROLL
    for (Vec& sum : sums) sum = Product::dot(sum, a, b);
  }
  float total = 0.0f;
  FLEXPREFILL_UNROLL
  for (const Vec& sum : sums) total += sum_of_lanes(sum);
  *result = total;
  return 2.0 * kLanes * Product::kDepth * kChains * static_cast<double>(iterations);
}

}  // namespace

double peak_f32(int64_t iterations, float* result) {
  return multiply_add<F32Product>(iterations, result);
}

#ifdef FLEXPREFILL_BF16_PRODUCT
double peak_bf16(int64_t iterations, float* result) {
  return multiply_add<Bf16Product>(iterations, result);
}
#endif

// Reads `count` floats, a multiple of 8 vectors; returns the bytes.
double peak_read(const float* data, int64_t count, float* result) {
  constexpr int kSums = 8;
  Vec sums[kSums];
  FLEXPREFILL_UNROLL
  for (Vec& sum : sums) sum = broadcast(0.0f);
  for (int64_t n = 0; n < count; n += kSums * kLanes) {
    FLEXPREFILL_UNROLL
    for (int s = 0; s < kSums; ++s) sums[s] = sums[s] + load_f32(data + n + s * kLanes);
  }
  FLEXPREFILL_UNROLL
  for (const Vec& sum : sums) *result += sum_of_lanes(sum);
  return static_cast<double>(count) * sizeof(float);
}

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
