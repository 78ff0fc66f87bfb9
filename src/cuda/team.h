#pragma once

// Threads that work on one thing together: a block, a warp, or (in tests) one host thread. Code
// written for a team reads as serial loops. Sums are taken in an order that depends on n and the
// team's size alone.

#include <cstdint>

#include "cuda/cut.h"

namespace flexprefill::internal::cuda {

struct HostTeam {
  template <typename Do>
  void for_each(int32_t n, const Do& work) const {
    for (int32_t x = 0; x < n; ++x) work(x);
  }

  template <typename Term>
  auto sum(int32_t n, const Term& term) const {
    decltype(term(0)) total{};
    for (int32_t x = 0; x < n; ++x) total += term(x);
    return total;
  }

  // Both cuts, which the device finds side by side.
  template <typename First, typename Second>
  void both(const First& first, const Second& second) const {
    first(HostTeam{});
    second(HostTeam{});
  }
};

}  // namespace flexprefill::internal::cuda
