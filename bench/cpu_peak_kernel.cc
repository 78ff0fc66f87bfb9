// Multiply-adds from registers alone, as fast as the instruction set allows. Compiled once per
// instruction set.

#include "cpu/simd.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {
namespace {

constexpr int kChains =
    12;  // independent sums: enough to hide 4 to 6 clocks of latency on two units

template <typename Product>
double run(int64_t iterations, float* result) {
  Vec sums[kChains];
  FLEXPREFILL_UNROLL
  for (int n = 0; n < kChains; ++n) sums[n] = broadcast(static_cast<float>(n));
  const Vec a = broadcast(*result), b = broadcast(*result * 0.5f);
  for (int64_t n = 0; n < iterations; ++n) {
    FLEXPREFILL_UNROLL
    for (int chain = 0; chain < kChains; ++chain) sums[chain] = Product::dot(sums[chain], a, b);
  }
  float total = 0.0f;
  FLEXPREFILL_UNROLL
  for (int chain = 0; chain < kChains; ++chain) total += sum_of_lanes(sums[chain]);
  *result = total;
  return 2.0 * kLanes * Product::kDepth * kChains * static_cast<double>(iterations);
}

}  // namespace

// Runs and returns the number of floating-point operations; result keeps the compiler from dropping
// it.
double peak_f32(int64_t iterations, float* result) { return run<F32Product>(iterations, result); }

#ifdef FLEXPREFILL_BF16_PRODUCT
double peak_bf16(int64_t iterations, float* result) { return run<Bf16Product>(iterations, result); }
#endif

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
