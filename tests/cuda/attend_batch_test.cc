// Batches, tails and long rows on the GPU.

#include "tests/cuda/gpu.h"

namespace flexprefill::test {
namespace {

TEST(CudaAttend, EveryTailOfEveryKernel) {
  const int32_t dims[][2] = {{96, 96}, {128, 128}, {192, 128}, {192, 192}, {256, 256}};
  for (int64_t kv_len = 129; kv_len <= 256; ++kv_len) {
    const auto& [k_dim, v_dim] = dims[kv_len % 5];
    const Instance x(
        half_precision({.q_len = 1 + kv_len % 7, .kv_len = kv_len, .k_dim = k_dim, .v_dim = v_dim},
                       kv_len % 2 == 0 ? DType::kBF16 : DType::kF16));
    run(x);
    const Expected expected = expected_attention(x.problem, x.mask);
    EXPECT_TRUE(all_close(x.out.values(), expected.out, tolerance(x.problem.q.dtype, kv_len)))
        << kv_len;
    EXPECT_TRUE(all_close(x.lse, expected.lse, lse_tolerance(kv_len))) << kv_len;
  }
}

// 200 problems: every kernel of contiguous keys, of one more than prepare takes in a launch, and
// empty ones among them.
TEST(CudaAttend, AManySidedBatchGivesTheBitsOfEveryProblemAlone) {
  const int32_t dims[][2] = {{64, 64}, {96, 96}, {128, 128}, {192, 128}, {192, 192}, {256, 256}};
  const int64_t lengths[] = {0, 1, 127, 128, 129, 300, 17};
  const int32_t heads[][2] = {{1, 1}, {4, 2}, {7, 1}, {8, 8}};
  std::vector<Case> cases;
  for (size_t n = 0; n < 200; ++n) {
    const bool many_sided = n < 100;  // the others go to one kernel
    const auto& dim = dims[many_sided ? n / 2 % 6 : 2];
    const int64_t q_len = lengths[n % 7];
    Case c = {.q_len = q_len,
              .kv_len = q_len + lengths[n / 7 % 7],
              .heads = heads[n % 4][0],
              .kv_heads = heads[n % 4][1],
              .k_dim = dim[0],
              .v_dim = dim[1],
              .grouping = n % 3 == 0 ? HeadGrouping::kInterleaved : HeadGrouping::kBlocked,
              .mask = n % 2 == 0 ? MaskKind::kRandom : MaskKind::kNullBits};
    cases.push_back(half_precision(c, many_sided && n % 2 == 1 ? DType::kF16 : DType::kBF16));
  }
  attend_together(gpu(), cases);
}

// More tiles than multiprocessors: they are sorted by the lengths of their lists, and long ones
// make the next be taken late. The third problem alone has few, and is not sorted.
TEST(CudaAttend, TheOrderOfTilesChangesNoBit) {
  for (const int32_t dim : {64, 128}) {
    const auto with = [dim](Case c) {
      c.k_dim = c.v_dim = dim;
      return half_precision(c);
    };
    const std::vector<Case> cases = {
        with(
            {.q_len = 1100, .kv_len = 2300, .heads = 20, .kv_heads = 5, .mask = MaskKind::kRandom}),
        with({.q_len = 1500,
              .kv_len = 1500,
              .heads = 6,
              .kv_heads = 3,
              .mask = MaskKind::kNullBits}),
        with(
            {.q_len = 300, .kv_len = 1999, .heads = 4, .kv_heads = 1, .mask = MaskKind::kAllOnes})};
    for (const auto& x : attend_together(gpu(), cases)) {
      const Expected expected = expected_attention(x->problem, x->mask);
      const int64_t kv_len = x->problem.kv.k.tokens;
      EXPECT_TRUE(all_close(x->out.values(), expected.out, tolerance(DType::kBF16, kv_len)))
          << kv_len;
      EXPECT_TRUE(all_close(x->lse, expected.lse, lse_tolerance(kv_len))) << kv_len;
    }
  }
}

// Keys of one kv head that fill the L2: every kv head is a section, sorted apart.
TEST(CudaAttend, SectionsOfOneKvHeadAreAllComputed) {
  const Instance x(half_precision({.q_len = 200,
                                   .kv_len = 140000,
                                   .heads = 80,
                                   .kv_heads = 2,
                                   .k_dim = 64,
                                   .v_dim = 64,
                                   .mask = MaskKind::kOneBlock}));
  run(x);
  const Expected expected = expected_attention(x.problem, x.mask);
  EXPECT_TRUE(all_close(x.out.values(), expected.out, tolerance(DType::kBF16, 140000)));
  EXPECT_TRUE(all_close(x.lse, expected.lse, lse_tolerance(140000)));
}

// The half of the heads that reads kv head g, of two.
AttentionProblem half_of(AttentionProblem problem, int32_t g) {
  problem.lse += g * problem.q.heads / 2 * problem.q.tokens;
  for (HeadView* view : {&problem.q, &problem.kv.k, &problem.kv.v, &problem.out}) {
    view->heads /= 2;
    const int64_t elements = g * view->heads * view->head_stride;
    view->data = static_cast<std::byte*>(view->data) + elements * dtype_bytes(view->dtype);
  }
  return problem;
}
BlockMask half_of(BlockMask mask, int32_t g) {
  mask.heads /= 2;
  mask.bits += g * mask.num_words();
  return mask;
}

// 64 heads of 71 query blocks are 4544 tiles, more than a block of threads sorts, and the keys and
// values of one kv head (36 MB) exceed a section: order_tiles sorts two runs, the first of which
// crosses from one section to the next. The tiles of each kv head alone are sorted by prepare.
TEST(CudaAttend, TilesOfSeveralRunsAreAllComputed) {
  const Case c = half_precision({.q_len = 9000,
                                 .kv_len = 140000,
                                 .heads = 64,
                                 .kv_heads = 2,
                                 .k_dim = 64,
                                 .v_dim = 64,
                                 .mask = MaskKind::kRandom});
  const Instance together(c), apart(c);
  run(together);
  for (int32_t g = 0; g < 2; ++g) {
    const AttentionProblem problem = half_of(apart.problem, g);
    const BlockMask mask = half_of(apart.mask, g);
    run_attend(gpu(), std::span(&problem, 1), std::span(&mask, 1));
  }
  EXPECT_TRUE(same_results(together, apart));
}

// A score of -inf weighs nothing, also while a row has no other.
TEST(CudaAttend, ScoresOfMinusInfinityWeighNothing) {
  for (const int32_t dim : {64, 96, 128, 192, 256}) {
    Instance x(half_precision({.q_len = 300, .kv_len = 300, .k_dim = dim, .v_dim = dim}));
    for (int32_t h = 0; h < x.problem.q.heads; ++h) {
      for (int64_t t = 0; t < 300; ++t) x.q.set(t, h, 0, 1.0f);
    }
    for (int32_t h = 0; h < x.problem.kv.k.heads; ++h) {
      for (const int64_t t : {0, 1, 131}) x.k.set(t, h, 0, -INFINITY);
    }
    run(x);
    const Expected expected = expected_attention(x.problem, x.mask);
    EXPECT_TRUE(all_close(x.out.values(), expected.out, tolerance(DType::kBF16, 300))) << dim;
    EXPECT_TRUE(all_close(x.lse, expected.lse, lse_tolerance(300))) << dim;
    EXPECT_EQ(x.lse[0], -INFINITY);
  }
}

// A row's maximum follows its scores at moments that are its own, whatever the rows beside it do.
// The first rows of a block see few keys of it, and then much larger scores in the blocks before.
// Where `loud`, a row of every 16 has huge, infinite or NaN scores.
void expect_rows_as_alone(Case c, float spread, bool loud) {
  SCOPED_TRACE(c.name() + ", spread " + std::to_string(spread) + (loud ? ", loud" : ""));
  c.q_len = c.kv_len = 700;
  c.softmax_scale = spread / std::sqrt(static_cast<float>(c.k_dim));
  Instance x(c);
  const int32_t heads = x.problem.q.heads;
  if (loud) {
    const float values[] = {1e4f, INFINITY, -1e4f, NAN};
    for (int64_t t = 9; t < c.q_len; t += 16) {
      for (int32_t h = 0; h < heads; ++h) x.q.set(t, h, 0, values[t / 16 % 4]);
    }
  }
  run(x);
  if (!loud) {
    const Expected expected = expected_attention(x.problem, x.mask);
    EXPECT_TRUE(all_close(x.out.values(), expected.out, tolerance(c.q_dtype, c.kv_len)));
    EXPECT_TRUE(all_close(x.lse, expected.lse, lse_tolerance(c.kv_len)));
  }

  struct Alone {
    int64_t token;
    Tensor out;
    std::vector<float> lse;
  };
  std::vector<Alone> rows;
  for (int64_t t = 0; t < c.q_len; ++t) {
    if (t % kBlock >= 6 && t % kBlock % 37 != 0) continue;
    rows.push_back({t, Tensor(c.out_dtype, 1, heads, c.v_dim), std::vector<float>(heads)});
  }
  std::vector<AttentionProblem> problems;
  std::vector<BlockMask> masks;
  for (Alone& row : rows) {
    AttentionProblem problem = x.problem;
    problem.q = slice(x.problem.q, row.token, row.token + 1);
    problem.q_start = row.token;
    problem.out = row.out.view();
    problem.lse = row.lse.data();
    problems.push_back(problem);
    masks.push_back(block_grid(problem));
  }
  run_attend(gpu(), problems, masks);
  for (const Alone& row : rows) {
    const int64_t t = row.token;
    for (int32_t h = 0; h < heads; ++h) {
      ASSERT_EQ(row.lse[h], x.lse[h * c.q_len + t]) << "token " << t;
      for (int32_t ch = 0; ch < c.v_dim; ++ch)
        ASSERT_EQ(row.out.get(0, h, ch), x.out.get(t, h, ch)) << "token " << t;
    }
  }
}

TEST(CudaAttend, ARowHasTheBitsOfItsQueryAlone) {
  for (const auto& [k_dim, v_dim] :
       {std::pair(64, 64), {96, 96}, {128, 128}, {192, 128}, {256, 256}}) {
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      const Case c = half_precision({.k_dim = k_dim, .v_dim = v_dim}, dtype);
      // Sums of P exceed 2^12 in some rows.
      for (const float spread : {3.0f, 6.0f}) expect_rows_as_alone(c, spread, /*loud=*/false);
      expect_rows_as_alone(c, 3.0f, /*loud=*/true);
    }
  }
}

// Rows of more than 32 words, which the lanes of a warp read in turns.
TEST(CudaAttend, RowsLongerThanOneReadOfAWarp) {
  for (const MaskKind mask : {MaskKind::kOneBlock, MaskKind::kRandom, MaskKind::kNullBits}) {
    const Instance x(half_precision(
        {.q_len = 3, .kv_len = 300000, .heads = 1, .k_dim = 64, .v_dim = 64, .mask = mask}));
    run(x);
    const Expected expected = expected_attention(x.problem, x.mask);
    EXPECT_TRUE(all_close(x.out.values(), expected.out, tolerance(DType::kBF16, 300000)));
    EXPECT_TRUE(all_close(x.lse, expected.lse, lse_tolerance(300000)));
  }
}

TEST(CudaAttend, AddressesAndStridesThatTmaCannotTakeAreRefusedByName) {
  const Policy policy = Dense{};
  const Instance x(half_precision({.q_len = 20, .kv_len = 30}));
  const auto why = [&](auto change) {
    AttentionProblem problem = placed(gpu(), x.problem);
    change(problem);
    return gpu().why_not(problem, std::span(&policy, 1), {});
  };
  const auto shift = [](HeadView& view) { view.data = static_cast<char*>(view.data) + 2; };
  EXPECT_EQ(why([](auto&) {}), "");
  EXPECT_NE(why([&](auto& p) { shift(p.q); }).find("q.data"), std::string::npos);
  EXPECT_NE(why([&](auto& p) { shift(p.out); }).find("out.data"), std::string::npos);
  EXPECT_NE(why([](auto& p) { p.kv.k.token_stride += 1; }).find("kv.k.token_stride"),
            std::string::npos);
  EXPECT_NE(why([](auto& p) { p.q.head_stride += 4; }).find("q.head_stride"), std::string::npos);
  EXPECT_NE(why([](auto& p) { p.kv.k.dtype = p.kv.v.dtype = DType::kF16; }).find("kv.k.dtype"),
            std::string::npos);
  EXPECT_NE(why([](auto& p) { p.q.head_dim = p.kv.k.head_dim = 80; }).find("head_dim = 80"),
            std::string::npos);
  EXPECT_NE(why([](auto& p) { p.out.dtype = DType::kF32; }).find("out.dtype"), std::string::npos);
  EXPECT_NE(why([](auto& p) { p.q.device.index = 63; }).find("cuda:63"), std::string::npos);
}

}  // namespace
}  // namespace flexprefill::test
