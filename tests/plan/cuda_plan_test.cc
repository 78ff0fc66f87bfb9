// plan() of the cuda backend against the reference, on a GPU; skips without one.

#include "tests/plan/cuda_plan.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <iostream>
#include <map>
#include <random>

#include "tests/plan/official_fixture.h"
#include "tests/plan/plan_cases.h"
#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

class CudaPlan : public testing::Test {
 protected:
  void SetUp() override {
    const std::string why = gpu_why_not();
    if (!why.empty()) GTEST_SKIP() << why;
  }
};

struct Instance {
  explicit Instance(const PlanCase& c) : host(c), device(host.problem, host.q, host.k) {}
  explicit Instance(const std::string& fixture)
      : host(fixture), device(host.problem, host.q, host.k) {}

  PlanInstance host;
  DeviceTensors device;
};

constexpr Structure kStructures[] = {Structure::kNoise, Structure::kSink, Structure::kLocal,
                                     Structure::kTopics};

// Every structure, head_dim, type, grouping, ratio of heads, and length that ends anywhere.
std::vector<PlanCase> cases() {
  std::vector<PlanCase> all;
  int n = 0;
  for (const Structure structure : kStructures) {
    for (const int32_t head_dim : {64, 96, 128, 192, 256}) {
      ++n;
      all.push_back({.structure = structure,
                     .q_len = 1500 + 37 * n,
                     .kv_len = 1500 + 37 * n,
                     .heads = 4,
                     .kv_heads = 2,
                     .head_dim = head_dim,
                     .dtype = n % 3 == 0 ? DType::kF16 : DType::kBF16});
    }
    // Chunks, all ratios, dimensions that are no multiple of anything.
    all.push_back(
        {structure, 300, 1301, std::nullopt, 4, 2, 20, DType::kBF16, HeadGrouping::kInterleaved});
    all.push_back({structure, 77, 1000, std::nullopt, 7, 1, 128, DType::kF16});
    all.push_back({structure, 128, 2048, std::nullopt, 6, 6, 80, DType::kBF16});
    all.push_back(
        {structure, 640, 4096, 3000, 8, 2, 128, DType::kBF16, HeadGrouping::kInterleaved});
    all.push_back({structure, 2049, 2049, std::nullopt, 5, 1, 256, DType::kBF16});
    all.push_back({structure, 5000, 5000, std::nullopt, 4, 2, 64, DType::kBF16});
  }
  all.push_back({Structure::kLocal, 200, 900, 1200, 4, 2, 64, DType::kBF16});  // keys in the past
  all.push_back({Structure::kSink, 900, 1100, -50, 4, 2, 64, DType::kBF16});   // rows without keys
  all.push_back({Structure::kSink, 60, 1100, -30, 4, 2, 64, DType::kBF16});
  all.push_back({Structure::kTopics, 1, 700, std::nullopt, 3, 1, 128, DType::kBF16});
  all.push_back(
      {Structure::kLocal, 300, 2000, 1000, 4, 2, 128, DType::kBF16});  // keys in the future
  return all;
}

std::vector<FlexPrefill> policies() {
  return {
      {.gamma = 0.9f, .tau = 0.1f, .min_budget = 0},
      {.gamma = 0.5f, .tau = 0.0f, .min_budget = 128},
      {.gamma = 0.95f, .tau = 1.0f, .min_budget = 0},
      {.gamma = 0.99f, .tau = 0.1f, .min_budget = 0},
      {.gamma = 0.9f, .tau = 0.1f, .min_budget = 0, .max_budget = 128},
      {.gamma = 0.99f, .tau = 1.0f, .min_budget = 128, .max_budget = 256},
      {.gamma = 0.9f, .tau = 0.2f, .min_budget = 300, .max_budget = 600},
      {.gamma = 1.0f, .min_budget = 0},
  };
}

std::string str(const Policy& policy) {
  if (const auto* p = std::get_if<FlexPrefill>(&policy)) {
    return std::string(p->rule == Rule::kOfficial ? "official" : "coverage") + " gamma " +
           std::to_string(p->gamma) + " tau " + std::to_string(p->tau) + " min " +
           std::to_string(p->min_budget) + " max " +
           (p->max_budget ? std::to_string(*p->max_budget) : "none");
  }
  return std::holds_alternative<Dense>(policy) ? "dense" : "a-shape";
}

