#pragma once

// Threads are OpenMP's, as in the engines this library is embedded in: a second pool would fight
// theirs.

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace flexprefill::internal {

// Threads that a call with Context::threads = `requested` may use.
inline int thread_count(int requested) { return requested > 0 ? requested : omp_get_max_threads(); }

// Calls body(thread, n) for n in [0, count), in order of n as threads become free. `body` must not
// throw and its result must not depend on `thread`, which only names scratch memory.
template <typename Body>
void for_each_item(int threads, int64_t count, const Body& body) {
  const int team = static_cast<int>(std::min<int64_t>(threads, count));
  if (team <= 1) {
    for (int64_t n = 0; n < count; ++n) body(0, n);
    return;
  }
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
  for (int64_t n = 0; n < count; ++n) body(omp_get_thread_num(), n);
}

}  // namespace flexprefill::internal
