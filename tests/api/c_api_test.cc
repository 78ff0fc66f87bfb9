// The C ABI: the same results as C++, and a status with a message for every misuse.

#include "flexprefill/c_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/api/small_problem.h"

namespace flexprefill {
namespace {

using testing::HasSubstr;

FlexprefillTensor c_tensor(const HeadView& view) {
  return flexprefill_tensor(view.data, static_cast<uint32_t>(view.dtype), view.tokens, view.heads,
                            view.head_dim);
}

// The C structs of a SmallProblem, and one call with each.
struct CCall {
  CCall()
      : q(c_tensor(small.problem.q)),
        k(c_tensor(small.problem.kv.k)),
        v(c_tensor(small.problem.kv.v)),
        out(c_tensor(small.problem.out)) {
    problem.q = &q;
    problem.k = &k;
    problem.v = &v;
    problem.out = &out;
    problem.lse = small.lse.data();
    policy.min_budget = 128;
    EXPECT_EQ(size(), FLEXPREFILL_OK) << flexprefill_last_error();
    workspace.resize(context.workspace_bytes);
    context.workspace = workspace.data();
  }
  CCall(const CCall&) = delete;
  CCall& operator=(const CCall&) = delete;
  ~CCall() { flexprefill_plan_free(made); }

  FlexprefillStatus size() {
    return flexprefill_workspace_bytes(&problem, 1, &policy, 1, &context, &context.workspace_bytes);
  }
  FlexprefillStatus plan() { return flexprefill_plan(&problem, 1, &policy, 1, &context, &made); }
  FlexprefillStatus prefill() {
    return flexprefill_prefill(&problem, 1, &policy, 1, &options, &context, &made);
  }

