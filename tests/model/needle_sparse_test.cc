// FlexPrefill inside the model: what is reported, kept and answered.

#include <gmock/gmock.h>

#include <cmath>

#include "runtime/prompt_masks.h"
#include "runtime/sampler.h"
#include "tests/model/needle.h"

namespace flexprefill::runtime {
namespace {

std::vector<float> logits_of(const Session& session) {
  return {session.logits().begin(), session.logits().end()};
}

TEST(NeedleSparse, GammaOneIsDense) {
  const ReferenceCase c = reference_case("niah-2048-4");
  Session dense(needle(), {.capacity = 2048});
  Session flex(needle(), {.capacity = 2048});
  dense.prefill(c.ids, {});
  const PrefillResult result = flex.prefill(c.ids, {.policy = FlexPrefill{.gamma = 1.0f}});
  EXPECT_EQ(result.computed_share, 1.0);
  EXPECT_EQ(logits_of(flex), logits_of(dense));
}

TEST(NeedleSparse, AnswersWithAFractionOfTheBlocksInOneShotAndInChunks) {
  const ReferenceCase c = reference_case("niah-8192-16");
  for (const int64_t chunk : {int64_t{2048}, std::ssize(c.ids)}) {
    Session session(needle(), {.capacity = 8200});
    PrefillOptions options;
    options.policy = FlexPrefill{.gamma = 0.95f};
    options.chunk = chunk;
    const PrefillResult result = session.prefill(c.ids, options);
    EXPECT_LT(result.computed_share, 0.9) << chunk;
    EXPECT_GE(result.coverage_min, 0.95f) << chunk;
    std::vector<int32_t> answer = {argmax(session.logits())};
    while (answer.size() < c.greedy.size()) {
      answer.push_back(argmax(session.decode(answer.back())));
    }
    EXPECT_EQ(answer, c.greedy) << chunk;
  }
}

TEST(NeedleSparse, MasksAndReportsAgree) {
  const ReferenceCase c = reference_case("niah-2048-4");
  PromptMasks masks(needle().config(), std::ssize(c.ids));
  Session session(needle(), {.capacity = 2048});
  PrefillOptions options;
  options.policy = FlexPrefill{.gamma = 0.8f, .min_budget = 128};
  options.chunk = 1024;  // a multiple of the block: no row is shared
  options.on_plan = [&](const ChunkPlan& plan) { masks.add(plan); };
  const PrefillResult result = session.prefill(c.ids, options);
  int64_t kept = 0;
  int64_t causal = 0;
  for (int32_t layer = 0; layer < needle().config().layers; ++layer) {
    const BlockMask mask = masks.layer(layer);
    for (int32_t h = 0; h < mask.heads; ++h) {
      int64_t reported = 0;
      for (const PromptMasks::Chunk& chunk : masks.chunks(layer)) {
        reported += chunk.reports[static_cast<size_t>(h)].kept_blocks;
        causal += chunk.reports[static_cast<size_t>(h)].causal_blocks;
      }
      EXPECT_EQ(kept_blocks(mask, h), reported) << "layer " << layer << ", head " << h;
      kept += reported;
    }
  }
  EXPECT_LT(result.computed_share, 1.0);
  EXPECT_DOUBLE_EQ(result.computed_share, static_cast<double>(kept) / static_cast<double>(causal));
}

TEST(NeedleSparse, OfficialRuleAnswersInOneShot) {
  const ReferenceCase c = reference_case("niah-2048-4");
  Session session(needle(), {.capacity = 2100});
  const PrefillResult result =
      session.prefill(c.ids, {.policy = FlexPrefill{.gamma = 0.95f, .rule = Rule::kOfficial}});
  EXPECT_EQ(result.chunk, std::ssize(c.ids));
  EXPECT_EQ(argmax(session.logits()), c.greedy.front());
}

TEST(NeedleSparse, AShapeMeasuresNoCoverage) {
  const ReferenceCase c = reference_case("niah-2048-4");
  Session session(needle(), {.capacity = 2048});
  const PrefillResult result =
      session.prefill(c.ids, {.policy = AShape{.sink_tokens = 128, .local_tokens = 512}});
  EXPECT_LT(result.computed_share, 0.6);
  EXPECT_TRUE(std::isnan(result.coverage_min));
}

TEST(NeedleSparse, PartsAddUpToTheWhole) {
  const ReferenceCase c = reference_case("text-1000");
  Session session(needle(), {.capacity = 1000});
  const PrefillResult result = session.prefill(c.ids, {.policy = FlexPrefill{}});
  const PartSeconds& parts = result.parts;
  EXPECT_NEAR(parts.matmul + parts.plan + parts.attend + parts.pointwise + parts.rest,
              result.prefill_seconds, 0.02 * result.prefill_seconds + 1e-4);
  EXPECT_GT(parts.matmul, 0.0);
  EXPECT_GT(parts.attend, 0.0);
}

}  // namespace
}  // namespace flexprefill::runtime