struct Tally {
  int64_t heads = 0, different_heads = 0, blocks = 0, different_blocks = 0, other_patterns = 0;
  std::map<Pattern, int> patterns;
  int limited = 0;
};

// A float of the report, which may be NaN.
void expect_near(float actual, float expected, double tolerance) {
  ASSERT_EQ(std::isnan(actual), std::isnan(expected)) << actual << " and " << expected;
  if (!std::isnan(expected)) {
    EXPECT_NEAR(actual, expected, tolerance);
  }
}

void compare(const DevicePlan& actual, size_t p, const ReferencePlan& expected, Tally& tally,
             const std::string& name) {
  const BlockMask& mask = actual.masks[p];
  for (int32_t h = 0; h < mask.heads; ++h) {
    const std::string where = name + " head " + std::to_string(h);
    SCOPED_TRACE(where);
    const HeadReport& a = actual.reports[p][static_cast<size_t>(h)];
    const HeadReport& e = expected.reports[static_cast<size_t>(h)];
    const auto bits = head_bits(mask, h), expected_bits = head_bits(expected.mask, h);
    int64_t different = 0;
    for (size_t w = 0; w < bits.size(); ++w) {
      different += std::popcount(bits[w] ^ expected_bits[w]);
    }
    EXPECT_EQ(a.kept_blocks, kept_blocks(mask, h));
    EXPECT_EQ(a.causal_blocks, e.causal_blocks);
    ++tally.heads;
    tally.blocks += e.causal_blocks;
    tally.different_blocks += different;
    tally.different_heads += different > 0;
    ++tally.patterns[a.pattern];
    tally.limited += a.budget_limited;
    if (different > 0) {
      tally.other_patterns += a.pattern != e.pattern;
      std::cout << where << ": " << different << " of " << e.causal_blocks
                << " blocks differ, pattern " << to_string(a.pattern) << " and "
                << to_string(e.pattern) << ", coverage " << a.coverage << " and " << e.coverage
                << ", divergence " << a.divergence << " and " << e.divergence << "\n";
      continue;
    }
    EXPECT_EQ(a.pattern, e.pattern);
    EXPECT_EQ(a.budget_limited, e.budget_limited);
    expect_near(a.coverage, e.coverage, 2e-5);
    expect_near(a.coverage_min_row, e.coverage_min_row, 2e-4);
    expect_near(a.divergence, e.divergence, 1e-4);
  }
}

TEST_F(CudaPlan, CoverageIsTheReferences) {
  Tally tally;
  for (const PlanCase& c : cases()) {
    const Instance x(c);
    for (const FlexPrefill& policy : policies()) {
      const DevicePlan actual = device_plan(x.device.problem, policy);
      compare(actual, 0, reference_plan(x.host.problem, policy), tally,
              c.name() + " " + str(policy));
      for (size_t h = 0; h < actual.reports[0].size(); ++h) {
        const HeadReport& report = actual.reports[0][h];
        if (!report.budget_limited) {
          EXPECT_GE(report.coverage, policy.gamma);
        }
      }
    }
  }
  for (const Pattern pattern : {Pattern::kVerticalSlash, Pattern::kQueryAware, Pattern::kDense}) {
    std::cout << tally.patterns[pattern] << " heads " << to_string(pattern) << "\n";
    EXPECT_GT(tally.patterns[pattern], 50);
  }
  std::cout << tally.limited << " heads limited by max_budget\n";
  EXPECT_GT(tally.limited, 50);
  std::cout << tally.heads - tally.different_heads << " of " << tally.heads << " heads identical, "
            << tally.different_blocks << " of " << tally.blocks << " blocks differ, "
            << tally.other_patterns << " heads with another pattern\n";
  EXPECT_LE(static_cast<double>(tally.different_blocks), 0.001 * static_cast<double>(tally.blocks));
}

TEST_F(CudaPlan, FixedPatternsAreTheReferences) {
  Tally tally;
  for (const PlanCase& c : cases()) {
    const Instance x(c);
    for (const Policy& policy :
         {Policy{Dense{}}, Policy{AShape{}}, Policy{AShape{.sink_tokens = 0, .local_tokens = 1}},
          Policy{AShape{.sink_tokens = 300, .local_tokens = 129}}}) {
      compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy),
              tally, c.name() + " " + str(policy));
    }
  }
  EXPECT_EQ(tally.different_blocks, 0);
}

