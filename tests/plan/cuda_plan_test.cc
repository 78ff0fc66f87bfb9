// plan() of the cuda backend against the reference, on a GPU; skips without one.

#include "tests/plan/cuda_plan_cases.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "tests/plan/official_fixture.h"

namespace flexprefill::test {
namespace {

std::vector<FlexPrefill> policies() {
  return {
      {.gamma = 0.9f, .tau = 0.1f, .min_budget = 0},
      {.gamma = 0.5f, .tau = 0.0f, .min_budget = 128},
      {.gamma = 0.95f, .tau = 1.0f, .min_budget = 0},
      {.gamma = 0.99f, .tau = 0.1f, .min_budget = 0},
      {.gamma = 0.9f, .tau = 0.1f, .min_budget = 0, .max_budget = 128},
      {.gamma = 0.99f, .tau = 1.0f, .min_budget = 128, .max_budget = 256},
      {.gamma = 0.9f, .tau = 0.2f, .min_budget = 300, .max_budget = 600},
      {.gamma = 1.0f, .min_budget = 0},
  };
}

TEST_F(CudaPlan, CoverageIsTheReferences) {
  Tally tally;
  for (const PlanCase& c : cases()) {
    const DeviceInstance x(c);
    for (const FlexPrefill& policy : policies()) {
      const DevicePlan actual = device_plan(x.device.problem, policy);
      compare(actual, 0, reference_plan(x.host.problem, policy), tally,
              c.name() + " " + str(policy));
      for (size_t h = 0; h < actual.reports[0].size(); ++h) {
        const HeadReport& report = actual.reports[0][h];
        if (!report.budget_limited) {
          EXPECT_GE(report.coverage, policy.gamma);
        }
      }
    }
  }
  for (const Pattern pattern : {Pattern::kVerticalSlash, Pattern::kQueryAware, Pattern::kDense}) {
    std::cout << tally.patterns[pattern] << " heads " << to_string(pattern) << "\n";
    EXPECT_GT(tally.patterns[pattern], 50);
  }
  std::cout << tally.limited << " heads limited by max_budget\n";
  EXPECT_GT(tally.limited, 50);
  std::cout << tally.heads - tally.different_heads << " of " << tally.heads << " heads identical, "
            << tally.different_blocks << " of " << tally.blocks << " blocks differ, "
            << tally.other_patterns << " heads with another pattern\n";
  EXPECT_LE(static_cast<double>(tally.different_blocks), 0.001 * static_cast<double>(tally.blocks));
}

TEST_F(CudaPlan, FixedPatternsAreTheReferences) {
  Tally tally;
  for (const PlanCase& c : cases()) {
    const DeviceInstance x(c);
    for (const Policy& policy :
         {Policy{Dense{}}, Policy{AShape{}}, Policy{AShape{.sink_tokens = 0, .local_tokens = 1}},
          Policy{AShape{.sink_tokens = 300, .local_tokens = 129}}}) {
      compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy),
              tally, c.name() + " " + str(policy));
    }
  }
  EXPECT_EQ(tally.different_blocks, 0);
}

TEST_F(CudaPlan, RealLayersPlanAsTheReference) {
  Tally tally;
  for (const char* name : {"n2000_layer4", "n2048_layer1", "n2048_layer4", "n4096_layer4"}) {
    const DeviceInstance x{std::string(name)};
    for (const FlexPrefill& policy : policies()) {
      compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy),
              tally, std::string(name) + " " + str(policy));
    }
  }
  expect_few_differences(tally, 0.001);
}

