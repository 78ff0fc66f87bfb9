#pragma once

// Shorthands of the tests of the cuda backend. Bits are compared, not values.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/support/run.h"

namespace flexprefill::test {

inline const Backend& gpu() { return *tested_backends().at(0); }

inline void run(const Instance& x) { run_attend(gpu(), x); }

inline Case half_precision(Case c, DType dtype = DType::kBF16) {
  c.q_dtype = c.kv_dtype = c.out_dtype = dtype;
  return c;
}

}  // namespace flexprefill::test