// More key blocks than shared memory has room for weights of 16 rows, which fixed patterns need
// not.
TEST_F(CudaPlan, FixedPatternsOfLongKeysAreTheReferences) {
  Tally tally;
  const PlanCase c = {.q_len = 300,
                      .kv_len = 450'001,
                      .heads = 1,
                      .kv_heads = 1,
                      .head_dim = 8,
                      .dtype = DType::kBF16};
  const Instance x(c);
  for (const Policy& policy : {Policy{Dense{}}, Policy{AShape{}}}) {
    compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy), tally,
            c.name() + " " + str(policy));
  }
  EXPECT_EQ(tally.different_blocks, 0);
}

TEST_F(CudaPlan, RealLayersPlanAsTheReference) {
  Tally tally;
  for (const char* name : {"n2000_layer4", "n2048_layer1", "n2048_layer4", "n4096_layer4"}) {
    const Instance x{std::string(name)};
    for (const FlexPrefill& policy : policies()) {
      compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy),
              tally, std::string(name) + " " + str(policy));
    }
  }
  std::cout << tally.different_blocks << " of " << tally.blocks << " blocks differ\n";
  EXPECT_LE(static_cast<double>(tally.different_blocks), 0.001 * static_cast<double>(tally.blocks));
}

TEST_F(CudaPlan, OfficialSelectsTheRecordedBlocks) {
  OfficialTally tally;
  for (const std::string& name : fixtures()) {
    const Recorded recorded(name);
    const DeviceTensors device(recorded.problem, recorded.q, recorded.k);
    for (const Setting& setting : settings(recorded.fixture)) {
      const DevicePlan plan = device_plan(device.problem, setting.policy);
      const ReferencePlan reference = reference_plan(recorded.problem, setting.policy);
      for (int32_t h = 0; h < recorded.problem.q.heads; ++h) {
        SCOPED_TRACE(name + " " + setting.name + " head " + std::to_string(h));
        const auto actual = blocks_of(plan.masks[0], h);
        const auto expected = recorded.blocks(setting, h);
        const size_t different = differing(actual, expected);
        ++tally.heads;
        tally.identical_heads += different == 0;
        tally.blocks += expected.size();
        tally.different_blocks += different;
        const HeadReport& report = plan.reports[0][static_cast<size_t>(h)];
        EXPECT_EQ(report.kept_blocks, static_cast<int64_t>(actual.size()));
        const OfficialTrace trace(recorded.problem, setting.policy, h);
        if (actual != trace.blocks()) {
          std::cout << name << " " << setting.name << " head " << h << ": " << different << " of "
                    << expected.size() << " blocks differ from the record\n";
          expect_explained(trace, actual, "cuda");
        } else {
          const HeadReport& other = reference.reports[static_cast<size_t>(h)];
          EXPECT_EQ(report.pattern, other.pattern);
          expect_near(report.coverage, other.coverage, 2e-5);
          expect_near(report.coverage_min_row, other.coverage_min_row, 2e-4);
          expect_near(report.divergence, other.divergence, 1e-4);
        }
      }
    }
  }
  std::cout << tally.identical_heads << " of " << tally.heads << " heads as recorded, "
            << tally.different_blocks << " of " << tally.blocks << " blocks differ\n";
  EXPECT_LE(static_cast<double>(tally.different_blocks), 0.002 * static_cast<double>(tally.blocks));
}

TEST_F(CudaPlan, OfficialIsTheReferences) {
  Tally tally;
  for (const PlanCase& c : cases()) {
    if (c.q_len != c.kv_len || c.q_start) continue;
    const Instance x(c);
    for (FlexPrefill policy : policies()) {
      policy.rule = Rule::kOfficial;
      compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy),
              tally, c.name() + " " + str(policy));
    }
  }
  for (const Pattern pattern : {Pattern::kVerticalSlash, Pattern::kQueryAware}) {
    std::cout << tally.patterns[pattern] << " heads " << to_string(pattern) << "\n";
    EXPECT_GT(tally.patterns[pattern], 50);
  }
  std::cout << tally.heads - tally.different_heads << " of " << tally.heads << " heads identical, "
            << tally.different_blocks << " of " << tally.blocks << " blocks differ\n";
  // bf16 logits tie often, and noise leaves every block near a cut.
  EXPECT_LE(static_cast<double>(tally.different_blocks), 0.005 * static_cast<double>(tally.blocks));
}

