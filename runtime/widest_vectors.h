#pragma once

namespace flexprefill::runtime {

/// Calls `loops`, compiled for the widest vectors that this processor has. Whatever it does must be
/// inlined into it: write it as `[&]() FLEXPREFILL_INLINE { ... }` and mark the functions that it
/// calls the same way. A call costs a few nanoseconds: pass loops over rows, not single elements.
template <typename Loops>
void with_widest_vectors(const Loops& loops);

#define FLEXPREFILL_INLINE __attribute__((always_inline))

#if defined(__x86_64__)
namespace widest_vectors {

enum class Width { kBase, kAvx2, kAvx512 };

// The processor's, or FLEXPREFILL_CPU_ISA's if that is narrower.
Width width();

template <typename Loops>
[[gnu::target("avx2,fma")]] void run_avx2(const Loops& loops) {
  loops();
}

template <typename Loops>
[[gnu::target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]] void run_avx512(const Loops& loops) {
  loops();
}

}  // namespace widest_vectors
#endif

template <typename Loops>
void with_widest_vectors(const Loops& loops) {
#if defined(__x86_64__)
  switch (widest_vectors::width()) {
    case widest_vectors::Width::kAvx512: return widest_vectors::run_avx512(loops);
    case widest_vectors::Width::kAvx2: return widest_vectors::run_avx2(loops);
    case widest_vectors::Width::kBase: break;
  }
#endif
  loops();
}

}  // namespace flexprefill::runtime
