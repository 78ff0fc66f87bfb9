// Every rule about problems: what breaks it, and the message that names argument, value and rule.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/api/small_problem.h"
#include "tests/support/host_backends.h"

namespace flexprefill {
namespace {

using testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct BadProblem {
  const char* name;
  std::function<void(AttentionProblem&)> spoil;
  const char* message;
};

void PrintTo(const BadProblem& bad, std::ostream* os) { *os << bad.name; }

std::vector<BadProblem> bad_for_every_call() {
  using P = AttentionProblem;
  return {
      {"QDataNull", [](P& p) { p.q.data = nullptr; }, "problems[0].q.data = null"},
      {"KDataNull", [](P& p) { p.kv.k.data = nullptr; }, "problems[0].kv.k.data = null"},
      {"VDataNull", [](P& p) { p.kv.v.data = nullptr; }, "problems[0].kv.v.data = null"},
      {"QMisaligned", [](P& p) { p.q.data = static_cast<char*>(p.q.data) + 1; },
       "an address that is a multiple of 4"},
      {"DTypeOutsideEnum", [](P& p) { p.q.dtype = static_cast<DType>(99); },
       "problems[0].q.dtype = 99, expected a DType"},
      {"DeviceTypeOutsideEnum", [](P& p) { p.q.device.type = static_cast<DeviceType>(7); },
       "problems[0].q.device.type = 7, expected a DeviceType"},
      {"DeviceIndexNegative", [](P& p) { p.q.device.index = -1; },
       "problems[0].q.device.index = -1, expected 0 or more"},
      {"TokensNegative", [](P& p) { p.q.tokens = -1; }, "problems[0].q.tokens = -1, expected [0, "},
      {"TokensHuge", [](P& p) { p.kv.k.tokens = std::numeric_limits<int64_t>::max(); },
       "problems[0].kv.k.tokens = 9223372036854775807"},
      {"HeadsZero", [](P& p) { p.q.heads = 0; }, "problems[0].q.heads = 0, expected [1, "},
      {"HeadDimZero", [](P& p) { p.q.head_dim = 0; },
       "problems[0].q.head_dim = 0, expected [1, 256]"},
      {"HeadDim257", [](P& p) { p.q.head_dim = 257; },
       "problems[0].q.head_dim = 257, expected [1, 256]"},
      {"TokenStrideNegative", [](P& p) { p.q.token_stride = -1; },
       "problems[0].q.token_stride = -1"},
      {"HeadStrideHuge", [](P& p) { p.kv.v.head_stride = std::numeric_limits<int64_t>::max(); },
       "problems[0].kv.v.head_stride = 9223372036854775807"},
      {"ExtentHuge", [](P& p) { p.q.token_stride = int64_t{1} << 46; },
       "problems[0].q.token_stride, head_stride = 70368744177664, 16, expected a view of at most"},
      {"ExtentOverflows",
       [](P& p) {
         p.q.tokens = p.kv.k.tokens = p.kv.v.tokens = int64_t{1} << 30;
         p.kv.k.token_stride = int64_t{1} << 34;  // 2^64 elements
       },
       "problems[0].kv.k.token_stride, head_stride = 17179869184, 16, expected a view of at most"},
      {"KOnOtherDevice",
       [](P& p) {
         p.kv.k.device = {DeviceType::kCuda, 1};
       },
       "problems[0].kv.k.device = cuda:1, expected q.device = cpu:0"},
      {"VOnOtherDevice",
       [](P& p) {
         p.kv.v.device = {DeviceType::kCuda, 0};
       },
       "problems[0].kv.v.device = cuda:0, expected q.device = cpu:0"},
      {"KHeadDimDiffersFromQ", [](P& p) { p.kv.k.head_dim = 8; },
       "problems[0].kv.k.head_dim = 8, expected q.head_dim = 16"},
      {"VHeadsDifferFromK", [](P& p) { p.kv.v.heads = 1; },
       "problems[0].kv.v.heads = 1, expected kv.k.heads = 2"},
      {"VTokensDifferFromK", [](P& p) { p.kv.v.tokens = 299; },
       "problems[0].kv.v.tokens = 299, expected kv.k.tokens = 300"},
      {"VDTypeDiffersFromK", [](P& p) { p.kv.v.dtype = DType::kBF16; },
       "problems[0].kv.v.dtype = bf16, expected kv.k.dtype = f32"},
      {"HeadsNoMultipleOfKvHeads", [](P& p) { p.kv.k.heads = p.kv.v.heads = 3; },
       "problems[0].q.heads = 4, expected a multiple of kv.k.heads = 3"},
      {"PageSizeNegative", [](P& p) { p.kv.page_size = -16; },
       "problems[0].kv.page_size = -16, expected 0 (contiguous) or more"},
      {"BlockTableWithoutPages",
       [](P& p) {
         static const int32_t table[1] = {0};
         p.kv.block_table = table;
       },
       "problems[0].kv.block_table = set, expected null"},
      {"PagesWithoutBlockTable",
       [](P& p) {
         p.kv.page_size = 300;
         p.kv.paged_kv_len = 300;
       },
       "problems[0].kv.block_table = null, expected a pointer"},
      {"PageSizeDiffersFromTokens",
       [](P& p) {
         p.kv.page_size = 16;
         p.kv.paged_kv_len = 300;
       },
       "problems[0].kv.k.tokens = 300, expected kv.page_size = 16"},
      {"PagedKvLenNegative",
       [](P& p) {
         p.kv.page_size = 300;
         p.kv.paged_kv_len = -1;
       },
       "problems[0].kv.paged_kv_len = -1"},
      {"QStartHuge", [](P& p) { p.q_start = std::numeric_limits<int64_t>::max(); },
       "problems[0].q_start = 9223372036854775807"},
      {"MoreQueriesThanKeys", [](P& p) { p.kv.k.tokens = p.kv.v.tokens = 200; },
       "problems[0].q.tokens = 300, expected at most kv_len = 200 unless q_start is given"},
      {"ScaleZero", [](P& p) { p.softmax_scale = 0.0f; }, "problems[0].softmax_scale = 0"},
      {"ScaleNegative", [](P& p) { p.softmax_scale = -1.0f; }, "problems[0].softmax_scale = -1"},
      {"ScaleNan", [](P& p) { p.softmax_scale = kNan; }, "expected a finite number > 0"},
      {"ScaleInfinite", [](P& p) { p.softmax_scale = kInfinity; },
       "problems[0].softmax_scale = inf"},
      {"WindowNegative", [](P& p) { p.window = -1; }, "problems[0].window = -1"},
      {"SoftcapNegative", [](P& p) { p.softcap = -1.0f; }, "problems[0].softcap = -1"},
      {"SoftcapNan", [](P& p) { p.softcap = kNan; }, "expected 0 (none) or a finite number > 0"},
      {"GroupingOutsideEnum", [](P& p) { p.grouping = static_cast<HeadGrouping>(5); },
       "problems[0].grouping = 5, expected a HeadGrouping"},
  };
}

std::vector<BadProblem> bad_for_attend() {
  using P = AttentionProblem;
  return {
      {"OutDataNull", [](P& p) { p.out.data = nullptr; }, "problems[0].out.data = null"},
      {"OutTokensDiffer", [](P& p) { p.out.tokens = 299; },
       "problems[0].out.tokens = 299, expected q.tokens = 300"},
      {"OutHeadsDiffer", [](P& p) { p.out.heads = 2; },
       "problems[0].out.heads = 2, expected q.heads = 4"},
      {"OutHeadDimDiffersFromV", [](P& p) { p.out.head_dim = 16; },
       "problems[0].out.head_dim = 16, expected v.head_dim = 8"},
      {"OutOnOtherDevice",
       [](P& p) {
         p.out.device = {DeviceType::kCuda, 0};
       },
       "problems[0].out.device = cuda:0, expected q.device = cpu:0"},
      {"OutDType", [](P& p) { p.out.dtype = DType::kI8; },
       "problems[0].out.dtype = i8, expected f32, f16 or bf16"},
      {"OutRowsOverlap", [](P& p) { p.out.token_stride = 1; }, "problems[0].out.token_stride"},
      {"OutHeadsOverlap", [](P& p) { p.out.head_stride = 0; }, "problems[0].out.token_stride"},
  };
}

class BadForEveryCall : public testing::TestWithParam<BadProblem> {};

TEST_P(BadForEveryCall, IsRefusedByName) {
  SmallProblem good;
  OwnContext own(good.problem, Dense{});
  AttentionProblem bad = good.problem;
  GetParam().spoil(bad);
  const BlockMask every_block = block_grid(good.problem);
  EXPECT_THAT(error_of([&] { (void)workspace_bytes(bad, Dense{}); }),
              HasSubstr(GetParam().message));
  EXPECT_THAT(error_of([&] { (void)plan(bad, Dense{}, own.context); }),
              HasSubstr(GetParam().message));
  EXPECT_THAT(error_of([&] { (void)prefill(bad, Dense{}, own.context); }),
              HasSubstr(GetParam().message));
  EXPECT_THAT(error_of([&] { attend(bad, every_block, {}, own.context); }),
              HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(Problem, BadForEveryCall, testing::ValuesIn(bad_for_every_call()),
                         [](const auto& info) { return std::string(info.param.name); });

class BadForAttend : public testing::TestWithParam<BadProblem> {};

TEST_P(BadForAttend, IsRefusedByName) {
  SmallProblem good;
  OwnContext own(good.problem, Dense{});
  AttentionProblem bad = good.problem;
  GetParam().spoil(bad);
  const BlockMask every_block = block_grid(good.problem);
  EXPECT_THAT(error_of([&] { attend(bad, every_block, {}, own.context); }),
              HasSubstr(GetParam().message));
  EXPECT_THAT(error_of([&] { (void)prefill(bad, Dense{}, own.context); }),
              HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(Problem, BadForAttend, testing::ValuesIn(bad_for_attend()),
                         [](const auto& info) { return std::string(info.param.name); });

// Strides of 0 make a tensor of any length from one row. 2^65 bytes of mask bits once wrapped round
// to a workspace that fits a disk.
TEST(Problem, MaskOfMoreThanTheAddressSpaceIsRefused) {
  SmallProblem small;
  AttentionProblem& p = small.problem;
  for (HeadView* view : {&p.q, &p.kv.k, &p.kv.v}) {
    view->tokens = int64_t{1} << 36;
    view->token_stride = view->head_stride = 0;
    view->heads = 1024;
  }
  EXPECT_THAT(error_of([&] { (void)workspace_bytes(p, Dense{}); }),
              HasSubstr("problems = too large, expected a workspace below 2^63 bytes"));
  OwnContext own(4096);
  EXPECT_THAT(error_of([&] { (void)plan(p, Dense{}, own.context); }), HasSubstr("too large"));
}

// 131,072 tokens and 32 heads: all scores would be 2 TB, the probe rows of all heads 2 GB, those of
// one head 64 MB. Only bits and reports may grow with the heads.
TEST(Workspace, HoldsOneHeadOfAThreadAtATime) {
  constexpr size_t kMiB = size_t{1} << 20;
  SmallProblem small;
  AttentionProblem& p = small.problem;
  const auto scratch = [&](const Backend* backend, const Policy& policy, int32_t heads,
                           int threads) {
    for (HeadView* view : {&p.q, &p.kv.k, &p.kv.v, &p.out}) {
      view->tokens = 131072;
      view->token_stride = view->head_stride = 0;
      view->heads = heads;
      view->head_dim = 128;
    }
    Context context;
    context.backend = backend;
    context.threads = threads;
    const BlockMask grid = block_grid(p);
    return workspace_bytes(p, policy, context) - sizeof(uint64_t) * grid.num_words() -
           sizeof(HeadReport) * heads;
  };
  for (const Backend* backend : test::host_backends()) {
    // ref converts the keys of the head to fp32, 64 MiB; cpu reads them in place.
    const size_t limit = (backend->name() == "ref" ? 160 : 8) * kMiB;
    for (const Policy& policy :
         {Policy(Dense{}), Policy(FlexPrefill{}), Policy(FlexPrefill{.rule = Rule::kOfficial})}) {
      EXPECT_LT(scratch(backend, policy, 32, 1), limit) << backend->name();
      EXPECT_LT(scratch(backend, policy, 32, 4), 4 * limit) << backend->name();
      // The work list of attend() has 16 bytes for each of 1024 block rows.
      EXPECT_LE(scratch(backend, policy, 64, 1), scratch(backend, policy, 32, 1) + kMiB);
    }
  }
}

TEST(Problem, PlanNeedsNoOutput) {
  SmallProblem small;
  OwnContext own(small.problem, Dense{});
  small.problem.out = HeadView{};
  small.problem.lse = nullptr;
  EXPECT_EQ(error_of([&] { (void)plan(small.problem, FlexPrefill{}, own.context); }), "no error");
}

TEST(Problem, MessageNamesTheProblemOfABatch) {
  SmallProblem first, second;
  second.problem.q.heads = 0;
  const std::vector<AttentionProblem> batch = {first.problem, second.problem};
  EXPECT_THAT(error_of([&] { (void)workspace_bytes(batch, Policy(Dense{})); }),
              HasSubstr("problems[1].q.heads = 0"));
}

TEST(Problem, OutputMayBeHeadMajor) {
  SmallProblem small;
  OwnContext own(small.problem, Dense{});
  (void)prefill(small.problem, Dense{}, own.context);
  std::vector<float> head_major(small.out.size());
  AttentionProblem other = small.problem;
  other.out.data = head_major.data();
  other.out.token_stride = SmallProblem::kValueDim;
  other.out.head_stride = 300 * SmallProblem::kValueDim;
  (void)prefill(other, Dense{}, own.context);
  for (int64_t t = 0; t < 300; ++t) {
    for (int64_t h = 0; h < SmallProblem::kHeads; ++h) {
      for (int64_t c = 0; c < SmallProblem::kValueDim; ++c) {
        ASSERT_EQ(head_major[h * other.out.head_stride + t * other.out.token_stride + c],
                  small.out[(t * SmallProblem::kHeads + h) * SmallProblem::kValueDim + c]);
      }
    }
  }
}

}  // namespace
}  // namespace flexprefill