// Scores a hundred times larger than usual: rows with one key, and sums that underflow.
TEST_F(CudaPlan, ExtremeLogits) {
  Tally tally;
  for (const float scale : {0.0001f, 1.0f, 30.0f}) {
    for (const Structure structure : kStructures) {
      Instance x({.structure = structure, .head_dim = 64, .dtype = DType::kBF16});
      x.host.problem.softmax_scale = x.device.problem.softmax_scale = scale;
      for (const FlexPrefill& policy : policies()) {
        compare(device_plan(x.device.problem, policy), 0, reference_plan(x.host.problem, policy),
                tally, x.host.name + " scale " + std::to_string(scale) + " " + str(policy));
      }
    }
  }
  std::cout << tally.different_blocks << " of " << tally.blocks << " blocks differ\n";
  EXPECT_LE(static_cast<double>(tally.different_blocks), 0.002 * static_cast<double>(tally.blocks));
}

TEST_F(CudaPlan, UnrankableScoresRunDense) {
  for (const float value : {std::nanf(""), INFINITY, -INFINITY}) {
    PlanInstance host(
        {.structure = Structure::kLocal, .kv_heads = 4, .head_dim = 64, .dtype = DType::kBF16});
    host.k.set(300, 1, 5, value);
    const DeviceTensors device(host.problem, host.q, host.k);
    const FlexPrefill policy = {.gamma = 0.3f, .tau = 0.0f, .min_budget = 0};
    Tally tally;
    const DevicePlan actual = device_plan(device.problem, policy);
    compare(actual, 0, reference_plan(host.problem, policy), tally,
            "value " + std::to_string(value));
    EXPECT_EQ(tally.different_blocks, 0);
    EXPECT_EQ(actual.reports[0][1].pattern, Pattern::kDense);
    EXPECT_NE(actual.reports[0][0].pattern, Pattern::kDense);
  }
}

bool same_bits(const HeadReport& a, const HeadReport& b) {
  const auto same = [](float x, float y) {
    return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
  };
  return a.pattern == b.pattern && a.budget_limited == b.budget_limited &&
         a.kept_blocks == b.kept_blocks && a.causal_blocks == b.causal_blocks &&
         same(a.coverage, b.coverage) && same(a.coverage_min_row, b.coverage_min_row) &&
         same(a.divergence, b.divergence);
}

// The same bits alone, in a batch, with other garbage in memory, and head by head.
TEST_F(CudaPlan, SurroundingsChangeNoBit) {
  std::vector<PlanCase> list = cases();
  list.push_back({.q_len = 0, .kv_len = 100, .head_dim = 64, .dtype = DType::kBF16});
  list.push_back({.q_len = 3, .kv_len = 0, .q_start = 5, .head_dim = 64, .dtype = DType::kBF16});
  std::vector<std::unique_ptr<Instance>> instances;
  std::vector<AttentionProblem> batch;
  for (const PlanCase& c : list) {
    instances.push_back(std::make_unique<Instance>(c));
    batch.push_back(instances.back()->device.problem);
  }
  for (const Policy& policy :
       {Policy{FlexPrefill{.gamma = 0.9f, .min_budget = 0}},
        Policy{FlexPrefill{.gamma = 0.95f, .tau = 1.0f, .min_budget = 0, .max_budget = 256}},
        Policy{AShape{}}}) {
    const DevicePlan together = device_plan(batch, std::span(&policy, 1), 0xff);
    for (size_t p = 0; p < batch.size(); ++p) {
      SCOPED_TRACE(instances[p]->host.name + " " + str(policy));
      const DevicePlan alone = device_plan(batch[p], policy, 0x5a);
      EXPECT_EQ(alone.bits[0], together.bits[p]);
      for (size_t h = 0; h < alone.reports[0].size(); ++h) {
        EXPECT_TRUE(same_bits(alone.reports[0][h], together.reports[p][h])) << "head " << h;
      }
      // One kv head and its query heads, as another GPU would have them.
      AttentionProblem part = batch[p];
      if (part.grouping == HeadGrouping::kInterleaved) continue;
      const int32_t group = part.q.heads / part.kv.k.heads;
      part.kv.k.heads = 1;
      part.q.heads = group;
      const DevicePlan split = device_plan(part, policy);
      for (int32_t h = 0; h < group; ++h) {
        EXPECT_EQ(head_bits(split.masks[0], h), head_bits(together.masks[p], h)) << "head " << h;
        EXPECT_TRUE(same_bits(split.reports[0][static_cast<size_t>(h)],
                              together.reports[p][static_cast<size_t>(h)]));
      }
    }
  }
}

