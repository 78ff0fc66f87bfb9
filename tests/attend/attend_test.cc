// attend() of every backend against the reference in fp64, over the list of cases.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <iostream>
#include <limits>
#include <tuple>

#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

// Empty, or why the backend is not asked; checked before every run so that no skip is silent.
std::string why_not(const Backend& backend, const Instance& x) {
  const Policy policy = Dense{};
  return backend.why_not(placed(backend, x.problem), std::span(&policy, 1), {});
}

void expect_matches_reference(const Backend& backend, const Case& written) {
  const Case c = adapted(backend, written);
  SCOPED_TRACE(std::string(backend.name()) + " " + c.name());
  const Instance x(c);
  if (const std::string why = why_not(backend, x); !why.empty()) {
    skip(backend, c.name(), why);
    return;
  }
  run_attend(backend, x);
  const Case seen = multiplies_in_bf16(backend) ? as_multiplied_in_bf16(c) : c;
  const Instance y(seen);
  const Expected expected = expected_attention(y.problem, y.mask);
  EXPECT_TRUE(
      all_close(x.out.values(), expected.out, tolerance(seen.coarsest(), c.kv_len, c.max_logit())));
  if (c.lse) {
    EXPECT_TRUE(all_close(x.lse, expected.lse, lse_tolerance(c.kv_len, c.max_logit())));
  }
  EXPECT_TRUE(x.out.gaps_untouched()) << "attend wrote outside of the output";
  for (const float value : expected.out) ASSERT_TRUE(std::isfinite(value)) << "a poisoned case";
}

TEST(Attend, MatchesReferenceInEveryCase) {
  for (const Backend* backend : tested_backends()) {
    const auto cases = attend_cases();
    for (const Case& c : cases) expect_matches_reference(*backend, c);
    std::cout << backend->name() << ": " << cases.size() << " cases\n";
  }
}

// At a tiny scale all visible keys weigh the same, and hidden keys nothing; at a huge one the best
// key has all the weight.
TEST(Attend, TinyAndHugeScalesKeepCausalityAndSum) {
  for (const Backend* backend : tested_backends()) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const auto& [q_len, kv_len, q_start] :
           {std::tuple(128, 255, 1), std::tuple(2, 1, -1), std::tuple(200, 255, 55)}) {
        for (const float scale : {1e-38f, 1e-30f, 1e10f, 1e30f}) {
          Case c = {.q_len = q_len, .kv_len = kv_len, .q_start = q_start, .k_dim = 64};
          c.q_dtype = c.kv_dtype = c.out_dtype = dtype;
          c.softmax_scale = scale;
          SCOPED_TRACE(std::string(backend->name()) + " " + c.name());
          const Instance x(c);
          if (const std::string why = why_not(*backend, x); !why.empty()) {
            skip(*backend, c.name(), why);
            continue;
          }
          run_attend(*backend, x);
          const Case seen = multiplies_in_bf16(*backend) ? as_multiplied_in_bf16(c) : c;
          const Instance y(seen);
          const Expected expected = expected_attention(y.problem, y.mask);
          EXPECT_TRUE(all_close(x.out.values(), expected.out, tolerance(seen.coarsest(), kv_len)));
          Tolerance lse = lse_tolerance(kv_len);
          lse.relative = 64 * 0x1p-24;  // a logit is a sum of 64 rounded products
          EXPECT_TRUE(all_close(x.lse, expected.lse, lse));
        }
      }
    }
  }
}

// The last block holds kv_len mod 128 keys, every remainder once; NaN lies behind it.
TEST(Attend, EveryTailOfTheLastBlock) {
  for (const Backend* backend : tested_backends()) {
    for (int64_t kv_len = 129; kv_len <= 256; ++kv_len) {
      const DType dtypes[] = {DType::kF32, DType::kF16, DType::kBF16};
      const DType dtype = dtypes[kv_len % 3];
      expect_matches_reference(*backend, {.q_len = 5,
                                          .kv_len = kv_len,
                                          .k_dim = 32,
                                          .v_dim = 32,
                                          .q_dtype = dtype,
                                          .kv_dtype = dtype,
                                          .out_dtype = dtype});
    }
  }
}

TEST(Attend, ThreadCountChangesNoBit) {
  for (const Backend* backend : tested_backends()) {
    const Case c =
        adapted(*backend, {.q_len = 400, .kv_len = 700, .heads = 3, .mask = MaskKind::kRandom});
    const Instance one(c);
    run_attend(*backend, one, /*threads=*/1);
    for (const int threads : {2, 3, 5}) {
      const Instance many(c);
      run_attend(*backend, many, threads);
      EXPECT_TRUE(same_results(one, many)) << backend->name() << " with " << threads << " threads";
    }
  }
}

