#include "runtime/widest_vectors.h"

#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
namespace flexprefill::runtime::widest_vectors {

Width width() {
  static const Width width = [] {
    // Nobody writes the environment from our side. The cpu backend refuses names it does not know.
    const char* variable = std::getenv("FLEXPREFILL_CPU_ISA");  // NOLINT(concurrency-mt-unsafe)
    const std::string_view forced = variable == nullptr ? "" : variable;
    const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
    const bool avx512 =
        __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
        __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
    if (!avx2 || forced == "portable") return Width::kBase;
    return avx512 && forced != "avx2" ? Width::kAvx512 : Width::kAvx2;
  }();
  return width;
}

}  // namespace flexprefill::runtime::widest_vectors
#endif
