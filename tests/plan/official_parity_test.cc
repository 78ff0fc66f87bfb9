// Rule::kOfficial against block sets and outputs recorded from the authors' code
// (tests/data/official; bf16 q, k, v of layers of needle-14m).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "tests/plan/official_fixture.h"
#include "tests/plan/official_trace.h"
#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

TEST(OfficialParity, SelectsTheRecordedBlocks) {
  for (const Backend* backend : tested_backends()) {
    OfficialTally tally;
    for (const std::string& name : fixtures()) {
      const Recorded recorded(name);
      for (const Setting& setting : settings(recorded.fixture)) {
        const PlanResult result = run_plan(*backend, recorded.problem, setting.policy);
        for (int32_t h = 0; h < recorded.problem.q.heads; ++h) {
          const auto actual = blocks_of(result.plan.masks[0], h);
          const auto expected = recorded.blocks(setting, h);
          const size_t different = differing(actual, expected);
          ++tally.heads;
          tally.identical_heads += different == 0;
          tally.blocks += expected.size();
          tally.different_blocks += different;
          if (different == 0) continue;
          SCOPED_TRACE(name + " " + setting.name + " head " + std::to_string(h));
          std::cout << name << " " << setting.name << " head " << h << ": " << different << " of "
                    << expected.size() << " blocks differ\n";
          const OfficialTrace trace(recorded.problem, setting.policy, h);
          expect_explained(trace, expected, "recorded");
          if (actual != trace.blocks()) {
            expect_explained(trace, actual, std::string(backend->name()));
          }
        }
      }
    }
    std::cout << backend->name() << ": " << tally.identical_heads << " of " << tally.heads
              << " heads identical, " << tally.different_blocks << " of " << tally.blocks
              << " blocks differ\n";
    EXPECT_EQ(tally.heads, static_cast<int>(fixtures().size()) * 6 * 6);
    EXPECT_LE(static_cast<double>(tally.different_blocks),
              0.002 * static_cast<double>(tally.blocks));
  }
}

// The mask of the recorded blocks of every head.
BlockMask recorded_mask(const Recorded& recorded, const Setting& setting,
                        std::vector<uint64_t>& bits) {
  BlockMask mask = block_grid(recorded.problem);
  bits.assign(static_cast<size_t>(mask.num_words()), 0);
  mask.bits = bits.data();
  for (int32_t h = 0; h < mask.heads; ++h) {
    for (const int32_t block : recorded.blocks(setting, h)) {
      mask.set(h, block / mask.k_blocks, block % mask.k_blocks);
    }
  }
  return mask;
}

// out_sum is the sum of 64 channels that the official kernel rounded to bf16, from weights P
// rounded to bf16. With u = 2^-9 (half a step) the rows differ by at most u (sum_c |out_c| + sum_n
// P_n |sum_c v_nc|); fp32 sums add little beside it.
TEST(OfficialParity, OutputsMatchTheRecordedSums) {
  constexpr double kHalfStep = 0x1p-9;
  for (const Backend* backend : tested_backends()) {
    double worst = 0.0;
    for (const std::string& name : fixtures()) {
      const Recorded recorded(name);
      const HeadView& q = recorded.problem.q;
      const HeadView& v = recorded.problem.kv.v;
      // One channel more than v: |sum_c v_nc|, whose attention output is the second sum of the
      // bound.
      const int32_t channels = v.head_dim + 1;
      Tensor values(DType::kF32, v.tokens, v.heads, channels);
      for (int64_t t = 0; t < v.tokens; ++t) {
        for (int32_t g = 0; g < v.heads; ++g) {
          float sum = 0.0f;
          for (int32_t c = 0; c < v.head_dim; ++c) {
            sum += recorded.v.get(t, g, c);
            values.set(t, g, c, recorded.v.get(t, g, c));
          }
          values.set(t, g, v.head_dim, std::abs(sum));
        }
      }
      Tensor keys(DType::kF32, v.tokens, v.heads, q.head_dim);  // the dtype of the values
      keys.fill(recorded.k.values());
      Tensor out(DType::kF32, q.tokens, q.heads, channels);
      AttentionProblem problem = recorded.problem;
      problem.kv.k = keys.view();
      problem.kv.v = values.view();
      problem.out = out.view();
      for (const Setting& setting : settings(recorded.fixture)) {
        if (kSanitized && setting.name != "g0.95_t0.1_b1") continue;
        std::vector<uint64_t> bits;
        const BlockMask mask = recorded_mask(recorded, setting, bits);
        run_attend(*backend, std::span(&problem, 1), std::span(&mask, 1));
        const std::vector<float> actual = out.values();
        const auto expected = recorded.fixture.floats(setting.name + ".out_sum");
        ASSERT_EQ(actual.size(), expected.size() * static_cast<size_t>(channels));
        for (size_t n = 0; n < expected.size(); ++n) {
          const float* row = &actual[n * static_cast<size_t>(channels)];
          double sum = 0.0, magnitude = double{row[v.head_dim]};
          for (int32_t c = 0; c < v.head_dim; ++c) {
            sum += double{row[c]};
            magnitude += std::abs(double{row[c]});
          }
          const double bound = kHalfStep * magnitude + 1e-4;
          const double ratio = std::abs(sum - double{expected[n]}) / bound;
          ASSERT_LE(ratio, 1.0) << name << " " << setting.name << " row " << n << ": " << sum
                                << ", recorded " << expected[n] << ", bound " << bound;
          worst = std::max(worst, ratio);
        }
      }
    }
    std::cout << backend->name() << ": the worst row differs by " << worst << " of its bound\n";
  }
}

}  // namespace
}  // namespace flexprefill::test
