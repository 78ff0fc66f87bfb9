// Where the queries lie: merging partial results, and causality seen from outside.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

struct Attended {
  std::vector<float> out;  // [q_len, heads, v.head_dim]
  std::vector<float> lse;  // [heads, q_len]
};

// Attention of all queries of x to keys [begin, end), whose first key is then position 0.
Attended attend_keys(const Backend& backend, const Instance& x, int64_t begin, int64_t end) {
  // In fp32 where the backend has it: then merging adds no rounding.
  Tensor out(runs_on_gpu(backend) ? x.problem.q.dtype : DType::kF32, x.problem.q.tokens,
             x.problem.q.heads, x.problem.kv.v.head_dim);
  Attended result;
  result.lse.resize(x.lse.size());
  AttentionProblem problem = x.problem;
  problem.kv.k = slice(problem.kv.k, begin, end);
  problem.kv.v = slice(problem.kv.v, begin, end);
  problem.q_start = q_start(x.problem) - begin;
  problem.out = out.view();
  problem.lse = result.lse.data();
  const BlockMask mask = block_grid(problem);
  run_attend(backend, std::span(&problem, 1), std::span(&mask, 1));
  result.out = out.values();
  return result;
}

// Weighs two partial results by exp(lse).
Attended merge(const Attended& a, const Attended& b, const HeadView& out) {
  Attended merged = a;
  const auto v_dim = static_cast<size_t>(out.head_dim), heads = static_cast<size_t>(out.heads);
  const auto q_len = static_cast<size_t>(out.tokens);
  for (size_t h = 0; h < heads; ++h) {
    for (size_t t = 0; t < q_len; ++t) {
      const double x = a.lse[h * q_len + t], y = b.lse[h * q_len + t];
      const double max = std::max(x, y);
      if (!std::isfinite(max)) continue;
      const double lse = max + std::log(std::exp(x - max) + std::exp(y - max));
      merged.lse[h * q_len + t] = static_cast<float>(lse);
      for (size_t c = 0; c < v_dim; ++c) {
        const size_t n = (t * heads + h) * v_dim + c;
        merged.out[n] = static_cast<float>(std::exp(x - lse) * static_cast<double>(a.out[n]) +
                                           std::exp(y - lse) * static_cast<double>(b.out[n]));
      }
    }
  }
  return merged;
}

TEST(Attend, MergingTwoHalvesOfTheKeysByLseGivesTheWhole) {
  for (const Backend* backend : tested_backends()) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const int64_t split : {1, 100, 128, 200, 256, 299}) {
        const Case c = adapted(*backend, {.q_len = 120,
                                          .kv_len = 300,
                                          .heads = 4,
                                          .kv_heads = 2,
                                          .q_dtype = dtype,
                                          .kv_dtype = dtype});
        SCOPED_TRACE(std::string(backend->name()) + " split " + std::to_string(split));
        const Instance x(c);
        const Attended whole = attend_keys(*backend, x, 0, c.kv_len);
        const Attended merged = merge(attend_keys(*backend, x, 0, split),
                                      attend_keys(*backend, x, split, c.kv_len), x.problem.out);
        // P is rounded to bf16 twice where products are bf16.
        const bool bf16 = dtype != DType::kF32 && multiplies_in_bf16(*backend);
        EXPECT_TRUE(
            all_close(merged.out, whole.out, tolerance(bf16 ? DType::kBF16 : c.q_dtype, c.kv_len)));
        EXPECT_TRUE(all_close(merged.lse, whole.lse, lse_tolerance(c.kv_len)));
      }
    }
  }
}

// The keys may lie wholly in the past: every query then sees all of them.
TEST(Attend, KeysWhollyInThePastAreSeenByEveryQuery) {
  for (const Backend* backend : tested_backends()) {
    const Case near = adapted(*backend, {.q_len = 70, .kv_len = 200, .q_start = 199, .k_dim = 32});
    Case far = near;
    far.q_start = 100000;
    const Instance x(near), y(far);
    run_attend(*backend, std::span(&x.problem, 1), std::span(&x.mask, 1));
    run_attend(*backend, std::span(&y.problem, 1), std::span(&y.mask, 1));
    EXPECT_TRUE(all_close(y.out.values(), x.out.values(), tolerance(near.q_dtype, 200)));
  }
}

TEST(Attend, ChunksGiveTheRowsOfTheWholePrompt) {
  for (const Backend* backend : tested_backends()) {
    const Case c =
        adapted(*backend, {.q_len = 500, .kv_len = 500, .heads = 2, .kv_heads = 2, .k_dim = 48});
    const Instance whole(c);
    run_attend(*backend, std::span(&whole.problem, 1), std::span(&whole.mask, 1));
    const std::vector<float> expected = whole.out.values();
    Instance chunked(c);
    const int64_t edges[] = {0, 1, 130, 256, 499, 500};
    for (size_t n = 0; n + 1 < std::size(edges); ++n) {
      AttentionProblem problem = chunked.problem;
      problem.q = slice(problem.q, edges[n], edges[n + 1]);
      problem.out = slice(problem.out, edges[n], edges[n + 1]);
      problem.lse = nullptr;
      // Half of the time with the keys of later chunks already there: they must not matter.
      problem.q_start = edges[n];
      const int64_t kv_len = n % 2 == 0 ? edges[n + 1] : 500;
      problem.kv.k = slice(problem.kv.k, 0, kv_len);
      problem.kv.v = slice(problem.kv.v, 0, kv_len);
      const BlockMask mask = block_grid(problem);
      run_attend(*backend, std::span(&problem, 1), std::span(&mask, 1));
    }
    EXPECT_TRUE(all_close(chunked.out.values(), expected, tolerance(c.q_dtype, 500)));
  }
}

}  // namespace
}  // namespace flexprefill::test
