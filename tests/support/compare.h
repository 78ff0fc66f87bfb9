#pragma once

// The comparator of every numerical test: |actual - expected| <= absolute + relative * |expected|,
// and NaN exactly where NaN is expected, infinities with the expected sign.

#include <gtest/gtest.h>

#include <cstdint>
#include <span>

#include "flexprefill/tensor.h"

namespace flexprefill::test {

struct Tolerance {
  double absolute = 0.0;
  double relative = 0.0;
};

// For attention outputs of values of order 1. `dtype` is the coarsest type on the way (kv or out);
// `max_logit` the largest scaled score: its fp32 rounding error enters the exponential.
Tolerance tolerance(DType dtype, int64_t kv_len, double max_logit = 8.0);

// For log-sum-exps of the same problem. They are fp32 whatever the inputs are.
Tolerance lse_tolerance(int64_t kv_len, double max_logit = 8.0);

// Names the number of mismatches and the worst of them.
::testing::AssertionResult all_close(std::span<const float> actual, std::span<const float> expected,
                                     Tolerance tolerance);

}  // namespace flexprefill::test
