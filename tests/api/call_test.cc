// The rules about policies, masks, workspaces and backends, and what the backends refuse by name.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/api/small_problem.h"

namespace flexprefill {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct BadPolicy {
  const char* name;
  Policy policy;
  const char* message;
};

void PrintTo(const BadPolicy& bad, std::ostream* os) { *os << bad.name; }

class PolicyRules : public testing::TestWithParam<BadPolicy> {};

TEST_P(PolicyRules, IsRefusedByName) {
  SmallProblem small;
  OwnContext own(small.problem, Dense{});
  const Policy& policy = GetParam().policy;
  EXPECT_THAT(error_of([&] { (void)workspace_bytes(small.problem, policy); }),
              HasSubstr(GetParam().message));
  EXPECT_THAT(error_of([&] { (void)plan(small.problem, policy, own.context); }),
              HasSubstr(GetParam().message));
  EXPECT_THAT(error_of([&] { (void)prefill(small.problem, policy, own.context); }),
              HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Policy, PolicyRules,
    testing::Values(
        BadPolicy{"GammaZero", FlexPrefill{.gamma = 0.0f}, "FlexPrefill.gamma = 0"},
        BadPolicy{"GammaNegative", FlexPrefill{.gamma = -0.5f}, "FlexPrefill.gamma = -0.5"},
        BadPolicy{"GammaAboveOne", FlexPrefill{.gamma = 1.5f}, "FlexPrefill.gamma = 1.5"},
        BadPolicy{"GammaBarelyAboveOne", FlexPrefill{.gamma = std::nextafter(1.0f, 2.0f)},
                  "FlexPrefill.gamma = 1.0000001, expected (0, 1]"},
        BadPolicy{"GammaNan", FlexPrefill{.gamma = kNan}, "expected (0, 1]"},
        BadPolicy{"TauNegative", FlexPrefill{.tau = -0.1f}, "FlexPrefill.tau = -0.1"},
        BadPolicy{"TauAboveOne", FlexPrefill{.tau = 1.1f}, "FlexPrefill.tau = 1.1"},
        BadPolicy{"TauNan", FlexPrefill{.tau = kNan}, "expected [0, 1]"},
        BadPolicy{"MinBudgetNegative", FlexPrefill{.min_budget = -1},
                  "FlexPrefill.min_budget = -1"},
        BadPolicy{"MinBudgetHuge", FlexPrefill{.min_budget = std::numeric_limits<int64_t>::max()},
                  "FlexPrefill.min_budget = 9223372036854775807"},
        BadPolicy{"MaxBudgetZero", FlexPrefill{.max_budget = 0}, "FlexPrefill.max_budget = 0"},
        BadPolicy{"MaxBudgetNegative", FlexPrefill{.max_budget = -5},
                  "FlexPrefill.max_budget = -5"},
        BadPolicy{"RuleOutsideEnum", FlexPrefill{.rule = static_cast<Rule>(9)},
                  "FlexPrefill.rule = 9, expected a Rule"},
        BadPolicy{"SinkNegative", AShape{.sink_tokens = -1}, "AShape.sink_tokens = -1"},
        BadPolicy{"LocalZero", AShape{.local_tokens = 0}, "AShape.local_tokens = 0"},
        BadPolicy{"LocalHuge", AShape{.local_tokens = std::numeric_limits<int64_t>::max()},
                  "AShape.local_tokens = 9223372036854775807"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Policies, OneForAllHeadsOrOnePerHead) {
  SmallProblem small;
  const std::span<const AttentionProblem> problems(&small.problem, 1);
  const auto bytes = [&](size_t count) {
    return error_of([&] { (void)workspace_bytes(problems, std::vector<Policy>(count, Dense{})); });
  };
  EXPECT_EQ(bytes(1), "no error");
  EXPECT_EQ(bytes(4), "no error");
  EXPECT_THAT(bytes(0), HasSubstr("policies = empty"));
  EXPECT_THAT(bytes(3), HasSubstr("policies.size() = 3, expected 1 or problems[0].q.heads = 4"));
}

TEST(Policies, EveryPolicyOfTheSpanIsChecked) {
  SmallProblem small;
  const std::vector<Policy> policies = {Dense{}, Dense{}, Dense{}, FlexPrefill{.gamma = 2.0f}};
  const std::span<const AttentionProblem> problems(&small.problem, 1);
  EXPECT_THAT(error_of([&] { (void)workspace_bytes(problems, policies); }),
              HasSubstr("FlexPrefill.gamma = 2"));
}

TEST(Workspace, NullIsRefused) {
  SmallProblem small;
  EXPECT_THAT(error_of([&] { (void)plan(small.problem, Dense{}, {}); }),
              HasSubstr("Context.workspace = null"));
}

TEST(Workspace, OneByteTooFewIsRefusedAndExactlyEnoughIsTaken) {
  SmallProblem small;
  const size_t bytes = workspace_bytes(small.problem, FlexPrefill{});
  OwnContext own(bytes);
  EXPECT_EQ(error_of([&] { (void)prefill(small.problem, FlexPrefill{}, own.context); }),
            "no error");
  own.context.workspace_bytes = bytes - 1;
  EXPECT_THAT(error_of([&] { (void)plan(small.problem, FlexPrefill{}, own.context); }),
              HasSubstr("Context.workspace_bytes = " + std::to_string(bytes - 1) +
                        ", expected at least " + std::to_string(bytes)));
}

TEST(Workspace, AnyAlignmentWillDoAndNothingIsWrittenOutside) {
  SmallProblem small;
  const size_t bytes = workspace_bytes(small.problem, FlexPrefill{});
  std::vector<unsigned char> memory(bytes + 64, 0xa5);
  for (const size_t offset : {1, 3, 8, 31}) {
    Context context;
    context.workspace = memory.data() + offset;
    context.workspace_bytes = bytes;
    (void)prefill(small.problem, FlexPrefill{}, context);
    for (size_t n = 0; n < offset; ++n) ASSERT_EQ(memory[n], 0xa5) << n;
    for (size_t n = offset + bytes; n < memory.size(); ++n) ASSERT_EQ(memory[n], 0xa5) << n;
    memory.assign(memory.size(), 0xa5);
  }
}

TEST(Workspace, OfAnyPolicyServesTheCallersOwnMask) {
  SmallProblem small;
  OwnContext own(small.problem, Dense{});
  EXPECT_EQ(error_of([&] { attend(small.problem, block_grid(small.problem), {}, own.context); }),
            "no error");
}

// A plan's second mask lies where the scratch of a call for one problem begins.
TEST(Workspace, AttendingAPlanPieceByPieceNeedsAnotherOne) {
  SmallProblem first, second;
  const std::vector<AttentionProblem> batch = {first.problem, second.problem};
  OwnContext own(workspace_bytes(batch, Policy(Dense{})));
  const Plan both = plan(batch, Policy(Dense{}), own.context);
  EXPECT_THAT(error_of([&] { attend(batch[1], both.masks[1], {}, own.context); }),
              HasSubstr("masks[0].bits = inside the scratch of Context.workspace"));
  OwnContext other(second.problem, Dense{});
  attend(batch[1], both.masks[1], {}, other.context);
  attend(batch, both, {}, own.context);
  EXPECT_EQ(first.out, second.out);
}

TEST(ContextRules, ThreadsOutsideTheRange) {
  SmallProblem small;
  OwnContext own(small.problem, Dense{});
  own.context.threads = -1;
  EXPECT_THAT(error_of([&] { (void)plan(small.problem, Dense{}, own.context); }),
              HasSubstr("Context.threads = -1, expected [0, 4096]"));
  own.context.threads = 1000000;
  EXPECT_THAT(error_of([&] { (void)plan(small.problem, Dense{}, own.context); }),
              HasSubstr("Context.threads = 1000000"));
}

struct BadMask {
  const char* name;
  std::function<void(BlockMask&)> spoil;
  const char* message;
};

void PrintTo(const BadMask& bad, std::ostream* os) { *os << bad.name; }

class MaskRules : public testing::TestWithParam<BadMask> {};

TEST_P(MaskRules, IsRefusedByName) {
  SmallProblem small(100, 300);
  OwnContext own(small.problem, Dense{});
  BlockMask mask = block_grid(small.problem);
  GetParam().spoil(mask);
  EXPECT_THAT(error_of([&] { attend(small.problem, mask, {}, own.context); }),
              HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Mask, MaskRules,
    testing::Values(
        BadMask{"Heads", [](BlockMask& m) { m.heads = 2; },
                "masks[0].heads = 2, expected q.heads = 4"},
        BadMask{"QBlocks", [](BlockMask& m) { ++m.q_blocks; }, "masks[0].q_blocks = "},
        BadMask{"KBlocks", [](BlockMask& m) { --m.k_blocks; }, "masks[0].k_blocks = 2"},
        BadMask{"QBlockSize", [](BlockMask& m) { m.q_block = 64; }, "masks[0].q_block = 64"},
        BadMask{"KBlockSize", [](BlockMask& m) { m.k_block = 64; }, "masks[0].k_block = 64"},
        BadMask{"FirstRow", [](BlockMask& m) { m.first_q_block = 0; },
                "masks[0].first_q_block = 0, expected floor(q_start / 128) = 1"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Mask, OnePerProblem) {
  SmallProblem small;
  OwnContext own(small.problem, Dense{});
  const std::span<const AttentionProblem> problems(&small.problem, 1);
  EXPECT_THAT(error_of([&] { attend(problems, std::vector<BlockMask>(), {}, own.context); }),
              HasSubstr("masks.size() = 0, expected problems.size() = 1"));
}

TEST(BackendList, RefIsLastAndEveryOneIsFoundByName) {
  ASSERT_FALSE(backends().empty());
  EXPECT_EQ(backends().back()->name(), "ref");
  for (const Backend* backend : backends()) {
    EXPECT_EQ(find_backend(backend->name()), backend);
    EXPECT_FALSE(backend->description().empty());
  }
  EXPECT_EQ(find_backend("no such backend"), nullptr);
}

TEST(BackendList, TheOneOfTheContextRuns) {
  SmallProblem small;
  const Policy policy = FlexPrefill{};
  for (const Backend* backend : backends()) {
    if (backend->name() == "cuda") continue;  // these tensors are in host memory
    EXPECT_EQ(backend->why_not(small.problem, {&policy, 1}, {}), "");
    Context context;
    context.backend = backend;
    OwnContext own(workspace_bytes(small.problem, FlexPrefill{}, context));
    own.context.backend = backend;
    EXPECT_EQ(plan(small.problem, FlexPrefill{}, own.context).backend, backend);
  }
}

// The cuda backend, listed first where it is built in, leaves tensors in host memory alone, and the
// others those in device memory, whether or not this machine has a GPU.
TEST(BackendList, TensorsChooseTheirBackend) {
  SmallProblem small;
  OwnContext own(small.problem, Dense{});
  EXPECT_NE(plan(small.problem, Dense{}, own.context).backend->name(), "cuda");
  const Policy policy = Dense{};
  AttentionProblem on_gpu = small.problem;
  on_gpu.q.device = on_gpu.kv.k.device = on_gpu.kv.v.device = {DeviceType::kCuda, 63};
  for (const Backend* backend : backends()) {
    if (backend->name() == "cuda") {
      EXPECT_THAT(backend->why_not(small.problem, {&policy, 1}, {}), HasSubstr("q.device = cpu"));
    }
    EXPECT_THAT(backend->why_not(on_gpu, {&policy, 1}, {}), HasSubstr("q.device = cuda"));
  }
}

struct Refused {
  const char* name;
  std::function<void(AttentionProblem&)> change;
  const char* why;
};

void PrintTo(const Refused& refused, std::ostream* os) { *os << refused.name; }

class WhyNot : public testing::TestWithParam<Refused> {};

TEST_P(WhyNot, EveryCpuBackendNamesTheField) {
  SmallProblem small;
  GetParam().change(small.problem);
  const std::string message = error_of([&] { (void)workspace_bytes(small.problem, Dense{}); });
  EXPECT_THAT(message, StartsWith("no backend can run this call"));
  const Policy policy = Dense{};
  for (const Backend* backend : backends()) {
    if (backend->name() == "cuda") continue;
    const std::string why = backend->why_not(small.problem, {&policy, 1}, {});
    EXPECT_THAT(why, HasSubstr(GetParam().why)) << backend->name();
    EXPECT_THAT(message, HasSubstr(why));
  }
}

const float kPerHead[SmallProblem::kHeads] = {};
const int32_t kLength = 300;

INSTANTIATE_TEST_SUITE_P(
    Field, WhyNot,
    testing::Values(
        Refused{"NotCausal", [](AttentionProblem& p) { p.causal = false; }, "causal = false"},
        Refused{"Window", [](AttentionProblem& p) { p.window = 64; }, "window = 64"},
        Refused{"Softcap", [](AttentionProblem& p) { p.softcap = 50.0f; }, "softcap = 50"},
        Refused{"Sinks", [](AttentionProblem& p) { p.sinks = kPerHead; }, "sinks = set"},
        Refused{"Alibi", [](AttentionProblem& p) { p.alibi_slopes = kPerHead; },
                "alibi_slopes = set"},
        Refused{"QLenDevice", [](AttentionProblem& p) { p.q_len_device = &kLength; },
                "q_len_device = set"},
        Refused{"KvLenDevice", [](AttentionProblem& p) { p.kv_len_device = &kLength; },
                "kv_len_device = set"},
        Refused{"Int8", [](AttentionProblem& p) { p.q.dtype = DType::kI8; }, "q.dtype = i8"},
        Refused{"Fp8Keys",
                [](AttentionProblem& p) { p.kv.k.dtype = p.kv.v.dtype = DType::kF8E4M3; },
                "kv.k.dtype = f8_e4m3"},
        Refused{"Pages",
                [](AttentionProblem& p) {
                  static const int32_t table[1] = {0};
                  p.kv.page_size = 300;
                  p.kv.paged_kv_len = 300;
                  p.kv.block_table = table;
                },
                "kv.page_size = 300"},
        Refused{
            "Cuda",
            [](AttentionProblem& p) {
              p.q.device = p.kv.k.device = p.kv.v.device = p.out.device = {DeviceType::kCuda, 0};
            },
            "device = cuda"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(WhyNotOptions, MeanCorrectionIsReserved) {
  SmallProblem small;
  OwnContext own(small.problem, Dense{});
  const AttendOptions options{.mean_correction = true};
  EXPECT_THAT(
      error_of([&] { attend(small.problem, block_grid(small.problem), options, own.context); }),
      HasSubstr("mean_correction = true"));
}

TEST(WhyNotOptions, Fp64RunsOnRefAlone) {
  SmallProblem small;
  OwnContext own(1 << 24);
  const AttendOptions options{.accumulate_f64 = true};
  const Policy policy = Dense{};
  for (const Backend* backend : backends()) {
    EXPECT_EQ(backend->why_not(small.problem, {&policy, 1}, options).empty(),
              backend->name() == "ref");
  }
  EXPECT_EQ(
      error_of([&] { attend(small.problem, block_grid(small.problem), options, own.context); }),
      "no error");
}

TEST(WhyNotPolicy, OfficialRuleNeedsAWholePrompt) {
  SmallProblem chunk(100, 300);
  EXPECT_THAT(
      error_of([&] { (void)workspace_bytes(chunk.problem, FlexPrefill{.rule = Rule::kOfficial}); }),
      HasSubstr("q_len = 100, kv_len = 300"));
}

TEST(Version, IsTheHeaders) {
  const std::string expected = std::to_string(FLEXPREFILL_VERSION_MAJOR) + "." +
                               std::to_string(FLEXPREFILL_VERSION_MINOR) + "." +
                               std::to_string(FLEXPREFILL_VERSION_PATCH);
  EXPECT_EQ(version(), expected);
}

}  // namespace
}  // namespace flexprefill
