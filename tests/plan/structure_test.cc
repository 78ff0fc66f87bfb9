// What holds for every plan of every policy: causality, diagonal, chunks, batches, threads, heads.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "tests/plan/plan_cases.h"
#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

const Policy kPolicies[] = {
    Dense{},
    AShape{.sink_tokens = 130, .local_tokens = 300},
    FlexPrefill{.gamma = 0.8f, .tau = 0.1f, .min_budget = 0},
    FlexPrefill{.gamma = 0.8f, .tau = 1.0f, .min_budget = 128},
    FlexPrefill{.gamma = 0.8f, .tau = 0.1f, .min_budget = 0, .rule = Rule::kOfficial},
    FlexPrefill{.gamma = 0.8f, .tau = 1.0f, .min_budget = 128, .rule = Rule::kOfficial},
};

bool refused(const Backend& backend, const AttentionProblem& problem, const Policy& policy,
             const std::string& name) {
  const std::string why = backend.why_not(problem, std::span(&policy, 1), {});
  if (!why.empty()) skip(backend, name, why);
  return !why.empty();
}

TEST(Plan, KeepsTheDiagonalAndNothingInTheFuture) {
  const auto instances = plan_instances();
  for (const Backend* backend : tested_backends()) {
    for (const auto& x : instances) {
      for (const Policy& policy : kPolicies) {
        if (refused(*backend, x->problem, policy, x->name)) continue;
        const PlanResult result = run_plan(*backend, x->problem, policy);
        const BlockMask& mask = result.plan.masks[0];
        for (int32_t h = 0; h < mask.heads; ++h) {
          for (int32_t i = 0; i < mask.q_blocks; ++i) {
            const int64_t diagonal = mask.first_q_block + i;
            const int64_t bits = int64_t{mask.row_words()} * 64;
            for (int64_t j = 0; j < bits; ++j) {
              const bool bit = (mask.row(h, i)[j / 64] >> (j % 64)) & 1;
              if (j > diagonal || j >= mask.k_blocks) {
                ASSERT_FALSE(bit) << x->name << " row " << i;
              } else if (j == diagonal) {
                ASSERT_TRUE(bit) << x->name << " row " << i;
              }
            }
          }
        }
      }
    }
  }
}

TEST(Plan, ReportsCountTheBlocksOfTheMask) {
  const PlanInstance x({.structure = Structure::kLocal});
  for (const Backend* backend : tested_backends()) {
    for (const Policy& policy : kPolicies) {
      const PlanResult result = run_plan(*backend, x.problem, policy);
      for (int32_t h = 0; h < 4; ++h) {
        const HeadReport& report = result.plan.report()[static_cast<size_t>(h)];
        EXPECT_EQ(report.kept_blocks, kept_blocks(result.plan.masks[0], h));
        EXPECT_EQ(report.causal_blocks, causal_blocks(result.plan.masks[0]));
      }
    }
  }
}

TEST(AShape, RoundsSinkAndWindowOutwardToBlocks) {
  // Row I keeps ceil(sink / 128) blocks and every block with one of the `local` keys of any
  // position of the row, of which the first, 128 I, reaches furthest back.
  struct Shape {
    int64_t sink, local;
    int32_t sink_blocks, local_blocks;
  };
  const Shape shapes[] = {{128, 3968, 1, 32}, {0, 1, 0, 1},     {1, 2, 1, 2},    {128, 128, 1, 2},
                          {129, 129, 2, 2},   {256, 130, 2, 3}, {300, 257, 3, 3}};
  const PlanInstance x({.q_len = 5000, .kv_len = 5000, .heads = 1, .kv_heads = 1, .head_dim = 1});
  for (const Backend* backend : tested_backends()) {
    for (const Shape& shape : shapes) {
      const PlanResult result = run_plan(
          *backend, x.problem, AShape{.sink_tokens = shape.sink, .local_tokens = shape.local});
      const BlockMask& mask = result.plan.masks[0];
      for (int32_t i = 0; i < mask.q_blocks; ++i) {
        for (int32_t j = 0; j <= i; ++j) {
          const bool expected = j < shape.sink_blocks || j > i - shape.local_blocks;
          ASSERT_EQ(mask.test(0, i, j), expected)
              << "sink " << shape.sink << " local " << shape.local << " (" << i << ", " << j << ")";
        }
      }
      EXPECT_EQ(result.plan.report()[0].pattern, Pattern::kAShape);
      EXPECT_TRUE(std::isnan(result.plan.report()[0].coverage));
    }
  }
}

