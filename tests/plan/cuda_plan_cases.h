#pragma once

// What the suites of plan() on the GPU have in common: the fixture that skips without one, and the
// cases.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/plan/cuda_plan.h"
#include "tests/plan/plan_cases.h"

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

}  // namespace flexprefill::test
