#pragma once

// Matrix products by oneDNN: out [m, n] = in [m, k] * weight^T (+ bias) (+ out). Compiles against
// oneDNN 2.6 and 3.x; nothing outside matmul.cc sees its headers.

#include <cstdint>
#include <memory>
#include <vector>

#include "flexprefill/tensor.h"
#include "runtime/buffer.h"

namespace flexprefill::runtime {

/// Type of the inputs and weights of every product: bf16 where oneDNN uses the CPU's bf16
/// instructions, f32 elsewhere. Accumulation and output are f32.
DType matmul_dtype();

/// Version of the oneDNN library in use, "2.6.3".
std::string matmul_library();

/// A weight [n, k] with its bias [n], in the layout that oneDNN computes with. Copies share it.
class Linear {
 public:
  Linear() = default;
  /// `rows` holds [n, k] of matmul_dtype(); `bias` is [n] or empty.
  Linear(int64_t n, int64_t k, Buffer rows, std::vector<float> bias);

  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  int64_t bytes() const;

 private:
  friend class Matmul;
  struct Packed;
  int64_t n_ = 0;
  int64_t k_ = 0;
  std::shared_ptr<const Packed> packed_;
};

/// Runs products: on all OpenMP threads, or, inside a parallel region, on the calling thread alone
/// (any number of threads of one region may run products of the same object). Keeps what oneDNN
/// compiled for each shape, so use one object and few different m.
class Matmul {
 public:
  Matmul();
  ~Matmul();

  /// out [m, n] f32 = in [m, k] of matmul_dtype() * weight^T + bias, added to out if `accumulate`
  /// (which a Linear with a bias allows, too).
  void run(const Linear& linear, const void* in, int64_t m, float* out, bool accumulate);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flexprefill::runtime