TEST_F(CudaPlan, EveryHeadMayHaveItsOwnPolicy) {
  const Instance x({.structure = Structure::kLocal, .head_dim = 64, .dtype = DType::kBF16});
  const Policy mixed[] = {Dense{}, AShape{.sink_tokens = 1, .local_tokens = 100},
                          FlexPrefill{.gamma = 0.6f, .tau = 1.0f, .min_budget = 0},
                          FlexPrefill{.gamma = 0.9f, .min_budget = 0, .rule = Rule::kOfficial}};
  const DevicePlan actual = device_plan(std::span(&x.device.problem, 1), mixed);
  for (int32_t h = 0; h < 4; ++h) {
    const DevicePlan uniform = device_plan(x.device.problem, mixed[h]);
    EXPECT_EQ(head_bits(actual.masks[0], h), head_bits(uniform.masks[0], h)) << h;
    EXPECT_TRUE(same_bits(actual.reports[0][static_cast<size_t>(h)],
                          uniform.reports[0][static_cast<size_t>(h)]));
  }
}

// Lengths on the device below the bounds plan as the shorter problem does.
TEST_F(CudaPlan, LengthsOnTheDeviceAreTheTrueOnes) {
  for (const Structure structure : kStructures) {
    const Instance x({.structure = structure,
                      .q_len = 2000,
                      .kv_len = 2500,
                      .head_dim = 128,
                      .dtype = DType::kBF16});
    for (const auto& [q_len, kv_len] :
         {std::pair(2000, 2500), std::pair(1999, 2400), std::pair(77, 1111), std::pair(1, 1),
          std::pair(0, 700), std::pair(600, 600)}) {
      for (const Policy& policy : {Policy{FlexPrefill{.gamma = 0.9f, .min_budget = 0}},
                                   Policy{FlexPrefill{.gamma = 0.9f, .tau = 1.0f, .min_budget = 0}},
                                   Policy{AShape{.sink_tokens = 200, .local_tokens = 500}}}) {
        const int32_t lengths[] = {q_len, kv_len};
        const DeviceMemory on_device(std::as_bytes(std::span(lengths)));
        AttentionProblem bounded = x.device.problem, exact = bounded;
        bounded.q_len_device = on_device.as<int32_t>();
        bounded.kv_len_device = on_device.as<int32_t>() + 1;
        exact.q.tokens = q_len;
        exact.kv.k.tokens = kv_len;
        const DevicePlan a = device_plan(bounded, policy), b = device_plan(exact, policy);
        SCOPED_TRACE(x.host.name + " " + str(policy) + " lengths " + std::to_string(q_len) + " " +
                     std::to_string(kv_len));
        for (int32_t h = 0; h < 4; ++h) {
          EXPECT_TRUE(same_bits(a.reports[0][static_cast<size_t>(h)],
                                b.reports[0][static_cast<size_t>(h)]));
          for (int32_t i = 0; i < a.masks[0].q_blocks; ++i) {
            const uint64_t* const row = a.masks[0].row(h, i);
            for (int32_t w = 0; w < a.masks[0].row_words(); ++w) {
              const bool there = i < b.masks[0].q_blocks && w < b.masks[0].row_words();
              ASSERT_EQ(row[w], there ? b.masks[0].row(h, i)[w] : 0) << "row " << i;
            }
          }
        }
      }
    }
  }
}

