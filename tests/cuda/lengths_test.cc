// Lengths that lie on the device, under upper bounds.

#include "tests/cuda/gpu.h"

namespace flexprefill::test {
namespace {

// A problem as c says, posed with tensors for `bound` tokens more and its lengths on the device.
struct Bounded {
  Bounded(const Case& c, int64_t q_bound, int64_t kv_bound) : x(larger(c, q_bound, kv_bound)) {
    x.problem.q_start = c.q_start;
    q_len = static_cast<int32_t>(c.q_len);
    kv_len = static_cast<int32_t>(c.kv_len);
    x.problem.q_len_device = &q_len;
    x.problem.kv_len_device = &kv_len;
    x.mask = block_grid(x.problem);
  }

  static Case larger(Case c, int64_t q_bound, int64_t kv_bound) {
    c.q_len += q_bound;
    c.kv_len += kv_bound;
    c.mask = MaskKind::kNullBits;
    return c;
  }

  // The tensors and the mask of another instance, in this one's places; NaN behind them.
  void take(const Instance& from) {
    const auto copy = [](Tensor& to, const Tensor& source, const HeadView& view) {
      for (int32_t h = 0; h < view.heads; ++h) {
        to.poison(view.tokens, to.view().tokens, h);
        for (int64_t t = 0; t < view.tokens; ++t) {
          for (int32_t c = 0; c < view.head_dim; ++c) to.set(t, h, c, source.get(t, h, c));
        }
      }
    };
    copy(x.q, from.q, from.problem.q);
    copy(x.k, from.k, from.problem.kv.k);
    copy(x.v, from.v, from.problem.kv.v);
    if (from.mask.bits == nullptr) return;
    x.bits.assign(static_cast<size_t>(x.mask.num_words()), ~uint64_t{0});  // unused rows: anything
    x.mask.bits = x.bits.data();
    for (int32_t h = 0; h < x.mask.heads; ++h) {
      for (int32_t i = 0; i < from.mask.q_blocks; ++i) {
        std::copy_n(from.mask.row(h, i), from.mask.row_words(), x.mask.row(h, i));
      }
    }
  }

  Instance x;
  int32_t q_len = 0, kv_len = 0;
};

void expect_the_same(const Case& c, int64_t q_bound, int64_t kv_bound) {
  SCOPED_TRACE(c.name() + " + " + std::to_string(q_bound) + ", " + std::to_string(kv_bound));
  const Instance exact(c);
  run(exact);
  Bounded bounded(c, q_bound, kv_bound);
  bounded.take(exact);
  run(bounded.x);
  const HeadView out = exact.problem.out;
  const auto q_bound_len = static_cast<size_t>(bounded.x.problem.q.tokens);
  for (int32_t h = 0; h < out.heads; ++h) {
    for (int64_t t = 0; t < c.q_len + q_bound; ++t) {
      const bool used = t < c.q_len;
      const auto row = static_cast<size_t>(t);
      const float lse = bounded.x.lse[static_cast<size_t>(h) * q_bound_len + row];
      if (used) {
        const float expected =
            exact.lse[static_cast<size_t>(h) * static_cast<size_t>(c.q_len) + row];
        ASSERT_TRUE(same_bits({&lse, 1}, {&expected, 1})) << "lse " << t << " " << h;
      } else {
        ASSERT_TRUE(std::isnan(lse)) << "lse past q_len was written";
      }
      for (int32_t ch = 0; ch < out.head_dim; ++ch) {
        const float value = bounded.x.out.get(t, h, ch);
        if (used) {
          ASSERT_EQ(value, exact.out.get(t, h, ch)) << t << " " << h << " " << ch;
        } else {
          ASSERT_TRUE(std::isnan(value)) << "out past q_len was written";
        }
      }
    }
  }
}

TEST(CudaLengths, OnTheDeviceGiveTheBitsOfTheExactCall) {
  for (const int32_t dim : {64, 128, 256}) {
    for (const auto& [q_len, kv_len] : {std::pair<int64_t, int64_t>(1, 1),
                                        {130, 300},
                                        {128, 128},
                                        {77, 500},
                                        {256, 257},
                                        {5, 640}}) {
      for (const auto& [q_bound, kv_bound] :
           {std::pair<int64_t, int64_t>(0, 0), {1, 1}, {60, 100}, {128, 384}, {300, 300}}) {
        for (const MaskKind mask : {MaskKind::kNullBits, MaskKind::kRandom}) {
          const Case c = half_precision(
              {.q_len = q_len, .kv_len = kv_len, .k_dim = dim, .v_dim = dim, .mask = mask});
          expect_the_same(c, q_bound, kv_bound);
        }
      }
    }
  }
}

TEST(CudaLengths, MayComeWithAPositionOfTheQueries) {
  for (const int64_t q_start : {-50, 0, 100, 128, 500}) {
    expect_the_same(half_precision({.q_len = 150,
                                    .kv_len = 290,
                                    .q_start = q_start,
                                    .k_dim = 128,
                                    .v_dim = 128,
                                    .mask = MaskKind::kRandom}),
                    70, 90);
  }
}

// Long keys, whose tiles are sorted in runs: most have no query, and one run has none at all.
TEST(CudaLengths, MayLeaveTilesThatAreSortedEmpty) {
  expect_the_same(half_precision({.q_len = 200,
                                  .kv_len = 139000,
                                  .heads = 64,
                                  .kv_heads = 2,
                                  .k_dim = 64,
                                  .v_dim = 64,
                                  .mask = MaskKind::kRandom}),
                  8800, 1000);
}

TEST(CudaLengths, OfZeroWriteNothingOrZeros) {
  Bounded no_queries(half_precision({.q_len = 0, .kv_len = 0}), 140, 300);
  run(no_queries.x);
  for (const float value : no_queries.x.out.values()) ASSERT_TRUE(std::isnan(value));
  Bounded no_keys(half_precision({.q_len = 10, .kv_len = 0, .q_start = 0}), 0, 300);
  run(no_keys.x);
  for (const float value : no_keys.x.out.values()) ASSERT_EQ(value, 0.0f);
}

}  // namespace
}  // namespace flexprefill::test