// Rows that a chunk shares with the whole prompt are planned alike, given the same keys: scores,
// line patterns and top-up depend on the probe rows alone. Only the first block row of an unaligned
// chunk has another mean query, and filling a nearly dense head is decided per problem.
TEST(Plan, ChunkPlansTheRowsOfTheWholePromptAlike) {
  for (const Backend* backend : tested_backends()) {
    int compared = 0;
    for (const auto structure : {Structure::kSink, Structure::kLocal, Structure::kTopics}) {
      const PlanInstance x({.structure = structure, .q_len = 1900, .kv_len = 1900});
      for (const float tau : {0.0f, 0.1f, 1.0f}) {
        if (kSanitized && (tau != 1.0f || structure == Structure::kLocal)) continue;
        const FlexPrefill policy = {.gamma = 0.7f, .tau = tau, .min_budget = 0};
        const PlanResult whole = run_plan(*backend, x.problem, policy);
        for (const int64_t begin : {128, 640, 1000, 1300, 1500, 1772}) {
          const PlanResult part = run_plan(*backend, chunk(x.problem, begin, 1900, 1900), policy);
          const BlockMask &a = whole.plan.masks[0], &b = part.plan.masks[0];
          for (int32_t h = 0; h < 4; ++h) {
            const auto n = static_cast<size_t>(h);
            const HeadReport &all = whole.plan.report()[n], &chunked = part.plan.report()[n];
            if (all.pattern == Pattern::kDense || chunked.pattern == Pattern::kDense) continue;
            EXPECT_EQ(all.pattern, chunked.pattern);
            const bool shared_mean = begin % kBlock != 0 && all.pattern == Pattern::kQueryAware;
            for (int32_t i = shared_mean ? 1 : 0; i < b.q_blocks; ++i) {
              const auto row = static_cast<int32_t>(b.first_q_block) + i;
              ASSERT_EQ(0, std::memcmp(a.row(h, row), b.row(h, i), sizeof(uint64_t)))
                  << x.name << " chunk at " << begin << " head " << h << " row " << row;
              ++compared;
            }
          }
        }
      }
    }
    EXPECT_GT(compared, kSanitized ? 50 : 500);
  }
}

// Keys after the last query change nothing, in its own block neither.
TEST(Plan, FutureKeysChangeNothing) {
  for (const Backend* backend : tested_backends()) {
    for (const auto structure : {Structure::kSink, Structure::kTopics}) {
      PlanInstance x({.structure = structure, .q_len = 1500, .kv_len = 1500});
      for (const Policy& policy :
           {Policy(AShape{.sink_tokens = 1, .local_tokens = 200}),
            Policy(FlexPrefill{.gamma = 0.8f, .tau = 0.0f, .min_budget = 0}),
            Policy(FlexPrefill{.gamma = 0.8f, .tau = 1.0f, .min_budget = 0})}) {
        for (const int64_t end : {1100, 1152}) {
          const PlanResult exact = run_plan(*backend, chunk(x.problem, 700, end, end), policy);
          PlanInstance y({.structure = structure, .q_len = 1500, .kv_len = 1500});
          for (int32_t g = 0; g < 2; ++g) y.k.poison(end, 1500, g);
          const PlanResult more = run_plan(*backend, chunk(y.problem, 700, end, 1500), policy);
          const BlockMask &a = exact.plan.masks[0], &b = more.plan.masks[0];
          for (int32_t h = 0; h < a.heads; ++h) {
            for (int32_t i = 0; i < a.q_blocks; ++i) {
              for (int32_t j = 0; j < b.k_blocks; ++j) {
                ASSERT_EQ(a.test(h, i, j), b.test(h, i, j)) << x.name << " end " << end;
              }
            }
          }
        }
      }
    }
  }
}

std::vector<std::unique_ptr<PlanInstance>> batch_instances() {
  std::vector<std::unique_ptr<PlanInstance>> batch;
  const auto add = [&](const PlanCase& c) { batch.push_back(std::make_unique<PlanInstance>(c)); };
  add({.structure = Structure::kSink});
  add({.structure = Structure::kTopics, .q_len = 300, .kv_len = 1301, .head_dim = 20});
  add({.q_len = 0, .kv_len = 100});
  add({.q_len = 3, .kv_len = 0, .q_start = 5});
  add({.structure = Structure::kLocal, .q_len = 700, .kv_len = 800, .q_start = 500});
  add({.structure = Structure::kLocal, .q_len = 17, .kv_len = 1000, .dtype = DType::kBF16});
  return batch;
}