TEST(Attend, BatchChangesNoBit) {
  const Case cases[] = {
      {.q_len = 130, .kv_len = 300, .mask = MaskKind::kRandom},
      {.q_len = 1, .kv_len = 17, .heads = 4, .k_dim = 80, .v_dim = 48},
      {.q_len = 0, .kv_len = 5},
      {.q_len = 260, .kv_len = 260, .q_dtype = DType::kBF16, .kv_dtype = DType::kBF16},
      {.q_len = 200, .kv_len = 150, .q_start = 40, .grouping = HeadGrouping::kInterleaved},
  };
  for (const Backend* backend : tested_backends()) {
    std::vector<Case> adapted_cases;
    for (const Case& c : cases) adapted_cases.push_back(adapted(*backend, c));
    attend_together(*backend, adapted_cases);
  }
}

TEST(Attend, EmptyRowsGiveZeroAndMinusInfinity) {
  for (const Backend* backend : tested_backends()) {
    const Instance x(adapted(*backend, {.q_len = 300, .kv_len = 300, .mask = MaskKind::kEmpty}));
    run_attend(*backend, x);
    for (const float value : x.out.values()) ASSERT_EQ(value, 0.0f);
    for (const float value : x.lse) ASSERT_EQ(value, -std::numeric_limits<float>::infinity());
  }
}

// NaN that a query sees belongs in its output. Queries of other blocks, channels and heads stay
// clean; earlier queries of the same block may meet a NaN value times their weight 0.
TEST(Attend, VisibleNanReachesTheRowsThatSeeItAndNoOtherBlock) {
  for (const Backend* backend : tested_backends()) {
    for (const bool in_keys : {true, false}) {
      const Case c = {
          .q_len = 260, .kv_len = 260, .heads = 2, .kv_heads = 2, .k_dim = 32, .v_dim = 16};
      Instance x(adapted(*backend, c));
      Tensor& tensor = in_keys ? x.k : x.v;
      tensor.set(131, 1, 3, std::numeric_limits<float>::quiet_NaN());
      run_attend(*backend, x);
      for (int64_t t = 0; t < 260; ++t) {
        for (int32_t h = 0; h < 2; ++h) {
          for (int32_t c = 0; c < x.problem.kv.v.head_dim; ++c) {
            const bool reachable = h == 1 && (in_keys || c == 3);
            if (reachable && !in_keys && t >= kBlock && t < 131) continue;
            const bool expected = reachable && t >= 131;
            ASSERT_EQ(std::isnan(x.out.get(t, h, c)), expected) << t << " " << h << " " << c;
          }
        }
      }
    }
  }
}

TEST(Attend, RefusesWhatItLacksByName) {
  const float slopes[2] = {};
  const int32_t length = 3;
  struct Refusal {
    const char* field;
    std::function<void(AttentionProblem&, AttendOptions&)> ask;
  };
  const Refusal refusals[] = {
      {"window", [](auto& p, auto&) { p.window = 64; }},
      {"softcap", [](auto& p, auto&) { p.softcap = 30; }},
      {"sinks", [&](auto& p, auto&) { p.sinks = slopes; }},
      {"alibi_slopes", [&](auto& p, auto&) { p.alibi_slopes = slopes; }},
      {"causal", [](auto& p, auto&) { p.causal = false; }},
      {"q_len_device", [&](auto& p, auto&) { p.q_len_device = &length; }},
      {"kv_len_device", [&](auto& p, auto&) { p.kv_len_device = &length; }},
      {"page_size", [](auto& p, auto&) { p.kv.page_size = 16; }},
      {"kv.k.dtype", [](auto& p, auto&) { p.kv.k.dtype = DType::kF8E4M3; }},
      {"q.dtype", [](auto& p, auto&) { p.q.dtype = DType::kI8; }},
      {"device",
       [](auto& p, auto&) {
         const bool cpu = p.q.device.type == DeviceType::kCpu;
         p.q.device.type = cpu ? DeviceType::kCuda : DeviceType::kCpu;
       }},
      {"mean_correction", [](auto&, auto& o) { o.mean_correction = true; }},
  };
  const Policy policy = Dense{};
  for (const Backend* backend : tested_backends()) {
    const Instance x(adapted(*backend, {}));
    const AttentionProblem taken = placed(*backend, x.problem);
    EXPECT_EQ(backend->why_not(taken, std::span(&policy, 1), {}), "");
    for (const Refusal& refusal : refusals) {
      // What the GPU has, tests/cuda tests.
      const std::string field = refusal.field;
      if (runs_on_gpu(*backend) && (field == "page_size" || field.ends_with("len_device")))
        continue;
      AttentionProblem problem = taken;
      AttendOptions options;
      refusal.ask(problem, options);
      const std::string why = backend->why_not(problem, std::span(&policy, 1), options);
      EXPECT_NE(why.find(refusal.field), std::string::npos) << refusal.field << ": " << why;
    }
  }
}

}  // namespace
}  // namespace flexprefill::test
