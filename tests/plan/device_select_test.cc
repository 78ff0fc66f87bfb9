// The selection that the cuda backend runs (src/cuda: cut.h, decide_head.h, finish_head.h), here by
// one host thread, against the selectors of the host backends on the same scores.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>

#include "cuda/finish_head.h"
#include "cuda/team.h"
#include "numeric.h"
#include "ref/arena.h"
#include "ref/score.h"
#include "select.h"
#include "select_parts.h"
#include "tests/plan/plan_cases.h"

namespace flexprefill::test {
namespace {

namespace device = internal::cuda;
using device::Cut;
using device::HostTeam;

// A cut of the scores by sorting them.
std::vector<bool> kept_by_sorting(const std::vector<float>& scores, const FlexPrefill& policy) {
  const auto sorted = internal::best_first(scores);
  double total = 0.0, sum = 0.0;
  for (const float score : scores) total += double{score};
  size_t count = 0;
  while (count < sorted.size() && (count == 0 || sum < double{policy.gamma} * total)) {
    sum += double{sorted[count++].score};
  }
  count = std::max<size_t>(count, static_cast<size_t>(internal::budget_blocks(policy.min_budget)));
  count = std::min<size_t>(count, static_cast<size_t>(internal::max_budget_blocks(policy)));
  std::vector<bool> kept(scores.size());
  for (size_t n = 0; n < std::min(count, sorted.size()); ++n) {
    kept[static_cast<size_t>(sorted[n].index)] = true;
  }
  return kept;
}

device::PlanPolicy plan_policy(const FlexPrefill& policy) {
  device::PlanPolicy result;
  result.kind = device::PlanPolicy::kCoverage;
  result.gamma = policy.gamma;
  result.tau = policy.tau;
  result.min_blocks = internal::budget_blocks(policy.min_budget);
  result.max_blocks = internal::max_budget_blocks(policy);
  return result;
}

TEST(DeviceCut, KeepsWhatSortingKeeps) {
  std::mt19937 random(7);
  std::vector<std::vector<float>> all = {
      {1.0f}, {0.0f}, {0.5f, 0.5f}, {0, 0, 0, 0}, {0.125f, 0.5f, 0.25f, 0.125f, 0, 0, 0, 0}};
  for (const int n : {3, 17, 129, 1000}) {
    std::uniform_real_distribution<float> uniform;
    std::vector<float> flat, peaked, steps, tiny;
    for (int x = 0; x < n; ++x) {
      flat.push_back(uniform(random) / static_cast<float>(n));
      peaked.push_back(std::exp(20 * uniform(random) - 20));
      steps.push_back(std::floor(8 * uniform(random)) / 64);  // many equal ones
      tiny.push_back(x == n / 2 ? 1.0f : 1e-30f * uniform(random));
    }
    all.insert(all.end(), {flat, peaked, steps, tiny});
  }
  for (const auto& scores : all) {
    for (const float gamma : {0.1f, 0.5f, 0.75f, 0.9f, 0.999f}) {
      for (const int64_t min_budget : {0, 500, 100000}) {
        for (const int64_t max_budget : {0, 128, 1000}) {
          FlexPrefill policy = {.gamma = gamma, .min_budget = min_budget};
          if (max_budget > 0) policy.max_budget = max_budget;
          const auto keys = [&](int32_t x) {
            return device::score_key(scores[static_cast<size_t>(x)]);
          };
          const auto n = static_cast<int32_t>(scores.size());
          const Cut cut = device::cover_cut(HostTeam{}, n, keys, plan_policy(policy));
          const auto expected = kept_by_sorting(scores, policy);
          for (int32_t x = 0; x < n; ++x) {
            ASSERT_EQ(cut.keeps(keys(x), x), expected[static_cast<size_t>(x)])
                << "score " << x << " of " << n << ", gamma " << gamma << ", min " << min_budget
                << ", max " << max_budget;
          }
        }
      }
    }
  }
}

// What a warp or a block gathers of a list, by one host thread.
template <typename Scores>
struct FewScores {
  const Scores& scores;
  std::vector<int32_t> indices;