TEST(Plan, BatchAndThreadsChangeNoBit) {
  const auto batch = batch_instances();
  std::vector<AttentionProblem> problems;
  problems.reserve(batch.size());
  for (const auto& x : batch) problems.push_back(x->problem);
  for (const Backend* backend : tested_backends()) {
    for (const Policy& policy : kPolicies) {
      const auto* flex = std::get_if<FlexPrefill>(&policy);
      if (flex != nullptr && flex->rule == Rule::kOfficial) continue;  // the batch has chunks
      for (const int threads : {1, 2, 3}) {
        const PlanResult together = run_plan(*backend, problems, std::span(&policy, 1), threads);
        for (size_t p = 0; p < problems.size(); ++p) {
          const PlanResult alone = run_plan(*backend, problems[p], policy);
          const BlockMask &a = together.plan.masks[p], &b = alone.plan.masks[0];
          ASSERT_EQ(a.num_words(), b.num_words());
          EXPECT_TRUE(std::equal(a.bits, a.bits + a.num_words(), b.bits)) << batch[p]->name;
          for (int32_t h = 0; h < a.heads; ++h) {
            EXPECT_TRUE(same_bits(together.plan.reports[p][h], alone.plan.reports[0][h]))
                << batch[p]->name << " with " << threads << " threads";
          }
        }
      }
    }
  }
}

TEST(Plan, EveryHeadMayHaveItsOwnPolicy) {
  const PlanInstance x({.structure = Structure::kLocal});
  const Policy policies[] = {Dense{}, AShape{.sink_tokens = 1, .local_tokens = 100},
                             FlexPrefill{.gamma = 0.6f, .min_budget = 0},
                             FlexPrefill{.gamma = 0.9f, .min_budget = 0, .rule = Rule::kOfficial}};
  for (const Backend* backend : tested_backends()) {
    const PlanResult mixed = run_plan(*backend, std::span(&x.problem, 1), policies);
    for (int32_t h = 0; h < 4; ++h) {
      const PlanResult uniform = run_plan(*backend, x.problem, policies[h]);
      EXPECT_EQ(head_bits(mixed.plan.masks[0], h), head_bits(uniform.plan.masks[0], h)) << h;
      EXPECT_EQ(mixed.plan.report()[static_cast<size_t>(h)].pattern,
                uniform.plan.report()[static_cast<size_t>(h)].pattern);
    }
  }
}

// Four query heads over two kv heads: blocked is 0 0 1 1, interleaved 0 1 0 1. The same pairs of
// heads in another order give the same masks in that order.
TEST(Plan, GroupingsDifferInTheOrderOfHeadsAlone) {
  const PlanInstance x({.structure = Structure::kSink});
  PlanInstance y({.structure = Structure::kSink, .grouping = HeadGrouping::kInterleaved});
  const int32_t blocked_head[] = {0, 2, 1, 3};  // of interleaved head h
  for (int64_t t = 0; t < 1500; ++t) {
    for (int32_t h = 0; h < 4; ++h) {
      for (int32_t c = 0; c < 32; ++c) y.q.set(t, h, c, x.q.get(t, blocked_head[h], c));
    }
  }
  for (const Backend* backend : tested_backends()) {
    for (const Policy& policy : kPolicies) {
      const PlanResult a = run_plan(*backend, x.problem, policy);
      const PlanResult b = run_plan(*backend, y.problem, policy);
      for (int32_t h = 0; h < 4; ++h) {
        EXPECT_EQ(head_bits(b.plan.masks[0], h), head_bits(a.plan.masks[0], blocked_head[h]));
      }
    }
  }
}

// CTest runs this suite once per backend: a call that names none must then use the forced one.
TEST(Plan, ForcedBackendIsTheOneThatRuns) {
  const char* forced = std::getenv("FLEXPREFILL_BACKEND");  // NOLINT(concurrency-mt-unsafe)
  if (forced == nullptr) GTEST_SKIP() << "FLEXPREFILL_BACKEND is not set";
  ASSERT_EQ(tested_backends().size(), 1u);
  const PlanInstance x({.q_len = 300, .kv_len = 300, .head_dim = 4});
  Context context;
  std::vector<std::byte> workspace(workspace_bytes(x.problem, Dense{}, context));
  context.workspace = workspace.data();
  context.workspace_bytes = workspace.size();
  EXPECT_EQ(plan(x.problem, Dense{}, context).backend->name(), forced);
}

TEST(Plan, OfficialRuleRefusesChunksByName) {
  const PlanInstance x(PlanCase{});
  const Policy policy = FlexPrefill{.rule = Rule::kOfficial};
  for (const Backend* backend : tested_backends()) {
    EXPECT_EQ(backend->why_not(x.problem, std::span(&policy, 1), {}), "");
    for (const auto& [begin, end, kv_len] :
         {std::tuple(500, 1500, 1500), std::tuple(0, 1000, 1500), std::tuple(0, 1500, 1400)}) {
      const AttentionProblem part = chunk(x.problem, begin, end, kv_len);
      const std::string why = backend->why_not(part, std::span(&policy, 1), {});
      EXPECT_NE(why.find("official"), std::string::npos) << why;
    }
  }
}

}  // namespace
}  // namespace flexprefill::test
