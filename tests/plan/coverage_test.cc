// Rule::kCoverage keeps its promises, on random and on real q and k, for every backend.

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <map>

#include "tests/plan/plan_cases.h"
#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

std::vector<FlexPrefill> policies() {
  std::vector<FlexPrefill> all = {
      {.gamma = 0.9f, .tau = 0.1f, .min_budget = 0},
      {.gamma = 0.5f, .tau = 0.0f, .min_budget = 128},
      {.gamma = 0.95f, .tau = 1.0f, .min_budget = 0},
      {.gamma = 0.99f, .tau = 0.1f, .min_budget = 0},
      {.gamma = 0.9f, .tau = 0.1f, .min_budget = 0, .max_budget = 128},
      {.gamma = 0.99f, .tau = 1.0f, .min_budget = 128, .max_budget = 256},
      {.gamma = 0.9f, .tau = 0.2f, .min_budget = 300, .max_budget = 600},
  };
  if (kSanitized) all = {all[0], all[4]};
  return all;
}

std::string str(const FlexPrefill& p) {
  return "gamma " + std::to_string(p.gamma) + " tau " + std::to_string(p.tau) + " min " +
         std::to_string(p.min_budget) + " max " +
         (p.max_budget ? std::to_string(*p.max_budget) : "none");
}

struct Seen {
  std::map<Pattern, int> patterns;
  int limited = 0;
};

void expect_promise_kept(const KeptMass& truth, const FlexPrefill& policy, const BlockMask& mask,
                         int32_t h, const HeadReport& report, Seen& seen) {
  constexpr double kTolerance = 2e-5;  // fp32 scores of size 10: 10 * 2^-23 * a few
  EXPECT_NEAR(double{report.coverage}, truth.mean, kTolerance);
  EXPECT_NEAR(double{report.coverage_min_row}, truth.min_row, 10 * kTolerance);
  EXPECT_EQ(report.kept_blocks, kept_blocks(mask, h));
  EXPECT_EQ(report.causal_blocks, causal_blocks(mask));
  if (report.budget_limited) {
    EXPECT_TRUE(policy.max_budget.has_value());
    EXPECT_LT(report.coverage, policy.gamma);
  } else {
    EXPECT_GE(report.coverage, policy.gamma);
    EXPECT_GE(truth.mean, double{policy.gamma} - kTolerance);
  }
  ++seen.patterns[report.pattern];
  seen.limited += report.budget_limited;
}

TEST(Coverage, ReportIsTheTrueKeptMassAndReachesGamma) {
  const auto instances = plan_instances();
  for (const Backend* backend : tested_backends()) {
    Seen seen;
    for (const auto& x : instances) {
      std::vector<Mass> mass;
      mass.reserve(static_cast<size_t>(x->problem.q.heads));
      for (int32_t h = 0; h < x->problem.q.heads; ++h) mass.push_back(true_mass(x->problem, h));
      for (const FlexPrefill& policy : policies()) {
        const PlanResult result = run_plan(*backend, x->problem, policy);
        const BlockMask& mask = result.plan.masks[0];
        for (int32_t h = 0; h < mask.heads; ++h) {
          SCOPED_TRACE(x->name + " " + str(policy) + " head " + std::to_string(h));
          const auto n = static_cast<size_t>(h);
          expect_promise_kept(kept_mass(x->problem, mass[n], mask, h), policy, mask, h,
                              result.plan.report()[n], seen);
        }
      }
    }
    // The cases reach every outcome.
    for (const Pattern pattern : {Pattern::kVerticalSlash, Pattern::kQueryAware, Pattern::kDense}) {
      std::cout << backend->name() << ": " << seen.patterns[pattern] << " heads "
                << to_string(pattern) << "\n";
      EXPECT_GT(seen.patterns[pattern], kSanitized ? 0 : 10);
    }
    std::cout << backend->name() << ": " << seen.limited << " heads limited by max_budget\n";
    EXPECT_GT(seen.limited, kSanitized ? 0 : 10);
  }
}

