#include "tests/support/compare.h"

#include <cmath>
#include <limits>

namespace flexprefill::test {
namespace {

constexpr double kF32Unit = 0x1p-24;  // half an ulp of 1

// fp32 arithmetic in any order: score errors grow with the logits, sums with the number of terms
// (as a random walk); 4 is the size of the largest of normally distributed values.
double f32_error(int64_t kv_len, double max_logit) {
  return 4 * kF32Unit * (8 + 2 * max_logit + std::sqrt(static_cast<double>(kv_len)));
}

// An ulp of 1 (rounded down) in the 16-bit types: a backend may round P to the type of v, which
// moves the output by up to half of that times the largest |v|, 4, and rounds the output.
double unit(DType dtype) {
  switch (dtype) {
    case DType::kF16: return 0x1p-11;
    case DType::kBF16: return 0x1p-8;
    default: return 0.0;
  }
}

// How far apart the two are in units of the tolerance; above 1 is a mismatch.
double excess(float actual, float expected, Tolerance tolerance) {
  constexpr double kMismatch = std::numeric_limits<double>::infinity();
  if (std::isnan(expected)) return std::isnan(actual) ? 0.0 : kMismatch;
  if (!std::isfinite(expected) || !std::isfinite(actual)) {
    return actual == expected ? 0.0 : kMismatch;
  }
  const double difference = std::abs(static_cast<double>(actual) - static_cast<double>(expected));
  if (difference == 0.0) return 0.0;
  return difference / (tolerance.absolute + tolerance.relative * std::abs(double{expected}));
}

}  // namespace

Tolerance tolerance(DType dtype, int64_t kv_len, double max_logit) {
  const double f32 = f32_error(kv_len, max_logit);
  return {.absolute = f32 + 2 * unit(dtype), .relative = f32 + unit(dtype)};
}

Tolerance lse_tolerance(int64_t kv_len, double max_logit) {
  return {.absolute = f32_error(kv_len, max_logit), .relative = 4 * kF32Unit};
}

testing::AssertionResult all_close(std::span<const float> actual, std::span<const float> expected,
                                   Tolerance tolerance) {
  if (actual.size() != expected.size()) {
    return testing::AssertionFailure()
           << "actual has " << actual.size() << " elements, expected " << expected.size();
  }
  size_t mismatches = 0, worst = 0;
  double worst_excess = 0.0;
  for (size_t n = 0; n < actual.size(); ++n) {
    const double e = excess(actual[n], expected[n], tolerance);
    if (!(e <= 1.0)) ++mismatches;
    if (!(e <= worst_excess)) {
      worst_excess = e;
      worst = n;
    }
  }
  if (mismatches == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << mismatches << " of " << actual.size() << " elements differ; worst at " << worst
         << ": actual " << actual[worst] << ", expected " << expected[worst] << ", " << worst_excess
         << " times the tolerance (" << tolerance.absolute << " + " << tolerance.relative
         << " |expected|)";
}

}  // namespace flexprefill::test
