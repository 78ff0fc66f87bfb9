// Run once per value of FLEXPREFILL_CPU_ISA: what the variable names is what runs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "flexprefill/error.h"
#include "tests/cpu/tested_isas.h"

namespace flexprefill::test {
namespace {

using testing::HasSubstr;

TEST(CpuIsaVariable, ForcesWhatItNamesOrExplains) {
  const char* forced = std::getenv("FLEXPREFILL_CPU_ISA");  // NOLINT(concurrency-mt-unsafe)
  if (forced == nullptr) GTEST_SKIP() << "FLEXPREFILL_CPU_ISA is not set";
  const auto isas = tested_isas();
  const bool known = std::any_of(isas.begin(), isas.end(), [&](internal::Isa isa) {
    return internal::isa_name(isa) == forced;
  });
  if (known) {
    EXPECT_THAT(internal::cpu_backend()->description(), HasSubstr(forced));
    return;
  }
  try {
    internal::cpu_backend();
    FAIL() << forced << " was accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("FLEXPREFILL_CPU_ISA = " + std::string(forced)));
    EXPECT_THAT(error.what(), HasSubstr("portable"));
  }
}

}  // namespace
}  // namespace flexprefill::test
