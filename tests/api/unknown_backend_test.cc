// FLEXPREFILL_BACKEND that names no backend: every call says so, and none runs another backend
// instead.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "flexprefill/c_api.h"
#include "tests/api/small_problem.h"

namespace flexprefill {
namespace {

using testing::HasSubstr;

// Set before main(), hence before the library reads it.
const int kForced = setenv("FLEXPREFILL_BACKEND", "abacus", /*replace=*/1);

TEST(UnknownBackend, IsRefusedByEveryCallAgainAndAgain) {
  ASSERT_EQ(kForced, 0);
  SmallProblem small;
  for (int n = 0; n < 2; ++n) {
    EXPECT_THAT(error_of([] { (void)backends(); }),
                HasSubstr("FLEXPREFILL_BACKEND = abacus, expected one of: "));
    EXPECT_THAT(error_of([&] { (void)workspace_bytes(small.problem, Dense{}); }),
                HasSubstr("FLEXPREFILL_BACKEND = abacus"));
  }
}

TEST(UnknownBackend, LeavesTheCApiAnEmptyListAndAMessage) {
  EXPECT_EQ(flexprefill_num_backends(), 0);
  EXPECT_THAT(flexprefill_last_error(), HasSubstr("FLEXPREFILL_BACKEND = abacus"));
  EXPECT_EQ(flexprefill_backend_name(0), nullptr);
  EXPECT_EQ(flexprefill_backend_description(0), nullptr);
}

}  // namespace
}  // namespace flexprefill
