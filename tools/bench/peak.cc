#include "tools/bench/peak.h"

#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace flexprefill::internal {

#define FLEXPREFILL_DECLARE_PEAK(isa)                                \
  namespace isa {                                                    \
  double peak_f32(int64_t iterations, float* result);                \
  double peak_bf16(int64_t iterations, float* result);               \
  double peak_read(const float* data, int64_t count, float* result); \
  }
FLEXPREFILL_DECLARE_PEAK(portable)
#if defined(__x86_64__)
FLEXPREFILL_DECLARE_PEAK(avx2)
FLEXPREFILL_DECLARE_PEAK(avx512)
FLEXPREFILL_DECLARE_PEAK(avx512bf16)
#endif

}  // namespace flexprefill::internal

namespace flexprefill::tools {
namespace {

constexpr PeakKernels kKernels[] = {
#if defined(__x86_64__)
    {"avx512bf16", internal::avx512bf16::peak_f32, internal::avx512bf16::peak_bf16,
     internal::avx512bf16::peak_read},
    {"avx512", internal::avx512::peak_f32, nullptr, internal::avx512::peak_read},
    {"avx2", internal::avx2::peak_f32, nullptr, internal::avx2::peak_read},
#endif
    {"portable", internal::portable::peak_f32, nullptr, internal::portable::peak_read},
};

constexpr double kSampleSeconds = 0.01;

}  // namespace

// The public interface names the set in the description alone; the longest name comes first.
const PeakKernels* peak_kernels(const Backend& backend) {
  const std::string description = backend.description();
  for (const PeakKernels& kernels : kKernels)
    if (description.find(kernels.isa) != std::string::npos) return &kernels;
  return nullptr;
}

int thread_count(int requested) { return requested > 0 ? requested : omp_get_max_threads(); }

std::optional<Peak> Peak::of(const Backend& backend, DType dtype, int threads) {
  const PeakKernels* kernels = peak_kernels(backend);
  if (kernels == nullptr) return std::nullopt;
  const bool bf16 = dtype != DType::kF32 && kernels->bf16 != nullptr;
  return Peak(std::string(bf16 ? "bf16 " : "fp32 ") + kernels->isa,
              bf16 ? kernels->bf16 : kernels->f32, threads);
}

Peak::Peak(std::string name, double (*kernel)(int64_t, float*), int threads)
    : name_(std::move(name)), kernel_(kernel), threads_(thread_count(threads)) {
  float result = 1e-3f;
  for (;; iterations_ *= 2) {
    const double begin = omp_get_wtime();
    kernel_(iterations_, &result);
    if (omp_get_wtime() - begin >= kSampleSeconds) return;
  }
}

double Peak::sample() const { return run(iterations_); }

double Peak::run(int64_t iterations) const {
  double begin = 1e300, end = 0.0, flops = 0.0;
#pragma omp parallel num_threads(threads_) reduction(min : begin) reduction(max : end) \
    reduction(+ : flops)
  {
    float result = 1e-3f;
#pragma omp barrier
    begin = omp_get_wtime();
    flops = kernel_(iterations, &result);
    end = omp_get_wtime();
    if (result == 0.5f) std::puts("");  // never: the result must look used
  }
  return flops / (end - begin);
}

}  // namespace flexprefill::tools