  // As every lane does at the same time.
  template <typename AnyTally>
  Cut last_kept(const AnyTally& above, const device::CutRule& rule) const {
    Cut last;
    uint32_t fewest = ~0u;
    for (const int32_t x : indices) {
      const uint32_t key = scores.key(x);
      AnyTally set = above;
      for (const int32_t other : indices) {
        if (scores.key(other) >= key + (other <= x ? 0 : 1)) set += scores.tally(other);
      }
      EXPECT_NE(set.count, fewest);
      if (!rule.suffices(set) || set.count > fewest) continue;
      fewest = set.count;
      last = {key, x + 1};
    }
    EXPECT_NE(fewest, ~0u);
    return last;
  }
};

struct GatheringTeam : HostTeam {
  static constexpr int32_t kGathers = 32;
  int* gathers;

  template <typename Scores>
  FewScores<Scores> gather(int32_t n, const Scores& scores, uint32_t low, uint32_t high) const {
    FewScores<Scores> few{scores, {}};
    for (int32_t x = 0; x < n; ++x) {
      if (scores.key(x) >= low && scores.key(x) < high) few.indices.push_back(x);
    }
    EXPECT_LE(few.indices.size(), 32u);
    ++*gathers;
    return few;
  }

  template <typename Result, typename Work>
  void two(int32_t, Result (&results)[2], const Work& work) const {
    for (int32_t n = 0; n < 2; ++n) results[n] = work(*this, n);
  }
};

TEST(DeviceCut, OfGatheredWeightsIsTheSame) {
  std::mt19937 random(11);
  std::uniform_real_distribution<float> uniform;
  int gathers = 0;
  for (int round = 0; round < 2000; ++round) {
    const int32_t n = 1 + static_cast<int32_t>(random() % (round % 4 == 0 ? 1500 : 70));
    std::vector<float> weights(static_cast<size_t>(n));
    double total = 0.0;
    for (float& weight : weights) {
      const float x = uniform(random);
      // Flat, steep, steps of many equal ones, and hardly any that is not 0.
      weight = round % 5 == 0   ? x
               : round % 5 == 1 ? std::exp(40 * x - 40)
               : round % 5 == 2 ? std::floor(4 * x) / 4
               : round % 5 == 3 ? (x < 0.02f ? 1.0f : 0.0f)
                                : 1.0f;
      total += double{weight};
    }
    if (total == 0.0) continue;
    for (float& weight : weights) {
      weight *= static_cast<float>(double{device::kWeightUnits} / total);
    }
    const device::WeightMass scores{weights.data()};
    device::PlanPolicy policy;
    policy.gamma = 0.01f + 0.989f * uniform(random);
    policy.min_blocks = static_cast<int32_t>(random() % 8);
    if (random() % 3 == 0) policy.max_blocks = 1 + static_cast<int32_t>(random() % 40);
    const Cut one = device::cover_scores(HostTeam{}, n, scores, policy);
    const Cut gathered = device::cover_scores(GatheringTeam{{}, &gathers}, n, scores, policy);
    int64_t kept = 0;
    double mass = 0.0, units = 0.0;
    for (int32_t x = 0; x < n; ++x) {
      ASSERT_EQ(gathered.keeps(scores.key(x), x), one.keeps(scores.key(x), x))
          << "round " << round << ", weight " << x << " of " << n;
      units += static_cast<double>(scores.tally(x).mass);
      if (!one.keeps(scores.key(x), x)) continue;
      ++kept;
      mass += static_cast<double>(scores.tally(x).mass);
    }
    const int64_t most = std::min<int64_t>(n, policy.max_blocks);
    ASSERT_LE(kept, most);
    if (kept < most) {
      EXPECT_GE(kept, std::max(policy.min_blocks, 1));
      EXPECT_GE(mass, double{policy.gamma} * units);
    }
  }
  EXPECT_GT(gathers, 500);
}

TEST(DeviceCut, MassIsExactToItsUnit) {
  for (const float score : {0.0f, 1.0f, 0.1f, 127.5f, 3e-7f, 1e-12f, 1e-20f}) {
    const double units = static_cast<double>(device::mass_of_key(device::score_key(score)));
    EXPECT_LE(units, double{score} * device::kMassUnits);
    EXPECT_GT(units + 1, double{score} * device::kMassUnits);
  }
  EXPECT_EQ(device::score_key(std::nanf("")), device::score_key(INFINITY));  // as best_first()
  EXPECT_GT(device::score_key(INFINITY), device::score_key(3e38f));
  EXPECT_EQ(device::score_key(-0.0f), device::score_key(0.0f));
}

// A problem whose scratch lies on the host.
struct HostProblem {
  explicit HostProblem(const AttentionProblem& problem) : grid(block_grid(problem)) {
    p.source = device::length_source(problem);
    p.softmax_scale =
        problem.softmax_scale.value_or(1.0f / std::sqrt(static_cast<float>(problem.q.head_dim)));
    p.heads = problem.q.heads;
    p.kv_heads = problem.kv.k.heads;
    p.head_dim = problem.q.head_dim;
    p.q_blocks = grid.q_blocks;
    p.k_blocks = grid.k_blocks;
    p.row_words = grid.row_words();
    p.line_words = p.row_words + (p.k_blocks + 3 + 63) / 64;
    p.stat_blocks = p.k_blocks;
    p.interleaved = problem.grouping == HeadGrouping::kInterleaved;
    const auto heads = static_cast<size_t>(p.heads), blocks = static_cast<size_t>(p.k_blocks);
    const auto take = [](auto*& pointer, auto& memory, size_t count) {
      memory.resize(count);
      pointer = memory.data();
    };
    take(p.stats, stats, heads * blocks * device::kStatPlanes * 128);
    take(p.row_stats, row_stats, heads * 2 * 128);
    take(p.row_parts, row_parts, heads * 2 * device::kRowGroups * 128);
    take(p.sums, sums, heads * device::kSumPlanes * blocks);
    take(p.vertical, vertical, heads * blocks);
    take(p.pooled, pooled, heads * blocks);
    take(p.slash, slash, heads * (blocks + 2));
    take(p.lines, lines, heads * static_cast<size_t>(p.line_words));
    take(p.k_mean, k_mean, static_cast<size_t>(p.kv_heads * p.head_dim) * blocks);
    take(p.bits, bits, static_cast<size_t>(grid.num_words()));
    grid.bits = p.bits;
    s = device::shape_of(p);
  }

