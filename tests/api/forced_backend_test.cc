// FLEXPREFILL_BACKEND leaves one backend, and the one named is the one that runs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "flexprefill/c_api.h"
#include "tests/api/small_problem.h"

namespace flexprefill {
namespace {

// Set before main(), hence before the library reads it.
const int kForced = setenv("FLEXPREFILL_BACKEND", "ref", /*replace=*/1);

TEST(ForcedBackend, IsTheOnlyOneOfTheList) {
  ASSERT_EQ(kForced, 0);
  ASSERT_EQ(backends().size(), 1u);
  EXPECT_EQ(backends().front()->name(), "ref");
  EXPECT_EQ(find_backend("cpu"), nullptr);
  EXPECT_EQ(flexprefill_num_backends(), 1);
  EXPECT_STREQ(flexprefill_backend_name(0), "ref");
  EXPECT_EQ(flexprefill_backend_name(1), nullptr);
}

TEST(ForcedBackend, Runs) {
  SmallProblem small;
  OwnContext own(small.problem, FlexPrefill{});
  EXPECT_EQ(prefill(small.problem, FlexPrefill{}, own.context).backend->name(), "ref");
}

TEST(ForcedBackend, AnotherOneIsRefusedByName) {
  class Other : public Backend {
    std::string_view name() const override { return "other"; }
    std::string description() const override { return ""; }
    std::string why_not(const AttentionProblem&, std::span<const Policy>,
                        const AttendOptions&) const override {
      return "";
    }
    size_t scratch_bytes(std::span<const AttentionProblem>, std::span<const Policy>,
                         int) const override {
      return 0;
    }
    void plan(std::span<const AttentionProblem>, std::span<const Policy>,
              std::span<const BlockMask>, std::span<HeadReport* const>, std::span<std::byte>,
              const Context&) const override {}
    void attend(std::span<const AttentionProblem>, std::span<const BlockMask>, const AttendOptions&,
                std::span<std::byte>, const Context&) const override {}
  };
  const Other other;
  SmallProblem small;
  OwnContext own(small.problem, Dense{});
  own.context.backend = &other;
  EXPECT_THAT(error_of([&] { (void)plan(small.problem, Dense{}, own.context); }),
              testing::HasSubstr("Context.backend = other, expected one of backends()"));
}

}  // namespace
}  // namespace flexprefill
