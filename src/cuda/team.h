#pragma once

// Threads that work on one thing together: a block, a warp, or (in tests) one host thread. Code
// written for a team reads as serial loops. Sums are taken in an order that depends on n and the
// team's size alone.

#include <cstdint>

#include "cuda/cut.h"

namespace flexprefill::internal::cuda {

struct HostTeam {
  static constexpr int32_t kGathers = 1;  // scores that gather() takes; 1 = there is none

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

  // results[n] = work(part of the team, n) for n < 2, each over about `size` things.
  template <typename Result, typename Work>
  void two(int32_t, Result (&results)[2], const Work& work) const {
    for (int32_t n = 0; n < 2; ++n) results[n] = work(*this, n);
  }

  // store(w, word) for each of `words` words: bit b of word w tells whether keeps(64 w + b). One
  // thread stores a word.
  template <typename Keeps, typename Store>
  void store_bits(int32_t words, const Keeps& keeps, const Store& store) const {
    for (int32_t w = 0; w < words; ++w) {
      uint64_t word = 0;
      for (int32_t b = 0; b < 64; ++b) word |= uint64_t{keeps(64 * w + b) ? 1u : 0u} << b;
      store(w, word);
    }
  }
};

}  // namespace flexprefill::internal::cuda
