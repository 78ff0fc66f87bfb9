// attend() of every instruction set against the reference in fp64, over the shared list of cases.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <iostream>

#include "tests/cpu/tested_isas.h"
#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

using internal::Isa;

void expect_matches_reference(Isa isa, const Case& c, const Instance& x, const Expected& expected) {
  SCOPED_TRACE(std::string(internal::isa_name(isa)) + " " + c.name());
  run_attend_on(isa, x.problem, x.mask);
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
