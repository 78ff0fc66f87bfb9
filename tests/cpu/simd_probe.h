#pragma once

// simd.h of one instruction set as plain functions on arrays.

#include <cstdint>

#include "flexprefill/tensor.h"

namespace flexprefill::test {

struct SimdProbe {
  int lanes;
  bool has_pairs;
  // y[n] = 2^x[n], for P in bf16 where has_pairs and asked; count is a multiple of lanes.
  void (*exp2)(bool bf16, const float* x, int64_t count, float* y);
  // The first `count` <= lanes elements; loading fills the other lanes of y [lanes] with 0.
  void (*load)(const void* x, DType dtype, int count, float* y);
  void (*store)(const float* x, DType dtype, int count, void* y);
  void (*round_to_bf16)(const float* x, float* y);                              // [lanes]
  void (*less)(const float* x, const float* y, float* one_or_zero, bool* any);  // [lanes]
  void (*max)(const float* x, const float* y, float* z);                        // [lanes]
  float (*sum_of_lanes)(const float* x);                                        // [lanes]
  void (*store_pairs)(const float* first, const float* second,
                      uint32_t* units);  // [lanes]; has_pairs
  // sums [rows, lanes] += left [rows, steps] . right [steps, lanes], in the product's own units;
  // rows even. bf16 where has_pairs and asked.
  void (*multiply)(bool bf16, const void* left, const void* right, int rows, int steps,
                   float* sums);
};

}  // namespace flexprefill::test
