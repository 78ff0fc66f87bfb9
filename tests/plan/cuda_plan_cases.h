#pragma once

// What the suites of plan() on the GPU have in common: the fixture that skips without one, the
// cases, and the comparisons.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "tests/plan/cuda_plan.h"
#include "tests/plan/plan_cases.h"
#include "tests/support/run.h"

namespace flexprefill::test {

class CudaPlan : public testing::Test {
 protected:
  void SetUp() override;
};

struct DeviceInstance {
  explicit DeviceInstance(const PlanCase& c) : host(c), device(host.problem, host.q, host.k) {}
  explicit DeviceInstance(const std::string& fixture)
      : host(fixture), device(host.problem, host.q, host.k) {}

  PlanInstance host;
  DeviceTensors device;
};

inline constexpr Structure kStructures[] = {Structure::kNoise, Structure::kSink, Structure::kLocal,
                                            Structure::kTopics};

// Every structure, head_dim, type, grouping, ratio of heads, and length that ends anywhere.
std::vector<PlanCase> cases();

std::string str(const Policy& policy);

struct Tally {
  int64_t heads = 0, different_heads = 0, blocks = 0, different_blocks = 0, other_patterns = 0;
  std::map<Pattern, int> patterns;
  int limited = 0;
};

// A float of the report, which may be NaN.
void expect_near(float actual, float expected, double tolerance);

// Problem p of `actual` against the reference's plan: counts and prints the blocks that differ,
// which rounding may cause, and expects the same report of heads without any.
void compare(const DevicePlan& actual, size_t p, const ReferencePlan& expected, Tally& tally,
             const std::string& name);

// Prints how many blocks differ, and expects at most this share of them.
void expect_few_differences(const Tally& tally, double share);

// Plans of one problem: the same bits and reports; rows and words that only `actual` has are 0.
void expect_same_plan(const DevicePlan& actual, const DevicePlan& expected);

}  // namespace flexprefill::test