// Pages of any size give the bits of the contiguous call.
TEST_F(CudaPlan, PagesChangeNoBit) {
  const PlanInstance host({.structure = Structure::kLocal,
                           .q_len = 700,
                           .kv_len = 1500,
                           .head_dim = 64,
                           .dtype = DType::kBF16});
  const DeviceTensors device(host.problem, host.q, host.k);
  for (const int32_t page_size : {1, 16, 48, 128, 528}) {
    const int64_t pages = (1500 + page_size - 1) / page_size;
    std::vector<int32_t> table(static_cast<size_t>(pages));
    for (int64_t n = 0; n < pages; ++n)
      table[static_cast<size_t>(n)] = static_cast<int32_t>(pages - 1 - n);
    Tensor paged(DType::kBF16, pages * page_size, 2, 64);
    for (int64_t n = 0; n < 1500; ++n) {
      const int64_t to = table[static_cast<size_t>(n / page_size)] * page_size + n % page_size;
      for (int32_t g = 0; g < 2; ++g) {
        for (int32_t c = 0; c < 64; ++c) paged.set(to, g, c, host.k.get(n, g, c));
      }
    }
    const DeviceMemory k(paged.bytes()), block_table(std::as_bytes(std::span(table)));
    AttentionProblem problem = device.problem;
    problem.kv.k = paged.view();
    problem.kv.k.data = k.as<void>();
    problem.kv.k.tokens = page_size;
    problem.kv.page_size = page_size;
    problem.kv.page_stride = page_size * problem.kv.k.token_stride;
    problem.kv.paged_kv_len = 1500;
    problem.kv.block_table = block_table.as<int32_t>();
    const FlexPrefill policy = {.gamma = 0.9f, .min_budget = 0};
    EXPECT_EQ(device_plan(problem, policy).bits[0], device_plan(device.problem, policy).bits[0])
        << page_size;
  }
}

// A captured plan follows lengths that change on the device.
TEST_F(CudaPlan, GraphReplaysWithChangingLengths) {
  const PlanCase c = {.structure = Structure::kSink,
                      .q_len = 1500,
                      .kv_len = 1500,
                      .head_dim = 64,
                      .dtype = DType::kBF16};
  const Instance x(c);
  const int32_t first[] = {1500, 1500};
  const DeviceMemory lengths(std::as_bytes(std::span(first)));
  AttentionProblem problem = x.device.problem;
  problem.q_len_device = lengths.as<int32_t>();
  problem.kv_len_device = lengths.as<int32_t>() + 1;
  const Policy policy = FlexPrefill{.gamma = 0.9f, .min_budget = 0};
  BlockMask mask = block_grid(problem);
  const DeviceMemory bits(static_cast<size_t>(mask.num_words()) * 8);
  const DeviceMemory reports(4 * sizeof(HeadReport));
  const DeviceMemory scratch(
      internal::cuda::plan_scratch_bytes(std::span(&problem, 1), std::span(&policy, 1)));
  mask.bits = bits.as<uint64_t>();
  HeadReport* report = reports.as<HeadReport>();
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreate(&stream));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  Context context;
  context.stream = stream;
  internal::cuda::plan_problems(std::span(&problem, 1), std::span(&policy, 1), std::span(&mask, 1),
                                std::span(&report, 1), scratch.span(), context);
  check_cuda(cudaStreamEndCapture(stream, &graph));
  check_cuda(cudaGraphInstantiate(&executable, graph, 0));
  for (int n = 0; n < 100; ++n) {
    const int32_t length = 1 + (n * 617) % 1500;
    const int32_t now[] = {length, length};
    check_cuda(
        cudaMemcpyAsync(lengths.as<int32_t>(), now, sizeof now, cudaMemcpyHostToDevice, stream));
    check_cuda(cudaGraphLaunch(executable, stream));
    check_cuda(cudaStreamSynchronize(stream));
    const auto replayed = bits.to_host<uint64_t>();
    const auto replayed_reports = reports.to_host<HeadReport>();
    const DevicePlan direct = device_plan(problem, policy);
    ASSERT_EQ(replayed, direct.bits[0]) << n;
    for (size_t h = 0; h < 4; ++h) {
      ASSERT_TRUE(same_bits(replayed_reports[h], direct.reports[0][h])) << n;
    }
  }
  check_cuda(cudaGraphExecDestroy(executable));
  check_cuda(cudaGraphDestroy(graph));
  check_cuda(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace flexprefill::test