  BlockMask grid;
  device::PlanProblem p = {};
  device::PlanShape s;
  std::vector<float> stats, row_stats, vertical, pooled, slash, k_mean;
  std::vector<double> sums, row_parts;
  std::vector<uint64_t> lines, bits;
};

// What score_coverage.cu stores for head h, from the definition.
void fill_stats(const AttentionProblem& problem, HostProblem& x, int32_t h) {
  const device::HeadScores scores = device::scores_of(x.p, h);
  std::vector<double> q(static_cast<size_t>(x.p.head_dim)), k(q.size());
  for (int32_t r = 0; r < x.s.probe_rows; ++r) {
    internal::load_row(problem.q, x.s.q_len - x.s.probe_rows + r, h, q.data());
    for (int32_t j = 0; j < x.s.visible_blocks; ++j) {
      std::vector<double> logits;
      for (int64_t n = j * 128; n < std::min<int64_t>(j * 128 + 128, x.s.seen(r)); ++n) {
        internal::load_row(problem.kv.k, n, kv_head(problem, h), k.data());
        double dot = 0.0;
        for (size_t c = 0; c < q.size(); ++c) dot += q[c] * k[c];
        logits.push_back(dot * double{x.p.softmax_scale} * std::numbers::log2e);
      }
      double max = -INFINITY, near = 0.0, far = 0.0;
      for (const double logit : logits) max = std::max(max, logit);
      const int64_t own = ((x.s.first_position + r) & 127) + 1;
      for (size_t n = 0; n < logits.size(); ++n) {
        (static_cast<int64_t>(n) < own ? near : far) += std::exp2(logits[n] - max);
      }
      scores.stat(j, 0)[r] = static_cast<float>(max);
      scores.stat(j, 1)[r] = static_cast<float>(near);
      scores.stat(j, 2)[r] = static_cast<float>(far);
    }
  }
}

// As total_rows and combine_blocks.
void combine(HostProblem& x, int32_t h) {
  const device::HeadScores scores = device::scores_of(x.p, h);
  for (int32_t r = 0; r < 128; ++r) {
    float top = -INFINITY;
    for (int32_t n = 0; n < device::kTotalGroups; ++n) {
      top = std::max(top, device::row_max_part<device::kTotalGroups>(x.s, scores, r, n));
    }
    float same_top = -INFINITY;
    double sum = 0.0, groups[device::kTotalParts][device::kTotalGroups / device::kTotalParts];
    for (int32_t n = 0; n < device::kTotalParts; ++n) {
      same_top = std::max(same_top, device::row_max_part<device::kTotalParts>(x.s, scores, r, n));
      device::row_sum_groups(x.s, scores, r, n, top, groups[n]);
    }
    EXPECT_EQ(same_top, top);
    for (int32_t n = 0; n < device::kTotalGroups; ++n) {
      const double part = device::row_sum_part(x.s, scores, r, n, top);
      sum += part;
      EXPECT_EQ(groups[n % device::kTotalParts][n / device::kTotalParts], part);
    }
    scores.row_stats[r] = top;
    scores.row_stats[128 + r] = static_cast<float>(1 / sum);
  }
  for (int32_t j = 0; j < x.s.visible_blocks; ++j) {
    device::BlockSums sums;
    for (int32_t r = 0; r < 128; ++r) {
      const device::BlockShare share = device::block_share(x.s, scores, j, r);
      sums.add(x.s, r, share);
      scores.stat(j, 0)[r] = share.mass();
    }
    device::store_sums(x.s, scores, j, sums);
  }
}

// As write_rows.
void write_rows(HostProblem& x, int32_t h, const device::PlanPolicy& policy,
                device::HeadState& state, const internal::CoverageScores& reference) {
  const device::HeadScores scores = device::scores_of(x.p, h);
  for (int32_t i = 0; i < x.s.q_blocks; ++i) {
    const int32_t end = x.s.causal_blocks(i);
    std::vector<float> weights(static_cast<size_t>(end));
    Cut cut;
    const auto keys = [&](int32_t j) { return device::score_key(weights[static_cast<size_t>(j)]); };
    if (state.pattern == Pattern::kQueryAware) {
      float top = -INFINITY;
      for (int32_t j = 0; j < end; ++j) {
        const auto dim = static_cast<size_t>(x.p.head_dim);
        const float dot = internal::dot(&reference.q_mean[static_cast<size_t>(i) * dim],
                                        &reference.k_mean[static_cast<size_t>(j) * dim], dim);
        auto& weight = weights[static_cast<size_t>(j)];
        weight = device::pooled_score(dot, x.p.softmax_scale, device::tokens_of_block(x.s, j));
        top = std::max(top, weight);
      }
      device::softmax(HostTeam{}, weights.data(), end, top, device::kWeightUnits);
      cut = device::cover_scores(HostTeam{}, end, device::WeightMass{weights.data()}, policy);
    }
    for (int32_t w = 0; w < x.p.row_words; ++w) {
      uint64_t word = 0;
      if (state.pattern == Pattern::kQueryAware) {
        for (int32_t j = 64 * w; j < std::min(end, 64 * w + 64); ++j) {
          if (cut.keeps(keys(j), j)) word |= uint64_t{1} << (j % 64);
        }
        const int64_t diagonal = x.s.first_q_block + i;
        word |=
            device::bit_of(0, w) | device::bit_of(diagonal, w) | device::bit_of(diagonal - 1, w);
        word &= device::bits_below(end, w);
      } else if (state.pattern == Pattern::kVerticalSlash) {
        word = device::vertical_slash_word(x.s, scores, i, w, /*keep_local=*/true);
      } else {
        word = device::bits_below(end, w);
      }
      x.grid.row(h, i)[w] = word;
      state.kept_blocks += static_cast<uint64_t>(std::popcount(word));
    }
  }
}

TEST(DeviceSelect, GivesTheMasksAndReportsOfTheHostSelector) {
  const std::vector<FlexPrefill> policies = {
      {.gamma = 0.9f, .tau = 0.1f, .min_budget = 0},
      {.gamma = 0.5f, .tau = 0.0f, .min_budget = 128},
      {.gamma = 0.95f, .tau = 1.0f, .min_budget = 0},
      {.gamma = 0.9f, .tau = 0.1f, .min_budget = 0, .max_budget = 128},
      {.gamma = 0.99f, .tau = 1.0f, .min_budget = 128, .max_budget = 256},
  };
  int patterns[4] = {}, limited = 0, gathers = 0;
  const GatheringTeam team{{}, &gathers};  // as the device's teams do
  for (const auto& instance : plan_instances()) {
    const AttentionProblem& problem = instance->problem;
    HostProblem x(problem);
    for (int32_t h = 0; h < x.p.heads; ++h) {
      fill_stats(problem, x, h);
      combine(x, h);
      // The reference's means, and everything else from the very same block sums.
      internal::Arena counter;
      internal::score_coverage(problem, h, counter);
      std::vector<std::byte> memory(counter.used_bytes());
      internal::Arena arena(memory);
      internal::CoverageScores reference = internal::score_coverage(problem, h, arena);
      const device::HeadScores scores = device::scores_of(x.p, h);
      for (int32_t j = 0; j < x.p.k_blocks; ++j) {
        for (int32_t c = 0; c < x.p.head_dim; ++c) {
          x.k_mean[static_cast<size_t>((kv_head(problem, h) * x.p.head_dim + c) * x.p.k_blocks +
                                       j)] =
              reference.k_mean[static_cast<size_t>(j * x.p.head_dim + c)];
        }
      }
      std::vector<float> row_mass;
      for (int32_t r = 0; r < x.s.probe_rows; ++r) {
        for (int32_t j = 0; j < x.p.k_blocks; ++j) row_mass.push_back(scores.stat(j, 0)[r]);
      }
      reference.row_mass = row_mass;
      std::vector<double> slash;
      for (int32_t b = 0; b < x.s.buckets; ++b) {
        slash.push_back(double{device::slash_of(x.s, scores, b)});
        EXPECT_NEAR(slash.back(), reference.slash[static_cast<size_t>(b)], 2e-6);
      }
      ASSERT_EQ(slash.size(), reference.slash.size());
      reference.slash = slash;
      for (const FlexPrefill& policy : policies) {
        SCOPED_TRACE(instance->name + " head " + std::to_string(h) + " gamma " +
                     std::to_string(policy.gamma) + " tau " + std::to_string(policy.tau));
        std::vector<uint64_t> bits(x.bits.size());
        BlockMask mask = x.grid;
        mask.bits = bits.data();
        const HeadReport expected = internal::select_coverage(problem, policy, reference, mask, h);

        const device::PlanPolicy plan = plan_policy(policy);
        std::vector<float> parts(device::kPartialDots);
        device::HeadState state = device::decide_coverage(
            team, x.p, x.s, plan, scores, reference.probe_mean.data(), parts.data());
        write_rows(x, h, plan, state, reference);
        double share[128];
        const device::FinishHead head{x.p, x.s, scores, h, share};
        for (int32_t n = 0; n < device::kRowGroups * 128; ++n) head.measure(n / 128, n % 128);
        const HeadReport actual =
            device::finish_head(team, x.p, x.s, plan, scores, state, h, share);
        EXPECT_EQ(actual.pattern, expected.pattern);
        EXPECT_EQ(actual.budget_limited, expected.budget_limited);
        EXPECT_EQ(actual.kept_blocks, expected.kept_blocks);
        EXPECT_EQ(actual.causal_blocks, expected.causal_blocks);
        EXPECT_NEAR(actual.divergence, expected.divergence, 1e-6);
        EXPECT_NEAR(actual.coverage, expected.coverage, 1e-6);
        EXPECT_NEAR(actual.coverage_min_row, expected.coverage_min_row, 1e-6);
        EXPECT_EQ(head_bits(x.grid, h), head_bits(mask, h));
        ++patterns[static_cast<int>(actual.pattern)];
        limited += actual.budget_limited;
      }
    }
  }
  EXPECT_GT(patterns[static_cast<int>(Pattern::kDense)], 10);
  EXPECT_GT(patterns[static_cast<int>(Pattern::kVerticalSlash)], 10);
  EXPECT_GT(patterns[static_cast<int>(Pattern::kQueryAware)], 10);
  EXPECT_GT(limited, 10);
  EXPECT_GT(gathers, 100);
}

}  // namespace
}  // namespace flexprefill::test
