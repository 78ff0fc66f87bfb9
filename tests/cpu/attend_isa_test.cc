// attend() of every instruction set against the reference in fp64, over the shared list of cases.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iostream>

#include "tests/cpu/tested_isas.h"
#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

using internal::Isa;

// `exact` is what exact products of the case's own inputs give.
void expect_matches_reference(Isa isa, const Case& asked, const Instance& x,
                              const Expected& exact) {
  SCOPED_TRACE(std::string(internal::isa_name(isa)) + " " + asked.name());
  run_attend_on(isa, x.problem, x.mask);
  const Case c = isa == Isa::kAvx512Bf16 ? as_multiplied_in_bf16(asked) : asked;
  Expected rounded;
  if (c.bf16_values) {
    const Instance y(c);
    rounded = expected_attention(y.problem, y.mask);
  }
  const Expected& expected = c.bf16_values ? rounded : exact;
  EXPECT_TRUE(
      all_close(x.out.values(), expected.out, tolerance(c.coarsest(), c.kv_len, c.max_logit())));
  if (c.lse) {
    EXPECT_TRUE(all_close(x.lse, expected.lse, lse_tolerance(c.kv_len, c.max_logit())));
  }
  EXPECT_TRUE(x.out.gaps_untouched()) << "attend wrote outside of the output";
}

TEST(CpuAttend, EveryIsaMatchesReferenceInEveryCase) {
  const std::vector<Isa> isas = tested_isas();
  for (const Case& c : attend_cases()) {
    const Instance x(c);
    const Expected expected = expected_attention(x.problem, x.mask);
    for (const Isa isa : isas) expect_matches_reference(isa, c, x, expected);
  }
}

// Lanes are queries: every width of the last strip, every remainder of keys and channels.
TEST(CpuAttend, EveryIsaHandlesEveryNumberOfQueries) {
  const std::vector<Isa> isas = tested_isas();
  for (int64_t q_len = 1; q_len <= 128; q_len += q_len % 16 < 14 ? 5 : 1) {
    const DType dtype = q_len % 2 == 0 ? DType::kBF16 : DType::kF32;
    const Case c = {.q_len = q_len,
                    .kv_len = 128 + q_len,
                    .heads = 1,
                    .k_dim = 18,
                    .v_dim = static_cast<int32_t>(q_len),
                    .q_dtype = dtype,
                    .kv_dtype = dtype,
                    .out_dtype = dtype};
    const Instance x(c);
    const Expected expected = expected_attention(x.problem, x.mask);
    for (const Isa isa : isas) expect_matches_reference(isa, c, x, expected);
  }
}

TEST(CpuAttend, ThreadCountChangesNoBitOnAnyIsa) {
  const Case c = {.q_len = 300, .kv_len = 500, .heads = 3, .mask = MaskKind::kRandom};
  for (const Isa isa : tested_isas()) {
    const Instance one(c);
    run_attend_on(isa, one.problem, one.mask, /*threads=*/1);
    for (const int threads : {2, 3}) {
      const Instance many(c);
      run_attend_on(isa, many.problem, many.mask, threads);
      EXPECT_TRUE(std::ranges::equal(one.out.bytes(), many.out.bytes())) << threads << " threads";
      EXPECT_EQ(0, std::memcmp(one.lse.data(), many.lse.data(), one.lse.size() * sizeof(float)));
    }
  }
}

// What f16 inputs lose to bf16 products, in the score S, the weight P (relative) and the output:
// each of q and k is off by up to 2^-9 of itself, so S by up to 2^-8 of sum |q k| scale.
TEST(CpuAttend, F16InputsLoseThreeBitsToBf16Products) {
  if (!internal::isa_supported(Isa::kAvx512Bf16)) GTEST_SKIP() << "no AVX512_BF16";
  for (const DataKind data : {DataKind::kNormal, DataKind::kLogits20}) {
    const Case c = {
        .q_len = 150, .kv_len = 300, .q_dtype = DType::kF16, .kv_dtype = DType::kF16, .data = data};
    const Instance x(c);
    const Expected exact = expected_attention(x.problem, x.mask);
    run_attend_on(Isa::kAvx512Bf16, x.problem, x.mask);
    const double score_error = 0x1p-8 * c.max_logit();
    const Tolerance lse{.absolute = score_error, .relative = 0.0};
    const Tolerance out{.absolute = 2 * 4.0 * std::expm1(score_error), .relative = 0x1p-8};
    EXPECT_TRUE(all_close(x.lse, exact.lse, lse));
    EXPECT_TRUE(all_close(x.out.values(), exact.out, out));
    EXPECT_FALSE(all_close(x.lse, exact.lse, lse_tolerance(c.kv_len, c.max_logit())))
        << "as exact as fp32: then this test guards nothing";
    // An fp32 query is a request for fp32 products.
    Case full = c;
    full.q_dtype = DType::kF32;
    const Instance y(full);
    const Expected y_exact = expected_attention(y.problem, y.mask);
    run_attend_on(Isa::kAvx512Bf16, y.problem, y.mask);
    EXPECT_TRUE(all_close(y.lse, y_exact.lse, lse_tolerance(c.kv_len, c.max_logit())));
  }
}

TEST(CpuAttend, RefusesFp64) {
  const Instance x({});
  const Policy policy = Dense{};
  for (const Isa isa : tested_isas()) {
    const std::string why = internal::cpu_backend_for(isa)->why_not(
        x.problem, std::span(&policy, 1), {.accumulate_f64 = true});
    EXPECT_NE(why.find("accumulate_f64"), std::string::npos) << why;
  }
}

}  // namespace
}  // namespace flexprefill::test
