// Rule::kOfficial against block sets and outputs recorded from the authors' code
// (tests/data/official; bf16 q, k, v of layers of needle-14m).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iostream>

#include "tests/plan/official_trace.h"
#include "tests/support/run.h"
#include "tests/support/safetensors.h"

namespace flexprefill::test {
namespace {

// The shortest alone under sanitizers.
std::vector<std::string> fixtures() {
  if (kSanitized) return {"n2000_layer4"};
  return {"n2000_layer4", "n2048_layer1", "n2048_layer4", "n4096_layer4"};
}

// A recorded setting: its name in the file, "g<gamma>_t<tau>_b<min_budget>", and the policy.
struct Setting {
  std::string name;
  FlexPrefill policy;
};

std::vector<Setting> settings(const Fixture& fixture) {
  std::vector<Setting> all;
  for (const std::string& name : fixture.names()) {
    const size_t end = name.find(".out_sum");
    if (end == std::string::npos) continue;
    Setting setting{name.substr(0, end), {}};
    float gamma = 0, tau = 0;
    long min_budget = 0;
    EXPECT_EQ(std::sscanf(name.c_str(), "g%f_t%f_b%ld", &gamma, &tau, &min_budget), 3) << name;
    setting.policy = {
        .gamma = gamma, .tau = tau, .min_budget = min_budget, .rule = Rule::kOfficial};
    all.push_back(setting);
  }
  return all;
}

struct Recorded {
  explicit Recorded(const std::string& name)
      : fixture("official/official_" + name + ".safetensors"),
        q(fixture.tensor("q")),
        k(fixture.tensor("k")),
        v(fixture.tensor("v")) {
    problem.q = q.view();
    problem.kv.k = k.view();
    problem.kv.v = v.view();
  }

  std::vector<int32_t> blocks(const Setting& setting, int32_t h) const {
    return fixture.ints(setting.name + ".head" + std::to_string(h));
  }

  Fixture fixture;
  Tensor q, k, v;
  AttentionProblem problem;
};

std::vector<int32_t> blocks_of(const BlockMask& mask, int32_t h) {
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    mask.for_each_block(h, i, [&](int32_t j) { blocks.push_back(i * mask.k_blocks + j); });
  }
  return blocks;
}

size_t differing(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int32_t> difference;
  std::ranges::set_symmetric_difference(a, b, std::back_inserter(difference));
  return difference.size();
}

struct Tally {
  int heads = 0, identical_heads = 0;
  size_t blocks = 0, different_blocks = 0;
};

// Prints the decision by which these blocks differ from the reference's; fails without one, or with
// one that rounding cannot turn.
void expect_explained(const OfficialTrace& trace, const std::vector<int32_t>& blocks,
                      const std::string& whose) {
  const auto explanation = trace.explain(blocks);
  ASSERT_TRUE(explanation.has_value()) << whose << ": no single decision explains the blocks";
  std::cout << "  " << whose << ": " << explanation->decision << ", margin " << explanation->margin
            << ", bound " << explanation->bound << "\n";
  EXPECT_LE(explanation->margin, explanation->bound) << whose << ": " << explanation->decision;
}

TEST(OfficialParity, SelectsTheRecordedBlocks) {
  for (const Backend* backend : tested_backends()) {
    Tally tally;
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
