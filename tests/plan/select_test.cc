// The selectors that every host backend shares, on scores made by hand.

#include "select.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "ref/score.h"
#include "select_coverage.h"
#include "select_official.h"
#include "tests/plan/plan_cases.h"

namespace flexprefill::test {
namespace {

using internal::CoverageScores;
using internal::Scored;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<int32_t> indices(const std::vector<Scored>& scored) {
  std::vector<int32_t> result;
  result.reserve(scored.size());
  for (const Scored& s : scored) result.push_back(s.index);
  return result;
}

TEST(Select, BestFirstBreaksTiesByLowerIndexAndPutsNanFirst) {
  const std::vector<float> scores = {1, 3, 3, -1, 1, 0};
  EXPECT_EQ(indices(internal::best_first(scores)), (std::vector<int32_t>{1, 2, 0, 4, 5, 3}));
  const std::vector<float> with_nan = {1, kNan, 5, kNan};
  EXPECT_EQ(indices(internal::best_first(with_nan)), (std::vector<int32_t>{1, 3, 2, 0}));
}

TEST(Select, DistanceOfDistributions) {
  const std::vector<float> a = {0.5f, 0.5f, 0.0f, 0.0f}, b = {0.0f, 0.0f, 0.25f, 0.75f};
  EXPECT_EQ(internal::js_distance(a, a, 0.0), 0.0);
  EXPECT_NEAR(internal::js_distance(a, b, 0.0), std::sqrt(std::log(2.0)), 1e-12);  // its maximum
  EXPECT_TRUE(std::isnan(internal::js_distance(a, b, kNan)));  // 0 ln 0 as upstream has it
  const std::vector<float> c = {0.25f, 0.25f, 0.25f, 0.25f};
  // m = (3/8, 3/8, 1/8, 1/8): half of ln(4/3) plus half of (ln(2/3) + ln 2) / 2.
  const double divergence =
      0.5 * std::log(4.0 / 3) + 0.25 * std::log(2.0 / 3) + 0.25 * std::log(2.0);
  EXPECT_NEAR(internal::js_distance(a, c, 0.0), std::sqrt(divergence), 1e-12);
}

// A problem of 8 key blocks whose single head is scored by hand.
struct HandMade {
  HandMade() {
    problem.q = head_view(nullptr, DType::kF32, 1024, 1, 1);
    problem.kv.k = head_view(nullptr, DType::kF32, 1024, 1, 1);
    mask = block_grid(problem);
    bits.resize(static_cast<size_t>(mask.num_words()));
    mask.bits = bits.data();
  }

  // All probe rows alike.
  CoverageScores scores(const std::vector<float>& vertical, const std::vector<double>& buckets) {
    row_mass.clear();
    for (int r = 0; r < 128; ++r) row_mass.insert(row_mass.end(), vertical.begin(), vertical.end());
    slash = buckets;
    return {row_mass, slash, probe_mean, q_mean, k_mean, 1.0f};
  }

  std::vector<int32_t> row(int32_t i) const {
    std::vector<int32_t> blocks;
    mask.for_each_block(0, i, [&](int32_t j) { blocks.push_back(j); });
    return blocks;
  }