TEST(Coverage, GammaOneSelectsWholeCausalTriangle) {
  const auto instances = plan_instances();
  for (const Backend* backend : tested_backends()) {
    for (const auto& x : instances) {
      const PlanResult result =
          run_plan(*backend, x->problem, FlexPrefill{.gamma = 1.0f, .min_budget = 0});
      EXPECT_EQ(computed_share(result.plan.masks[0]), 1.0) << x->name;
      for (const HeadReport& report : result.plan.report()) {
        EXPECT_EQ(report.pattern, Pattern::kDense);
        EXPECT_EQ(report.coverage, 1.0f);
      }
    }
  }
}

TEST(Coverage, ShortPromptsRunDense) {
  for (const Backend* backend : tested_backends()) {
    for (const int64_t length : {1, 128, 200, 256, 2048}) {
      const PlanInstance x({.q_len = length, .kv_len = length, .heads = 2, .head_dim = 8});
      const FlexPrefill policy = {.min_budget = length > 256 ? 1024 : 0};
      const PlanResult result = run_plan(*backend, x.problem, policy);
      EXPECT_EQ(computed_share(result.plan.masks[0]), 1.0) << length;
    }
    // One token more, and a head with little to keep is sparse.
    const PlanInstance x({.structure = Structure::kLocal, .q_len = 2049, .kv_len = 2049});
    const PlanResult result =
        run_plan(*backend, x.problem, FlexPrefill{.gamma = 0.3f, .min_budget = 1024});
    EXPECT_LT(computed_share(result.plan.masks[0]), 1.0);
  }
}

TEST(Coverage, UnrankableScoresRunDense) {
  for (const Backend* backend : tested_backends()) {
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      PlanInstance x({.structure = Structure::kLocal, .kv_heads = 4});
      x.k.set(300, 1, 5, value);
      const PlanResult result =
          run_plan(*backend, x.problem, FlexPrefill{.gamma = 0.3f, .tau = 0.0f, .min_budget = 0});
      const BlockMask& mask = result.plan.masks[0];
      EXPECT_EQ(kept_blocks(mask, 1), causal_blocks(mask));
      EXPECT_LT(kept_blocks(mask, 0), causal_blocks(mask));
    }
  }
}

// Masks may differ from the reference's only where a score lies near a cut.
TEST(Coverage, BackendsAgreeWithTheReference) {
  const auto instances = plan_instances();
  for (const Backend* backend : tested_backends()) {
    if (backend->name() == "ref") {
      skip(*backend, "all cases", "it is the reference");
      continue;
    }
    int64_t different = 0, total = 0;
    for (const auto& x : instances) {
      for (const FlexPrefill& policy : policies()) {
        const PlanResult result = run_plan(*backend, x->problem, policy);
        const BlockMask& mask = result.plan.masks[0];
        const ReferencePlan expected = reference_plan(x->problem, policy);
        for (int32_t h = 0; h < mask.heads; ++h) {
          const HeadReport& actual = result.plan.report()[static_cast<size_t>(h)];
          const HeadReport& reference = expected.reports[static_cast<size_t>(h)];
          int64_t bits = 0;
          for (int32_t i = 0; i < mask.q_blocks; ++i) {
            for (int32_t j = 0; j < mask.k_blocks; ++j) {
              bits += mask.test(h, i, j) != expected.mask.test(h, i, j);
            }
          }
          if (bits > 0) {
            std::cout << x->name << " " << str(policy) << " head " << h << ": " << bits
                      << " blocks differ, coverage " << actual.coverage << " and "
                      << reference.coverage << "\n";
          }
          different += bits;
          total += actual.causal_blocks;
          EXPECT_EQ(std::isnan(actual.divergence), std::isnan(reference.divergence));
          if (!std::isnan(actual.divergence)) {
            EXPECT_NEAR(actual.divergence, reference.divergence, 1e-4) << x->name;
          }
        }
      }
    }
    std::cout << backend->name() << ": " << different << " of " << total << " blocks differ\n";
    EXPECT_LE(static_cast<double>(different), 0.001 * static_cast<double>(total));
  }
}

}  // namespace
}  // namespace flexprefill::test
