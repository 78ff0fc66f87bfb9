#include "tests/plan/cuda_plan_cases.h"

#include <cmath>
#include <iostream>

#include "tests/support/device.h"

namespace flexprefill::test {

void CudaPlan::SetUp() {
  const std::string why = machine_why_not(*find_backend("cuda"));
  if (!why.empty()) GTEST_SKIP() << why;
}

std::vector<PlanCase> cases() {
  std::vector<PlanCase> all;
  int n = 0;
  for (const Structure structure : kStructures) {
    for (const int32_t head_dim : {64, 96, 128, 192, 256}) {
      ++n;
      all.push_back({.structure = structure,
                     .q_len = 1500 + 37 * n,
                     .kv_len = 1500 + 37 * n,
                     .heads = 4,
                     .kv_heads = 2,
                     .head_dim = head_dim,
                     .dtype = n % 3 == 0 ? DType::kF16 : DType::kBF16});
    }
    // Chunks, all ratios, dimensions that are no multiple of anything.
    all.push_back(
        {structure, 300, 1301, std::nullopt, 4, 2, 20, DType::kBF16, HeadGrouping::kInterleaved});
    all.push_back({structure, 77, 1000, std::nullopt, 7, 1, 128, DType::kF16});
    all.push_back({structure, 128, 2048, std::nullopt, 6, 6, 80, DType::kBF16});
    all.push_back(
        {structure, 640, 4096, 3000, 8, 2, 128, DType::kBF16, HeadGrouping::kInterleaved});
    all.push_back({structure, 2049, 2049, std::nullopt, 5, 1, 256, DType::kBF16});
    all.push_back({structure, 5000, 5000, std::nullopt, 4, 2, 64, DType::kBF16});
  }
  all.push_back({Structure::kLocal, 200, 900, 1200, 4, 2, 64, DType::kBF16});  // keys in the past
  all.push_back({Structure::kSink, 900, 1100, -50, 4, 2, 64, DType::kBF16});   // rows without keys
  all.push_back({Structure::kSink, 60, 1100, -30, 4, 2, 64, DType::kBF16});
  all.push_back({Structure::kTopics, 1, 700, std::nullopt, 3, 1, 128, DType::kBF16});
  all.push_back(
      {Structure::kLocal, 300, 2000, 1000, 4, 2, 128, DType::kBF16});  // keys in the future
  return all;
}

std::string str(const Policy& policy) {
  if (const auto* p = std::get_if<FlexPrefill>(&policy)) {
    return std::string(p->rule == Rule::kOfficial ? "official" : "coverage") + " gamma " +
           std::to_string(p->gamma) + " tau " + std::to_string(p->tau) + " min " +
           std::to_string(p->min_budget) + " max " +
           (p->max_budget ? std::to_string(*p->max_budget) : "none");
  }
  return std::holds_alternative<Dense>(policy) ? "dense" : "a-shape";
}

void expect_near(float actual, float expected, double tolerance) {
  ASSERT_EQ(std::isnan(actual), std::isnan(expected)) << actual << " and " << expected;
  if (!std::isnan(expected)) {
    EXPECT_NEAR(actual, expected, tolerance);
  }
}

void compare(const DevicePlan& actual, size_t p, const ReferencePlan& expected, Tally& tally,
             const std::string& name) {
  const BlockMask& mask = actual.masks[p];
  for (int32_t h = 0; h < mask.heads; ++h) {
    const std::string where = name + " head " + std::to_string(h);
    SCOPED_TRACE(where);
    const HeadReport& a = actual.reports[p][static_cast<size_t>(h)];
    const HeadReport& e = expected.reports[static_cast<size_t>(h)];
    const auto bits = head_bits(mask, h), expected_bits = head_bits(expected.mask, h);
    int64_t different = 0;
    for (size_t w = 0; w < bits.size(); ++w) {
      different += std::popcount(bits[w] ^ expected_bits[w]);
    }
    EXPECT_EQ(a.kept_blocks, kept_blocks(mask, h));
    EXPECT_EQ(a.causal_blocks, e.causal_blocks);
    ++tally.heads;
    tally.blocks += e.causal_blocks;
    tally.different_blocks += different;
    tally.different_heads += different > 0;
    ++tally.patterns[a.pattern];
    tally.limited += a.budget_limited;
    if (different > 0) {
      tally.other_patterns += a.pattern != e.pattern;
      std::cout << where << ": " << different << " of " << e.causal_blocks
                << " blocks differ, pattern " << to_string(a.pattern) << " and "
                << to_string(e.pattern) << ", coverage " << a.coverage << " and " << e.coverage
                << ", divergence " << a.divergence << " and " << e.divergence << "\n";
      continue;
    }
    EXPECT_EQ(a.pattern, e.pattern);
    EXPECT_EQ(a.budget_limited, e.budget_limited);
    expect_near(a.coverage, e.coverage, 2e-5);
    expect_near(a.coverage_min_row, e.coverage_min_row, 2e-4);
    expect_near(a.divergence, e.divergence, 1e-4);
  }
}

void expect_few_differences(const Tally& tally, double share) {
  std::cout << tally.different_blocks << " of " << tally.blocks << " blocks differ\n";
  EXPECT_LE(static_cast<double>(tally.different_blocks), share * static_cast<double>(tally.blocks));
}

void expect_same_plan(const DevicePlan& actual, const DevicePlan& expected) {
  const BlockMask &a = actual.masks[0], &e = expected.masks[0];
  for (int32_t h = 0; h < a.heads; ++h) {
    EXPECT_TRUE(same_bits(actual.reports[0][static_cast<size_t>(h)],
                          expected.reports[0][static_cast<size_t>(h)]))
        << "head " << h;
    for (int32_t i = 0; i < a.q_blocks; ++i) {
      for (int32_t w = 0; w < a.row_words(); ++w) {
        const bool there = i < e.q_blocks && w < e.row_words();
        ASSERT_EQ(a.row(h, i)[w], there ? e.row(h, i)[w] : 0) << "head " << h << " row " << i;
      }
    }
  }
}

}  // namespace flexprefill::test
