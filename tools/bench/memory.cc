#include "tools/bench/memory.h"

#include <omp.h>

#include <cstdio>
#include <cstring>

#include "runtime/buffer.h"

namespace flexprefill::tools {
namespace {

constexpr int64_t kLeastBytes = int64_t{64} << 20;  // moved by a sample: some milliseconds

// Bytes per second of run(thread), which returns bytes; the slowest thread counts.
template <typename Run>
double sample(int threads, Run run) {
  double begin = 1e300, end = 0.0, bytes = 0.0;
#pragma omp parallel num_threads(threads) reduction(min : begin) reduction(max : end) \
    reduction(+ : bytes)
  {
    const int thread = omp_get_thread_num();
#pragma omp barrier
    begin = omp_get_wtime();
    bytes = run(thread);
    end = omp_get_wtime();
  }
  return bytes / (end - begin);
}

}  // namespace

Bandwidth measure_bandwidth(const PeakKernels& kernels, int threads, int64_t bytes, int repeats) {
  constexpr int64_t kMultiple = 4096;
  bytes = (bytes + kMultiple - 1) / kMultiple * kMultiple;
  const runtime::Buffer source(static_cast<size_t>(bytes) * static_cast<size_t>(threads),
                               "the bandwidth measurement");
  const runtime::Buffer target(source.bytes(), "the bandwidth measurement");
  std::memset(source.data(), 0, source.bytes());  // real pages, not the shared page of zeros
  std::memset(target.data(), 0, target.bytes());
  const int64_t passes = std::max<int64_t>(1, kLeastBytes / bytes);
  const auto part = [&](const runtime::Buffer& buffer, int thread) {
    return buffer.as<std::byte>() + static_cast<int64_t>(thread) * bytes;
  };
  const auto read = [&](int thread) {
    float result = 0.0f;
    double total = 0.0;
    const auto* data = reinterpret_cast<const float*>(part(source, thread));
    for (int64_t n = 0; n < passes; ++n)
      total += kernels.read(data, bytes / static_cast<int64_t>(sizeof(float)), &result);
    if (result == 0.5f) std::puts("");  // never: the result must look used
    return total;
  };
  const auto copy = [&](int thread) {
    for (int64_t n = 0; n < passes; ++n)
      std::memcpy(part(target, thread), part(source, thread), static_cast<size_t>(bytes));
    return 2.0 * static_cast<double>(bytes) * static_cast<double>(passes);
  };
  std::vector<double> reads, copies;
  for (int n = 0; n <= repeats; ++n) {
    const double read_rate = sample(threads, read), copy_rate = sample(threads, copy);
    if (n == 0) continue;  // warm-up
    reads.push_back(read_rate);
    copies.push_back(copy_rate);
  }
  return {summarize(std::move(reads)), summarize(std::move(copies))};
}

}  // namespace flexprefill::tools
