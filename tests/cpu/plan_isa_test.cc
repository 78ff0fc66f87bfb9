// plan() of every instruction set: the scores against those of the reference, and the decisions
// where no score lies near a cut.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iostream>

#include "cpu/head_scores.h"
#include "ref/score.h"
#include "tests/cpu/tested_isas.h"
#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

using internal::Arena;
using internal::Isa;

// The memory that a function of (arena) lays its result out in.
template <typename Score>
auto score_in(std::vector<std::byte>& memory, Score score) {
  Arena counter;
  score(counter);
  memory.assign(counter.used_bytes(), std::byte{0xa5});
  Arena arena{std::span<std::byte>(memory)};
  return score(arena);
}

std::vector<Case> plan_cases() {
  std::vector<Case> cases;
  const DType dtypes[] = {DType::kF32, DType::kF16, DType::kBF16};
  size_t n = 0;
  const auto add = [&](Case c) {
    c.q_dtype = c.kv_dtype = dtypes[n++ % 3];
    cases.push_back(c);
  };
  for (const int64_t length : {1, 17, 127, 128, 129, 300, 512, 640, 1000}) {
    add({.q_len = length, .kv_len = length});
    add({.q_len = (length + 2) / 3, .kv_len = length, .heads = 4, .kv_heads = 2});
  }
  for (const int32_t head_dim : {1, 3, 40, 96, 128, 256}) {
    add({.q_len = 200, .kv_len = 333, .k_dim = head_dim, .v_dim = head_dim});
  }
  for (const int64_t q_start : {-100, -20, 3, 77, 300, 384, 700}) {
    add({.q_len = 180, .kv_len = 300, .q_start = q_start});
  }
  for (const Layout layout : {Layout::kHeadMajor, Layout::kGaps}) {
    add({.q_len = 333, .kv_len = 333, .heads = 4, .kv_heads = 2, .layout = layout});
  }
  add({.q_len = 333, .kv_len = 333, .softmax_scale = 0.7f});
  add({.q_len = 333, .kv_len = 333, .data = DataKind::kLogits20});
  return cases;
}

// Masses are sums of at most kv_len terms below 1; the error of a logit enters each of them.
Tolerance mass_tolerance(const Case& c) {
  return {.absolute = 1e-7, .relative = 1e-5 * std::max(1.0, c.max_logit() / 8)};
}

std::vector<float> to_floats(std::span<const double> values) {
  return {values.begin(), values.end()};
}

TEST(CpuPlan, CoverageScoresMatchReferenceOnEveryIsa) {
  const std::vector<Isa> isas = tested_isas();
  for (const Case& c : plan_cases()) {
    SCOPED_TRACE(c.name());
    const Instance x(c);
    if (internal::visible_keys(x.problem) == 0) continue;
    const int32_t h = c.heads - 1;
    std::vector<std::byte> expected_memory, memory;
    const auto expected = score_in(expected_memory, [&](Arena& arena) {
      return internal::score_coverage(x.problem, h, arena);
    });
    const size_t blocks = static_cast<size_t>((internal::visible_keys(x.problem) + kBlock - 1) /
                                              kBlock);  // later ones are ignored
    const size_t means = blocks * static_cast<size_t>(c.k_dim);
    for (const Isa isa : isas) {
      SCOPED_TRACE(std::string(internal::isa_name(isa)));
      const auto actual = score_in(memory, [&](Arena& arena) {
        internal::HeldKeyMeans held;
        return internal::score_coverage(internal::kernels_of(isa), x.problem, h, {}, arena, held);
      });
      EXPECT_TRUE(all_close(actual.row_mass, expected.row_mass, mass_tolerance(c)));
      EXPECT_TRUE(all_close(to_floats(actual.slash), to_floats(expected.slash), mass_tolerance(c)));
      const Tolerance mean = {.absolute = 1e-6 * std::max(1.0, c.max_logit() / 8),
                              .relative = 1e-6};
      EXPECT_TRUE(all_close(actual.probe_mean, expected.probe_mean, mean));
      actual.fill_q_mean();
      EXPECT_TRUE(all_close(actual.q_mean, expected.q_mean, mean));
      EXPECT_TRUE(all_close(actual.k_mean.first(means), expected.k_mean.first(means), mean));
      EXPECT_EQ(actual.softmax_scale, expected.softmax_scale);
    }
  }
}

TEST(CpuPlan, OfficialScoresMatchReferenceOnEveryIsa) {
  const std::vector<Isa> isas = tested_isas();
  for (const Case& c : plan_cases()) {
    const Instance x(c);
    if (c.q_len != c.kv_len || q_start(x.problem) != 0) continue;
    SCOPED_TRACE(c.name());
    std::vector<std::byte> expected_memory, memory;
    const auto expected = score_in(expected_memory, [&](Arena& arena) {
      return internal::score_official(x.problem, 0, arena);
    });
    for (const Isa isa : isas) {
      SCOPED_TRACE(std::string(internal::isa_name(isa)));
      const auto actual = score_in(memory, [&](Arena& arena) {
        internal::HeldKeyMeans held;
        return internal::score_official(internal::kernels_of(isa), x.problem, 0, {}, arena, held);
      });
      // A logit may fall on the other side of a bf16 tie: half a unit of bf16 in a few terms.
      const Tolerance mass = {.absolute = 2e-5, .relative = 1e-3};
      EXPECT_TRUE(all_close(actual.vertical, expected.vertical, mass));
      EXPECT_TRUE(all_close(actual.slash, expected.slash, mass));
      EXPECT_TRUE(
          all_close(actual.row_mass, expected.row_mass, {.absolute = 2e-3, .relative = 1e-3}));
      const Tolerance mean = {.absolute = 1e-6, .relative = 0x1p-7};  // a unit of bf16
      EXPECT_TRUE(all_close(actual.probe_mean, expected.probe_mean, mean));
      actual.fill_q_mean();
      EXPECT_TRUE(all_close(actual.q_mean, expected.q_mean, mean));
      EXPECT_TRUE(all_close(actual.k_mean, expected.k_mean, mean));
    }
  }
}

TEST(CpuPlan, ThreadCountChangesNoBitOnAnyIsa) {
  FlexPrefill coverage, official;
  coverage.min_budget = official.min_budget = 128;
  coverage.gamma = official.gamma = 0.4f;  // random heads keep nearly all for more
  official.rule = Rule::kOfficial;
  for (const FlexPrefill& policy : {coverage, official}) {
    const Instance x({.q_len = 1100, .kv_len = 1100, .heads = 3, .data = DataKind::kLogits20});
    for (const Isa isa : tested_isas()) {
      const IsaPlan one = run_plan_on(isa, x.problem, policy, /*threads=*/1);
      EXPECT_LT(computed_share(one.mask), 1.0) << "the case decides nothing";
      for (const int threads : {2, 3}) {
        const IsaPlan many = run_plan_on(isa, x.problem, policy, threads);
        EXPECT_EQ(one.bits, many.bits) << threads << " threads";
        for (size_t h = 0; h < one.reports.size(); ++h) {
          EXPECT_EQ(one.reports[h].kept_blocks, many.reports[h].kept_blocks);
          EXPECT_EQ(std::bit_cast<uint32_t>(one.reports[h].coverage),
                    std::bit_cast<uint32_t>(many.reports[h].coverage));
          EXPECT_EQ(std::bit_cast<uint32_t>(one.reports[h].divergence),
                    std::bit_cast<uint32_t>(many.reports[h].divergence));
        }
      }
    }
  }
}

}  // namespace
}  // namespace flexprefill::test
