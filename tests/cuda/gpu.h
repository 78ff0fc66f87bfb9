#pragma once

// Shorthands of the tests of the cuda backend. Bits are compared, not values.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/support/run.h"

namespace flexprefill::test {

inline const Backend& gpu() { return *tested_backends().at(0); }

inline void run(const Instance& x) {
  run_attend(gpu(), std::span(&x.problem, 1), std::span(&x.mask, 1));
}

inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

inline bool same_results(const Instance& a, const Instance& b) {
  return std::ranges::equal(a.out.bytes(), b.out.bytes()) && same_bits(a.lse, b.lse);
}

inline Case half_precision(Case c, DType dtype = DType::kBF16) {
  c.q_dtype = c.kv_dtype = c.out_dtype = dtype;
  return c;
}

}  // namespace flexprefill::test