TEST_F(CudaPlan, OfficialSelectsTheRecordedBlocks) {
  OfficialTally tally;
  for (const std::string& name : fixtures()) {
    const Recorded recorded(name);
    const DeviceTensors device(recorded.problem, recorded.q, recorded.k);
    for (const Setting& setting : settings(recorded.fixture)) {
      const DevicePlan plan = device_plan(device.problem, setting.policy);
      const ReferencePlan reference = reference_plan(recorded.problem, setting.policy);
      for (int32_t h = 0; h < recorded.problem.q.heads; ++h) {
        SCOPED_TRACE(name + " " + setting.name + " head " + std::to_string(h));
        const auto actual = blocks_of(plan.masks[0], h);
        const auto expected = recorded.blocks(setting, h);
        const size_t different = differing(actual, expected);
        ++tally.heads;
        tally.identical_heads += different == 0;
        tally.blocks += expected.size();
        tally.different_blocks += different;
        const HeadReport& report = plan.reports[0][static_cast<size_t>(h)];
        EXPECT_EQ(report.kept_blocks, static_cast<int64_t>(actual.size()));
        const OfficialTrace trace(recorded.problem, setting.policy, h);
        if (actual != trace.blocks()) {
          std::cout << name << " " << setting.name << " head " << h << ": " << different << " of "
                    << expected.size() << " blocks differ from the record\n";
          expect_explained(trace, actual, "cuda");
        } else {
          const HeadReport& other = reference.reports[static_cast<size_t>(h)];
          EXPECT_EQ(report.pattern, other.pattern);
          expect_near(report.coverage, other.coverage, 2e-5);
          expect_near(report.coverage_min_row, other.coverage_min_row, 2e-4);
          expect_near(report.divergence, other.divergence, 1e-4);
        }
      }
    }
  }
  std::cout << tally.identical_heads << " of " << tally.heads << " heads as recorded, "
            << tally.different_blocks << " of " << tally.blocks << " blocks differ\n";
  EXPECT_LE(static_cast<double>(tally.different_blocks), 0.002 * static_cast<double>(tally.blocks));
}

TEST_F(CudaPlan, OfficialIsTheReferences) {
  Tally tally;
  for (const PlanCase& c : cases()) {
    if (c.q_len != c.kv_len || c.q_start) continue;
    const DeviceInstance x(c);
    for (FlexPrefill policy : policies()) {
      policy.rule = Rule::kOfficial;
      compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy),
              tally, c.name() + " " + str(policy));
    }
  }
  for (const Pattern pattern : {Pattern::kVerticalSlash, Pattern::kQueryAware}) {
    std::cout << tally.patterns[pattern] << " heads " << to_string(pattern) << "\n";
    EXPECT_GT(tally.patterns[pattern], 50);
  }
  std::cout << tally.heads - tally.different_heads << " of " << tally.heads << " heads identical, ";
  // bf16 logits tie often, and noise leaves every block near a cut.
  expect_few_differences(tally, 0.005);
}

// Scores a hundred times larger than usual: rows with one key, and sums that underflow.
TEST_F(CudaPlan, ExtremeLogits) {
  Tally tally;
  for (const float scale : {0.0001f, 1.0f, 30.0f}) {
    for (const Structure structure : kStructures) {
      DeviceInstance x({.structure = structure, .head_dim = 64, .dtype = DType::kBF16});
      x.host.problem.softmax_scale = x.device.problem.softmax_scale = scale;
      for (const FlexPrefill& policy : policies()) {
        compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy),
                tally, x.host.name + " scale " + std::to_string(scale) + " " + str(policy));
      }
    }
  }
  expect_few_differences(tally, 0.002);
}

TEST_F(CudaPlan, UnrankableScoresRunDense) {
  for (const float value : {std::nanf(""), INFINITY, -INFINITY}) {
    PlanInstance host(
        {.structure = Structure::kLocal, .kv_heads = 4, .head_dim = 64, .dtype = DType::kBF16});
    host.k.set(300, 1, 5, value);
    const DeviceTensors device(host.problem, host.q, host.k);
    const FlexPrefill policy = {.gamma = 0.3f, .tau = 0.0f, .min_budget = 0};
    Tally tally;
    const DevicePlan actual = device_plan(device.problem, policy);
    compare(actual, 0, reference_plan(host.problem, policy), tally,
            "value " + std::to_string(value));
    EXPECT_EQ(tally.different_blocks, 0);
    EXPECT_EQ(actual.reports[0][1].pattern, Pattern::kDense);
    EXPECT_NE(actual.reports[0][0].pattern, Pattern::kDense);
  }
}

}  // namespace
}  // namespace flexprefill::test
