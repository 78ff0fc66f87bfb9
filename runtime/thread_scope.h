#pragma once

#include <omp.h>

namespace flexprefill::runtime {

/// Sets the number of OpenMP threads of the calling thread for its lifetime; oneDNN follows it.
class ThreadScope {
 public:
  /// 0 leaves the number as it is.
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) {
    if (threads > 0) omp_set_num_threads(threads);
  }
  ~ThreadScope() { omp_set_num_threads(before_); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

}  // namespace flexprefill::runtime
