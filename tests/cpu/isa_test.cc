#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "flexprefill/error.h"
#include "tests/cpu/tested_isas.h"

namespace flexprefill::test {
namespace {

using internal::Isa;
using testing::HasSubstr;

std::string message_of_forcing(std::string_view name) {
  try {
    internal::choose_isa(name);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(CpuIsa, EveryMachineHasThePortableOne) {
  EXPECT_TRUE(internal::isa_supported(Isa::kPortable));
  EXPECT_EQ(internal::choose_isa("portable"), Isa::kPortable);
}

TEST(CpuIsa, TheBestSupportedOneIsTheDefault) {
  EXPECT_EQ(internal::choose_isa(""), tested_isas().back());
}

TEST(CpuIsa, UnknownNameIsRefusedWithTheNamesThatExist) {
  const std::string message = message_of_forcing("sse9");
  EXPECT_THAT(message, HasSubstr("FLEXPREFILL_CPU_ISA = sse9"));
  for (const Isa isa : tested_isas()) {
    EXPECT_THAT(message, HasSubstr(std::string(internal::isa_name(isa))));
  }
}

TEST(CpuIsa, NamesChooseWhatTheyNameOrAreRefused) {
  for (const Isa isa : internal::compiled_isas()) {
    const std::string name(internal::isa_name(isa));
    if (internal::isa_supported(isa)) {
      EXPECT_EQ(internal::choose_isa(name), isa);
      EXPECT_THAT(internal::cpu_backend_for(isa)->description(), HasSubstr(name));
    } else {
      EXPECT_THAT(message_of_forcing(name), HasSubstr("FLEXPREFILL_CPU_ISA = " + name));
    }
  }
}

}  // namespace
}  // namespace flexprefill::test
