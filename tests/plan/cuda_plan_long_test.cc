// plan() of the cuda backend over many key blocks; skips without a GPU. The kernels that write rows
// keep the weights of some rows in shared memory, fewer the more key blocks there are:
// number_work() of src/cuda/plan.cu chooses 8, 16, 6, 4 or 1 rows, each an instantiation of its
// own. The other suites stay below 512 key blocks, so they reach 8 alone.

#include <gtest/gtest.h>

#include "tests/plan/cuda_plan_cases.h"

namespace flexprefill::test {
namespace {

// One head, few channels, because the reference computes on one core. min_budget 0 and this gamma
// keep about half of the blocks.
PlanCase long_case(Structure structure, int64_t q_len, int64_t kv_len) {
  return {.structure = structure,
          .q_len = q_len,
          .kv_len = kv_len,
          .heads = 1,
          .kv_heads = 1,
          .head_dim = 20,
          .dtype = DType::kBF16};
}
constexpr FlexPrefill kQueryAware = {.gamma = 0.5f, .tau = 1.0f, .min_budget = 0};
constexpr FlexPrefill kVerticalSlash = {.gamma = 0.5f, .tau = 0.0f, .min_budget = 0};

void compare_with_reference(const PlanCase& c, const FlexPrefill& policy, Tally& tally) {
  const DeviceInstance x(c);
  compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy), tally,
          c.name() + " " + str(policy));
}

// Some 17 s on one core (EPYC, Zen 4), nearly all of them the reference's.
TEST_F(CudaPlan, LongKeysPlanAsTheReference) {
  Tally tally;
  for (const PlanCase& c : {
           long_case(Structure::kLocal, 2100, 70'001),    // 16 rows: 547 key blocks, from 512
           long_case(Structure::kTopics, 1000, 390'001),  // 6: 3047, above 3000
           long_case(Structure::kSink, 700, 1'150'001),   // 4: 8985, above 8900
           long_case(Structure::kLocal, 300, 1'670'001),  // 1: 13,047, above 13,000
       }) {
    for (const FlexPrefill& policy : {kQueryAware, kVerticalSlash}) {
      compare_with_reference(c, policy, tally);
    }
  }
  EXPECT_EQ(tally.patterns[Pattern::kQueryAware], 4);
  EXPECT_EQ(tally.patterns[Pattern::kVerticalSlash], 4);
  expect_few_differences(tally, 0.001);
}

// The official rule wants q_len = kv_len, so its entries grow with the square: at 1.2 M tokens the
// reference sorts 44 M of them for 13 s. This reaches 16 and 6 rows; SizedForMoreTokens all.
TEST_F(CudaPlan, LongOfficialPlansAreTheReferences) {
  Tally tally;
  for (const PlanCase& c : {long_case(Structure::kSink, 70'001, 70'001),
                            long_case(Structure::kTopics, 390'001, 390'001)}) {
    for (FlexPrefill policy : {kQueryAware, kVerticalSlash}) {
      policy.rule = Rule::kOfficial;
      compare_with_reference(c, policy, tally);
    }
  }
  EXPECT_EQ(tally.patterns[Pattern::kQueryAware], 2);
  EXPECT_EQ(tally.patterns[Pattern::kVerticalSlash], 2);
  expect_few_differences(tally, 0.005);
}

// More key blocks than shared memory has room for weights of 16 rows, which fixed patterns need
// not.
TEST_F(CudaPlan, FixedPatternsOfLongKeysAreTheReferences) {
  Tally tally;
  const PlanCase c = {.q_len = 300,
                      .kv_len = 450'001,
                      .heads = 1,
                      .kv_heads = 1,
                      .head_dim = 8,
                      .dtype = DType::kBF16};
  const DeviceInstance x(c);
  for (const Policy& policy : {Policy{Dense{}}, Policy{AShape{}}}) {
    compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy), tally,
            c.name() + " " + str(policy));
  }
  EXPECT_EQ(tally.different_blocks, 0);
}

// The instantiations go by the upper bounds. With the true lengths on the device, each of them
// plans 2500 tokens, and must give the bits of the first, which the other suites test.
TEST_F(CudaPlan, SizedForMoreTokensChangesNoBit) {
  const DeviceInstance x({.structure = Structure::kLocal,
                          .q_len = 2500,
                          .kv_len = 2500,
                          .heads = 2,
                          .kv_heads = 1,
                          .head_dim = 64,
                          .dtype = DType::kBF16});
  const int32_t lengths[] = {2500, 2500};
  const DeviceMemory on_device(std::as_bytes(std::span(lengths)));
  for (FlexPrefill policy : {kQueryAware, kVerticalSlash}) {
    for (const Rule rule : {Rule::kCoverage, Rule::kOfficial}) {
      policy.rule = rule;
      const DevicePlan exact = device_plan(x.device.problem, policy);
      for (const int64_t bound : {70'001, 390'001, 1'150'001, 1'670'001}) {
        SCOPED_TRACE(str(policy) + " bound " + std::to_string(bound));
        AttentionProblem bounded = x.device.problem;
        bounded.q.tokens = bounded.kv.k.tokens = bound;
        bounded.q_len_device = on_device.as<int32_t>();
        bounded.kv_len_device = on_device.as<int32_t>() + 1;
        expect_same_plan(device_plan(bounded, policy), exact);
      }
    }
  }
}

}  // namespace
}  // namespace flexprefill::test