  SmallProblem small;
  FlexprefillTensor q, k, v, out;
  FlexprefillProblem problem = flexprefill_default_problem();
  FlexprefillPolicy policy = flexprefill_default_policy();
  FlexprefillContext context = flexprefill_default_context();
  FlexprefillAttendOptions options = flexprefill_default_attend_options();
  FlexprefillPlan* made = nullptr;
  std::vector<std::byte> workspace;
};

TEST(CApi, VersionsAreTheHeaders) {
  EXPECT_EQ(flexprefill_abi_version(), FLEXPREFILL_ABI_VERSION);
  EXPECT_STREQ(flexprefill_version(), version());
}

TEST(CApi, DefaultsAreThoseOfCpp) {
  const FlexPrefill flex;
  const AShape shape;
  const FlexprefillPolicy policy = flexprefill_default_policy();
  EXPECT_EQ(policy.gamma, flex.gamma);
  EXPECT_EQ(policy.tau, flex.tau);
  EXPECT_EQ(policy.min_budget, flex.min_budget);
  EXPECT_EQ(policy.max_budget, flex.max_budget.value_or(0));
  EXPECT_EQ(policy.rule, static_cast<uint32_t>(flex.rule));
  EXPECT_EQ(policy.sink_tokens, shape.sink_tokens);
  EXPECT_EQ(policy.local_tokens, shape.local_tokens);
}

TEST(CApi, ListsTheBackendsOfCpp) {
  ASSERT_EQ(static_cast<size_t>(flexprefill_num_backends()), backends().size());
  for (size_t n = 0; n < backends().size(); ++n) {
    EXPECT_EQ(flexprefill_backend_name(static_cast<int32_t>(n)), backends()[n]->name());
    EXPECT_EQ(flexprefill_backend_description(static_cast<int32_t>(n)),
              backends()[n]->description());
  }
  EXPECT_EQ(flexprefill_backend_name(-1), nullptr);
  EXPECT_EQ(flexprefill_backend_description(flexprefill_num_backends()), nullptr);
}

TEST(CApi, EveryPolicyGivesThePlanAndTheOutputOfCpp) {
  for (const uint32_t kind : {FLEXPREFILL_DENSE, FLEXPREFILL_A_SHAPE, FLEXPREFILL_FLEX}) {
    CCall call;
    call.policy.kind = kind;
    call.policy.sink_tokens = 128;
    call.policy.local_tokens = 64;
    ASSERT_EQ(call.size(), FLEXPREFILL_OK) << flexprefill_last_error();
    call.workspace.resize(call.context.workspace_bytes);
    call.context.workspace = call.workspace.data();
    ASSERT_EQ(call.prefill(), FLEXPREFILL_OK) << flexprefill_last_error();

    SmallProblem other;
    Policy policy = Dense{};
    if (kind == FLEXPREFILL_A_SHAPE) policy = AShape{128, 64};
    if (kind == FLEXPREFILL_FLEX) policy = FlexPrefill{.min_budget = 128};
    OwnContext own(other.problem, policy);
    const Plan expected = prefill(other.problem, policy, own.context);

    EXPECT_EQ(call.small.out, other.out);
    EXPECT_EQ(call.small.lse, other.lse);
    EXPECT_STREQ(flexprefill_plan_backend(call.made), expected.backend->name().data());
    FlexprefillMask mask = flexprefill_default_mask();
    ASSERT_EQ(flexprefill_plan_mask(call.made, 0, &mask), FLEXPREFILL_OK);
    ASSERT_EQ(mask.q_blocks, expected.masks[0].q_blocks);
    ASSERT_EQ(mask.k_blocks, expected.masks[0].k_blocks);
    EXPECT_EQ(std::memcmp(mask.bits, expected.masks[0].bits, expected.masks[0].num_words() * 8), 0);
    double share = 0.0;
    ASSERT_EQ(flexprefill_computed_share(&mask, &share), FLEXPREFILL_OK);
    EXPECT_EQ(share, computed_share(expected.masks[0]));
    for (int32_t h = 0; h < SmallProblem::kHeads; ++h) {
      FlexprefillReport report = flexprefill_default_report();
      ASSERT_EQ(flexprefill_plan_report(call.made, 0, h, &report), FLEXPREFILL_OK);
      EXPECT_EQ(report.pattern, static_cast<uint32_t>(expected.report()[h].pattern));
      EXPECT_EQ(report.kept_blocks, expected.report()[h].kept_blocks);
      EXPECT_EQ(report.causal_blocks, expected.report()[h].causal_blocks);
      EXPECT_EQ(report.budget_limited, expected.report()[h].budget_limited ? 1u : 0u);
    }
  }
}

TEST(CApi, PlanThenAttendEqualsPrefill) {
  CCall whole, steps;
  ASSERT_EQ(whole.prefill(), FLEXPREFILL_OK);
  ASSERT_EQ(steps.plan(), FLEXPREFILL_OK);
  ASSERT_EQ(flexprefill_attend(&steps.problem, 1, steps.made, nullptr, &steps.context),
            FLEXPREFILL_OK);
  EXPECT_EQ(whole.small.out, steps.small.out);
}

TEST(CApi, OwnMaskWithoutBitsIsDense) {
  CCall dense, own;
  dense.policy.kind = FLEXPREFILL_DENSE;
  ASSERT_EQ(dense.prefill(), FLEXPREFILL_OK);
  FlexprefillMask mask = flexprefill_default_mask();
  ASSERT_EQ(flexprefill_block_grid(&own.problem, &mask), FLEXPREFILL_OK);
  EXPECT_EQ(mask.q_blocks, 3);
  ASSERT_EQ(flexprefill_attend_masks(&own.problem, 1, &mask, nullptr, &own.context),
            FLEXPREFILL_OK);
  EXPECT_EQ(own.small.out, dense.small.out);
}

TEST(CApi, ShareOfAMaskWithoutBitsNeedsNoCounting) {
  FlexprefillMask mask = flexprefill_default_mask();
  mask.heads = mask.q_blocks = mask.k_blocks = INT32_MAX;  // 2^93 blocks
  double share = 0.0;
  ASSERT_EQ(flexprefill_computed_share(&mask, &share), FLEXPREFILL_OK);
  EXPECT_EQ(share, 1.0);
}

TEST(CApi, PrefillNeedNotReturnThePlan) {
  CCall call;
  EXPECT_EQ(flexprefill_prefill(&call.problem, 1, &call.policy, 1, nullptr, &call.context, nullptr),
            FLEXPREFILL_OK);
}

struct Misuse {
  const char* name;
  std::function<FlexprefillStatus(CCall&)> call;
  const char* message;
};

void PrintTo(const Misuse& misuse, std::ostream* os) { *os << misuse.name; }

class CApiMisuse : public testing::TestWithParam<Misuse> {};

TEST_P(CApiMisuse, GivesAStatusAndAMessage) {
  CCall call;
  EXPECT_EQ(GetParam().call(call), FLEXPREFILL_INVALID_ARGUMENT);
  EXPECT_THAT(flexprefill_last_error(), HasSubstr(GetParam().message));
  EXPECT_EQ(call.made, nullptr);
}

// Changes a struct and prefills.
template <typename Spoil>
std::function<FlexprefillStatus(CCall&)> with(Spoil spoil) {
  return [spoil](CCall& c) {
    spoil(c);
    return c.prefill();
  };
}

std::vector<Misuse> misuses() {
  using C = CCall;
  return {
      {"ProblemSizeOld", with([](C& c) { --c.problem.struct_size; }), "problems[0].struct_size = "},
      {"ProblemSizeZero", with([](C& c) { c.problem.struct_size = 0; }),
       "problems[0].struct_size = 0, expected"},
      {"TensorSize", with([](C& c) { c.k.struct_size += 8; }), "problems[0].k.struct_size = "},
      {"OutSize", with([](C& c) { c.out.struct_size = 1; }), "problems[0].out.struct_size = 1"},
      {"PolicySize", with([](C& c) { c.policy.struct_size = 3; }), "policies[0].struct_size = 3"},
      {"ContextSize", with([](C& c) { c.context.struct_size = 3; }), "context.struct_size = 3"},
      {"OptionsSize", with([](C& c) { c.options.struct_size = 3; }), "options.struct_size = 3"},
      {"QNull", with([](C& c) { c.problem.q = nullptr; }), "problems[0].q = null"},
      {"KNull", with([](C& c) { c.problem.k = nullptr; }), "problems[0].k = null"},
      {"VNull", with([](C& c) { c.problem.v = nullptr; }), "problems[0].v = null"},
      {"OutNull", with([](C& c) { c.problem.out = nullptr; }), "problems[0].out"},
      {"QDataNull", with([](C& c) { c.q.data = nullptr; }), "problems[0].q.data = null"},
      {"DType", with([](C& c) { c.q.dtype = 256; }), "problems[0].q.dtype = 256"},
      {"Device", with([](C& c) { c.q.device = 2; }), "problems[0].q.device = 2"},
      {"Grouping", with([](C& c) { c.problem.grouping = 2; }), "problems[0].grouping = 2"},
      {"Causal", with([](C& c) { c.problem.causal = 2; }), "problems[0].causal = 2"},
      {"HasQStart", with([](C& c) { c.problem.has_q_start = 9; }), "problems[0].has_q_start = 9"},
      {"ProblemReserved", with([](C& c) { c.problem.reserved = 1; }), "problems[0].reserved = 1"},
      {"PolicyKind", with([](C& c) { c.policy.kind = 3; }), "policies[0].kind = 3"},
      {"PolicyRule", with([](C& c) { c.policy.rule = 2; }), "policies[0].rule = 2"},
      {"PolicyReserved", with([](C& c) { c.policy.reserved = 1; }), "policies[0].reserved = 1"},
      {"Gamma", with([](C& c) { c.policy.gamma = 1.5f; }), "FlexPrefill.gamma = 1.5"},
      {"MaxBudget", with([](C& c) { c.policy.max_budget = -1; }), "FlexPrefill.max_budget = -1"},
      {"Fp64", with([](C& c) { c.options.accumulate_f64 = 2; }), "options.accumulate_f64 = 2"},
      {"MeanCorrection", with([](C& c) { c.options.mean_correction = 1; }), "mean_correction"},
      {"OptionsReserved", with([](C& c) { c.options.reserved = 1; }), "options.reserved = 1"},
      {"Backend", with([](C& c) { c.context.backend = "abacus"; }),
       "context.backend = abacus, expected one of: "},
      {"Threads", with([](C& c) { c.context.threads = -1; }), "Context.threads = -1"},
      {"Workspace", with([](C& c) { c.context.workspace = nullptr; }), "Context.workspace = null"},
      {"WorkspaceBytes", with([](C& c) { c.context.workspace_bytes = 1; }),
       "Context.workspace_bytes = 1, expected at least "},
      {"NotCausal", with([](C& c) { c.problem.causal = 0; }), "causal = false"},
      {"ProblemsNull",
       [](C& c) { return flexprefill_plan(nullptr, 1, &c.policy, 1, &c.context, &c.made); },
       "problems = null"},
      {"PoliciesNull",
       [](C& c) { return flexprefill_plan(&c.problem, 1, nullptr, 1, &c.context, &c.made); },
       "policies = null"},
      {"NoPolicies",
       [](C& c) { return flexprefill_plan(&c.problem, 1, nullptr, 0, &c.context, &c.made); },
       "policies = empty"},
      {"ContextNull",
       [](C& c) { return flexprefill_plan(&c.problem, 1, &c.policy, 1, nullptr, &c.made); },
       "context = null"},
      {"PlanResultNull",
       [](C& c) { return flexprefill_plan(&c.problem, 1, &c.policy, 1, &c.context, nullptr); },
       "plan = null"},
      {"BytesNull",
       [](C& c) {
         return flexprefill_workspace_bytes(&c.problem, 1, &c.policy, 1, &c.context, nullptr);
       },
       "bytes = null"},
      {"AttendPlanNull",
       [](C& c) { return flexprefill_attend(&c.problem, 1, nullptr, nullptr, &c.context); },
       "plan = null"},
      {"MasksNull",
       [](C& c) { return flexprefill_attend_masks(&c.problem, 1, nullptr, nullptr, &c.context); },
       "masks = null"},
      {"MaskSize",
       [](C& c) {
         const FlexprefillMask mask = {};
         return flexprefill_attend_masks(&c.problem, 1, &mask, nullptr, &c.context);
       },
       "masks[0].struct_size = 0"},
      {"MaskGrid",
       [](C& c) {
         FlexprefillMask mask = flexprefill_default_mask();
         return flexprefill_attend_masks(&c.problem, 1, &mask, nullptr, &c.context);
       },
       "masks[0].heads = 0"},
      {"ShareOfNull",
       [](C&) {
         double share = 0.0;
         return flexprefill_computed_share(nullptr, &share);
       },
       "mask = null"},
      {"ShareOfNegativeSizes",
       [](C&) {
         FlexprefillMask mask = flexprefill_default_mask();
         mask.heads = -1;
         double share = 0.0;
         return flexprefill_computed_share(&mask, &share);
       },
       "mask.heads, q_blocks, k_blocks = -1"},
      {"GridOfNull",
       [](C&) {
         FlexprefillMask mask = flexprefill_default_mask();
         return flexprefill_block_grid(nullptr, &mask);
       },
       "problem = null"},
      {"GridOfHugeProblem",
       [](C& c) {
         FlexprefillMask mask = flexprefill_default_mask();
         c.problem.has_q_start = 1;
         c.problem.q_start = INT64_MAX;
         return flexprefill_block_grid(&c.problem, &mask);
       },
       "q_start = 9223372036854775807"},
      {"PlanMaskOfNull",
       [](C&) {
         FlexprefillMask mask = flexprefill_default_mask();
         return flexprefill_plan_mask(nullptr, 0, &mask);
       },
       "plan = null"},
  };
}

INSTANTIATE_TEST_SUITE_P(C, CApiMisuse, testing::ValuesIn(misuses()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(CApi, PlanAccessOutsideItsRangeIsRefused) {
  CCall call;
  ASSERT_EQ(call.plan(), FLEXPREFILL_OK);
  FlexprefillMask mask = flexprefill_default_mask();
  FlexprefillReport report = flexprefill_default_report();
  EXPECT_EQ(flexprefill_plan_mask(call.made, 1, &mask), FLEXPREFILL_INVALID_ARGUMENT);
  EXPECT_THAT(flexprefill_last_error(), HasSubstr("problem = 1, expected below 1"));
  EXPECT_EQ(flexprefill_plan_mask(call.made, 0, nullptr), FLEXPREFILL_INVALID_ARGUMENT);
  EXPECT_THAT(flexprefill_last_error(), HasSubstr("mask = null"));
  EXPECT_EQ(flexprefill_plan_report(call.made, 0, 4, &report), FLEXPREFILL_INVALID_ARGUMENT);
  EXPECT_THAT(flexprefill_last_error(), HasSubstr("head = 4, expected [0, 4)"));
  EXPECT_EQ(flexprefill_plan_report(call.made, 0, -1, &report), FLEXPREFILL_INVALID_ARGUMENT);
  report.struct_size = 1;
  EXPECT_EQ(flexprefill_plan_report(call.made, 0, 0, &report), FLEXPREFILL_INVALID_ARGUMENT);
  EXPECT_THAT(flexprefill_last_error(), HasSubstr("report.struct_size = 1"));
  EXPECT_EQ(flexprefill_attend(&call.problem, 0, call.made, nullptr, &call.context),
            FLEXPREFILL_INVALID_ARGUMENT);
  EXPECT_THAT(flexprefill_last_error(),
              HasSubstr("masks.size() = 1, expected problems.size() = 0"));
  EXPECT_EQ(flexprefill_plan_backend(nullptr), nullptr);
}

TEST(CApi, LastErrorBelongsToItsThread) {
  CCall call;
  call.policy.gamma = 7.0f;
  ASSERT_EQ(call.plan(), FLEXPREFILL_INVALID_ARGUMENT);
  std::string elsewhere = "not asked";
  std::thread([&] { elsewhere = flexprefill_last_error(); }).join();
  EXPECT_EQ(elsewhere, "");
  EXPECT_THAT(flexprefill_last_error(), HasSubstr("gamma = 7"));
}

TEST(CApi, LongMessagesAreCutNotOverrun) {
  CCall call;
  const std::string name(5000, 'x');
  call.context.backend = name.c_str();
  EXPECT_EQ(call.plan(), FLEXPREFILL_INVALID_ARGUMENT);
  EXPECT_EQ(std::strlen(flexprefill_last_error()), 1023u);
}

}  // namespace
}  // namespace flexprefill
