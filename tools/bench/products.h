#pragma once

// The rate of oneDNN's matrix products: what a good library reaches of the peak.

#include <memory>
#include <span>

#include "runtime/matmul.h"
#include "tools/bench/measure.h"

namespace flexprefill::tools {

// Operations of out [rows, n] = in [rows, k] * weight^T.
double flops_of(const runtime::Linear& linear, double rows);

// FLOP/s of these products, one after the other, each on all of `threads` (0 = OpenMP's number).
Samples measure_products(std::span<const runtime::Linear* const> products, int64_t rows,
                         int threads, int repeats);

// A weight [size, size] without meaning, of runtime::matmul_dtype().
runtime::Linear square_product(int64_t size);

}  // namespace flexprefill::tools