  AttentionProblem problem;
  BlockMask mask;
  std::vector<uint64_t> bits;
  std::vector<float> row_mass, probe_mean = {1.0f}, q_mean = std::vector<float>(8, 1.0f);
  std::vector<float> k_mean = std::vector<float>(8, 0.0f);
  std::vector<double> slash;
};

using Blocks = std::vector<int32_t>;

TEST(SelectCoverage, KeepsColumnsSinkAndBothOffsetsOfABucket) {
  HandMade x;
  const auto scores = x.scores({0, 0, 0.9f, 0, 0, 0, 0, 0.1f}, {0.05, 0, 0, 0.95, 0, 0, 0, 0});
  const FlexPrefill policy = {.gamma = 0.85f, .tau = 0.0f, .min_budget = 0};
  const auto choice = internal::select_before_top_up(x.problem, policy, scores, x.mask, 0);
  EXPECT_EQ(choice.pattern, Pattern::kVerticalSlash);
  EXPECT_EQ(x.row(0), (Blocks{0}));
  EXPECT_EQ(x.row(2), (Blocks{0, 1, 2}));
  EXPECT_EQ(x.row(5), (Blocks{0, 1, 2, 4, 5}));  // column 2, sink, I - 3, I - 4, I - 1, I
  EXPECT_EQ(x.row(7), (Blocks{0, 2, 3, 4, 6, 7}));
}

TEST(SelectCoverage, CountIsTheFewestWhoseSumReachesGammaInclusive) {
  const std::vector<float> vertical = {0.125f, 0.5f, 0.25f, 0.125f, 0, 0, 0, 0};
  const std::vector<double> buckets = {1, 0, 0, 0, 0, 0, 0, 0};
  const std::pair<float, Blocks> cases[] = {
      {0.5f, {0, 1, 6, 7}},       {0.51f, {0, 1, 2, 6, 7}},
      {0.75f, {0, 1, 2, 6, 7}},   {0.76f, {0, 1, 2, 6, 7}},  // the third is block 0 by its index
      {0.9f, {0, 1, 2, 3, 6, 7}}, {0.999f, {0, 1, 2, 3, 6, 7}},
  };
  for (const auto& [gamma, expected] : cases) {
    HandMade x;
    const FlexPrefill policy = {.gamma = gamma, .tau = 0.0f, .min_budget = 0};
    internal::select_before_top_up(x.problem, policy, x.scores(vertical, buckets), x.mask, 0);
    EXPECT_EQ(x.row(7), expected) << gamma;
  }
}

TEST(SelectCoverage, BudgetsBoundTheCountAndTheLargerOneYields) {
  const std::vector<float> vertical = {0.1f, 0.2f, 0.15f, 0.3f, 0.25f, 0, 0, 0};
  const std::vector<double> buckets = {1, 0, 0, 0, 0, 0, 0, 0};
  const auto row = [&](float gamma, int64_t min_budget, std::optional<int64_t> max_budget) {
    HandMade x;
    const FlexPrefill policy = {
        .gamma = gamma, .tau = 0.0f, .min_budget = min_budget, .max_budget = max_budget};
    internal::select_before_top_up(x.problem, policy, x.scores(vertical, buckets), x.mask, 0);
    return x.row(7);
  };
  // Buckets 0 and 1 (by index) for a minimum of two: blocks 7, 6, 5.
  EXPECT_EQ(row(0.1f, 129, std::nullopt), (Blocks{0, 3, 4, 5, 6, 7}));
  EXPECT_EQ(row(0.99f, 0, 128), (Blocks{0, 3, 6, 7}));
  EXPECT_EQ(row(0.1f, 512, 1), (Blocks{0, 3, 6, 7}));
}

TEST(SelectCoverage, TopUpAddsTheHeaviestBlocksOfTheProbeRowsOnly) {
  HandMade x;
  // Slash mass elsewhere: columns alone would keep block 0 and the local ones.
  const auto scores =
      x.scores({0.1f, 0.15f, 0.2f, 0.35f, 0.1f, 0.1f, 0, 0}, {1, 0, 0, 0, 0, 0, 0, 0});
  const FlexPrefill policy = {.gamma = 0.75f, .tau = 0.0f, .min_budget = 0, .max_budget = 256};
  const HeadReport report = internal::select_coverage(x.problem, policy, scores, x.mask, 0);
  // Columns 3 and 2 (the budget is two), sink and local blocks hold 0.65; block 1 makes it 0.8.
  EXPECT_EQ(x.row(7), (Blocks{0, 1, 2, 3, 6, 7}));
  EXPECT_EQ(x.row(6), (Blocks{0, 2, 3, 5, 6}));  // no top-up outside of the probe rows
  EXPECT_FALSE(report.budget_limited);
  EXPECT_NEAR(report.coverage, 0.8f, 1e-6);
}

TEST(SelectCoverage, MaxBudgetEndsTheTopUpAndSaysSo) {
  HandMade x;
  const auto scores = x.scores({0.125f, 0.125f, 0.125f, 0.125f, 0.125f, 0.125f, 0.125f, 0.125f},
                               {1, 0, 0, 0, 0, 0, 0, 0});
  const FlexPrefill policy = {.gamma = 0.99f, .tau = 0.0f, .min_budget = 0, .max_budget = 128};
  const HeadReport report = internal::select_coverage(x.problem, policy, scores, x.mask, 0);
  EXPECT_EQ(x.row(7), (Blocks{0, 1, 6, 7}));  // sink, one added, local
  EXPECT_TRUE(report.budget_limited);
  EXPECT_NEAR(report.coverage, 0.5f, 1e-6);
}

TEST(SelectCoverage, NearlyFullHeadsAreFilled) {
  HandMade x;
  const std::vector<float> even(8, 0.125f);
  const std::vector<double> buckets(8, 0.125);
  const FlexPrefill policy = {.gamma = 0.9f, .tau = 0.0f, .min_budget = 0};
  const HeadReport report =
      internal::select_coverage(x.problem, policy, x.scores(even, buckets), x.mask, 0);
  EXPECT_EQ(report.pattern, Pattern::kDense);
  EXPECT_EQ(report.kept_blocks, 36);
  EXPECT_EQ(report.coverage, 1.0f);
  EXPECT_FALSE(std::isnan(report.divergence));  // it was scored
}

TEST(SelectCoverage, QueryAwareHeadsKeepSinkAndLocalBlocksInEveryRow) {
  HandMade x;
  x.k_mean = {0, 0, 9, 0, 0, 0, 0, 0};  // block 2 draws every query block
  std::vector<float> vertical(8, 0.0f);
  vertical[2] = 1.0f;
  const auto scores = x.scores(vertical, {0, 0, 0, 0, 0, 1, 0, 0});
  const FlexPrefill policy = {.gamma = 0.9f, .tau = 0.1f, .min_budget = 0};
  const auto choice = internal::select_before_top_up(x.problem, policy, scores, x.mask, 0);
  EXPECT_EQ(choice.pattern, Pattern::kQueryAware);
  EXPECT_LT(choice.divergence, 0.1);
  EXPECT_EQ(x.row(7), (Blocks{0, 2, 6, 7}));
  EXPECT_EQ(x.row(4), (Blocks{0, 2, 3, 4}));
  EXPECT_EQ(x.row(1), (Blocks{0, 1}));
}

// Keys wholly in the past of the queries: buckets are counted from the nearest.
TEST(SelectCoverage, SlashBucketsOfDistantKeysStartAtTheNearest) {
  HandMade x;
  x.problem.q_start = 1024 * 1024;
  x.problem.q.tokens = 256;
  EXPECT_EQ(internal::first_slash_bucket(x.problem), (1024 * 1024 + 128 - 1023) / 128);
  EXPECT_EQ(internal::slash_buckets(x.problem), 9);
  EXPECT_EQ(internal::visible_keys(x.problem), 1024);
}

TEST(SelectCoverage, SelectionBeforeTopUpGrowsWithGamma) {
  for (const auto& x : plan_instances()) {
    for (const float tau : {0.0f, 1.0f}) {
      for (const int64_t min_budget : {0, 256}) {
        for (int32_t h = 0; h < x->problem.q.heads; ++h) {
          internal::Arena counter;
          internal::score_coverage(x->problem, h, counter);
          std::vector<std::byte> scratch(counter.used_bytes());
          internal::Arena arena(scratch);
          const auto scores = internal::score_coverage(x->problem, h, arena);
          BlockMask mask = block_grid(x->problem);
          std::vector<uint64_t> bits(static_cast<size_t>(mask.num_words())), previous = bits;
          mask.bits = bits.data();
          int64_t blocks = 0;
          for (const float gamma : {0.1f, 0.3f, 0.5f, 0.7f, 0.8f, 0.9f, 0.95f, 0.99f, 0.999f}) {
            const FlexPrefill policy = {.gamma = gamma, .tau = tau, .min_budget = min_budget};
            internal::select_before_top_up(x->problem, policy, scores, mask, h);
            for (size_t n = 0; n < bits.size(); ++n) {
              ASSERT_EQ(previous[n] & ~bits[n], 0u) << x->name << " gamma " << gamma;
            }
            EXPECT_GE(kept_blocks(mask, h), blocks);
            blocks = kept_blocks(mask, h);
            previous = bits;
          }
        }
      }
    }
  }
}

TEST(SelectOfficial, CountsTokensIn128sAndOneMore) {
  const FlexPrefill policy = {.min_budget = 0, .rule = Rule::kOfficial};
  const std::pair<int64_t, int32_t> cases[] = {{1, 1},   {127, 1}, {128, 2},  {129, 2},
                                               {255, 2}, {256, 3}, {5000, 32}};
  for (const auto& [tokens, blocks] : cases) {
    EXPECT_EQ(internal::official_block_count(tokens, policy, 32), blocks) << tokens;
  }
  // Raised to min_budget, then cut to max_budget.
  EXPECT_EQ(internal::official_block_count(1, {.min_budget = 1024}, 32), 8);
  EXPECT_EQ(internal::official_block_count(1, {.min_budget = 1024, .max_budget = 130}, 32), 2);
  EXPECT_EQ(internal::official_block_count(900, {.min_budget = 0, .max_budget = 130}, 32), 2);
}

// Diagonals fall to block offsets as upstream pools them: distances below r (the tokens of the last
// block) to offset 0, then 128 to each.
TEST(SelectOfficial, StepsFromScoresToBlocks) {
  AttentionProblem problem;
  problem.q = head_view(nullptr, DType::kF32, 1000, 1, 1);  // 8 blocks, the last of r = 104
  problem.kv.k = head_view(nullptr, DType::kF32, 1000, 1, 1);
  std::vector<float> vertical(1000), slash(1000), probe_mean = {1.0f};
  std::vector<float> means = {0, 0, 0, 9, 0, 0, 0, 0};
  vertical[700] = 0.6f;  // block 5
  vertical[300] = 0.4f;
  slash[103] = 0.2f;        // offset 0
  slash[104] = 0.3f;        // offset 1
  slash[104 + 128] = 0.5f;  // offset 2
  const internal::OfficialScores scores = {vertical, slash, probe_mean, means, means, {}};
  const FlexPrefill policy = {.gamma = 0.7f, .tau = 0.1f, .min_budget = 1, .rule = Rule::kOfficial};
  const auto decisions = internal::decide_official(problem, policy, scores);
  EXPECT_FALSE(decisions.query_aware);  // NaN: blocks without mass
  EXPECT_TRUE(std::isnan(decisions.divergence));
  EXPECT_EQ(decisions.vertical_tokens, 2);  // 0.6 <= gamma < 1.0, and one more
  EXPECT_EQ(decisions.slash_tokens, 2);
  EXPECT_EQ(decisions.vertical_count, 1);
  EXPECT_EQ(decisions.slash_count, 1);
  EXPECT_EQ(indices(decisions.vertical), (Blocks{0, 5, 2, 1, 3, 4, 6, 7}));
  EXPECT_EQ(indices(decisions.slash), (Blocks{0, 2, 1, 3, 4, 5, 6, 7}));
}

TEST(SelectOfficial, DenseFallbackIsUpstreams) {
  AttentionProblem problem;
  const auto dense = [&](int64_t length, int64_t min_budget, float gamma) {
    problem.q = head_view(nullptr, DType::kF32, length, 1, 1);
    problem.kv.k = problem.q;
    return internal::runs_dense(
        problem, {.gamma = gamma, .min_budget = min_budget, .rule = Rule::kOfficial});
  };
  EXPECT_TRUE(dense(256, 0, 0.9f));
  EXPECT_FALSE(dense(257, 0, 0.9f));
  EXPECT_TRUE(dense(1024, 1000, 0.9f));
  EXPECT_FALSE(dense(1025, 1000, 0.9f));
  EXPECT_FALSE(dense(1025, 0, 1.0f));  // gamma 1 is no reason
}

}  // namespace
}  // namespace flexprefill::test
