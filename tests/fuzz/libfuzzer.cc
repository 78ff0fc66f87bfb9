// One libFuzzer executable per format (FLEXPREFILL_FUZZ_READ names it), under the sanitizers:
//   cmake --preset fuzz && ninja -C build-fuzz fuzz_config
//   build-fuzz/tests/fuzz/fuzz_config -max_total_time=300 /tmp/corpus tests/fuzz/seeds/config
#include <cstddef>
#include <cstdint>

#include "flexprefill/error.h"
#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    flexprefill::runtime::FLEXPREFILL_FUZZ_READ({reinterpret_cast<const char*>(data), size});
  } catch (const flexprefill::Error&) {
    // the answer to a bad file
  }
  return 0;
}
