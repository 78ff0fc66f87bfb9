#pragma once

// The machine's limits: multiply-adds from registers alone, and bytes from memory.

#include <cstdint>
#include <optional>
#include <string>

#include "flexprefill/flexprefill.h"

namespace flexprefill::tools {

// The kernels of one instruction set (peak_kernel.cc). Each returns the number of operations, or of
// bytes; `result` keeps the compiler from dropping the work.
struct PeakKernels {
  const char* isa;
  double (*f32)(int64_t iterations, float* result);
  double (*bf16)(int64_t iterations, float* result);  // null: no such instructions
  double (*read)(const float* data, int64_t count, float* result);
};

// Those of the instruction set that the backend's description names; null for another device.
const PeakKernels* peak_kernels(const Backend& backend);

// Threads that a context with this number uses.
int thread_count(int requested);

// A multiply-add peak, all threads together.
class Peak {
 public:
  // The one that attention on inputs of `dtype` is measured against: bf16 for 16-bit inputs where
  // the instruction set multiplies bf16, else fp32. Nothing for a device without peak kernels.
  static std::optional<Peak> of(const Backend& backend, DType dtype, int threads);

  Peak(std::string name, double (*kernel)(int64_t, float*), int threads);

  const std::string& name() const { return name_; }  // "bf16 avx512bf16"
  double sample() const;                             // FLOP/s, in about 10 ms

 private:
  double run(int64_t iterations) const;

  std::string name_;
  double (*kernel_)(int64_t iterations, float* result);
  int threads_;
  int64_t iterations_ = 1 << 12;
};

}  // namespace flexprefill::tools
