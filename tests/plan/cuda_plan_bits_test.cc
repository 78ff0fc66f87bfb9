// plan() of the cuda backend gives the same bits whatever surrounds a problem, wherever its lengths
// and keys lie, and in a graph; skips without a GPU.

#include <gtest/gtest.h>

#include <memory>

#include "tests/plan/cuda_plan_cases.h"

namespace flexprefill::test {
namespace {

// The same bits alone, in a batch, with other garbage in memory, and head by head.
TEST_F(CudaPlan, SurroundingsChangeNoBit) {
  std::vector<PlanCase> list = cases();
  list.push_back({.q_len = 0, .kv_len = 100, .head_dim = 64, .dtype = DType::kBF16});
  list.push_back({.q_len = 3, .kv_len = 0, .q_start = 5, .head_dim = 64, .dtype = DType::kBF16});
  // Above 64 key blocks the sums have kernels of their own: in the batch, not for the others alone.
  list.push_back({.q_len = 300,
                  .kv_len = 9000,
                  .heads = 7,
                  .kv_heads = 1,
                  .head_dim = 128,
                  .dtype = DType::kF16});
  std::vector<std::unique_ptr<DeviceInstance>> instances;
  std::vector<AttentionProblem> batch;
  for (const PlanCase& c : list) {
    instances.push_back(std::make_unique<DeviceInstance>(c));
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

// Kernels start early, and read the call's table before they wait for the kernel before.
TEST_F(CudaPlan, PlansInARowShareTheirScratch) {
  const DeviceInstance short_one(
      {.q_len = 1500, .kv_len = 1500, .head_dim = 64, .dtype = DType::kBF16});
  const DeviceInstance long_one(
      {.q_len = 300, .kv_len = 9000, .head_dim = 128, .dtype = DType::kF16});
  const Policy policy = FlexPrefill{.gamma = 0.9f, .min_budget = 0};
  const std::span<const Policy> policies(&policy, 1);
  struct Plan {
    AttentionProblem problem;
    DevicePlan alone;
    DeviceMemory bits, reports;
    BlockMask mask;
  };
  std::vector<Plan> plans;
  size_t bytes = 0;
  for (const DeviceInstance* x : {&short_one, &long_one}) {
    const AttentionProblem& problem = x->device.problem;
    BlockMask mask = block_grid(problem);
    DeviceMemory bits(static_cast<size_t>(mask.num_words()) * 8);
    mask.bits = bits.as<uint64_t>();
    plans.push_back({problem, device_plan(problem, policy), std::move(bits),
                     DeviceMemory(static_cast<size_t>(mask.heads) * sizeof(HeadReport)), mask});
    bytes = std::max(bytes, internal::cuda::plan_scratch_bytes(std::span(&problem, 1), policies));
  }
  const DeviceMemory scratch(bytes, 0xa5);
  for (int round = 0; round < 50; ++round) {
    for (const Plan& plan : plans) {
      HeadReport* const reports = plan.reports.as<HeadReport>();
      internal::cuda::plan_problems(std::span(&plan.problem, 1), policies, std::span(&plan.mask, 1),
                                    std::span(&reports, 1), scratch.span(), {});
    }
    CHECK_CUDA(cudaDeviceSynchronize());
    for (const Plan& plan : plans) {
      ASSERT_EQ(plan.bits.to_host<uint64_t>(), plan.alone.bits[0]) << "round " << round;
      const auto reports = plan.reports.to_host<HeadReport>();
      for (size_t h = 0; h < reports.size(); ++h)
        ASSERT_TRUE(same_bits(reports[h], plan.alone.reports[0][h])) << "head " << h;
    }
  }
}

TEST_F(CudaPlan, EveryHeadMayHaveItsOwnPolicy) {
  const DeviceInstance x({.structure = Structure::kLocal, .head_dim = 64, .dtype = DType::kBF16});
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
    const DeviceInstance x({.structure = structure,
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
        SCOPED_TRACE(x.host.name + " " + str(policy) + " lengths " + std::to_string(q_len) + " " +
                     std::to_string(kv_len));
        expect_same_plan(device_plan(bounded, policy), device_plan(exact, policy));
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
  const DeviceInstance x(c);
  const int32_t first[] = {1500, 1500};
  const DeviceMemory lengths(std::as_bytes(std::span(first)));
  AttentionProblem problem = x.device.problem;
  problem.q_len_device = lengths.as<int32_t>();
  problem.kv_len_device = lengths.as<int32_t>() + 1;
  const Policy policy = FlexPrefill{.gamma = 0.9f, .min_budget = 0};
  BlockMask mask = block_grid(problem);
  const DeviceMemory bits(static_cast<size_t>(mask.num_words()) * 8, /*poison=*/0xa5);
  const DeviceMemory reports(4 * sizeof(HeadReport), /*poison=*/0xa5);
  const DeviceMemory scratch(
      internal::cuda::plan_scratch_bytes(std::span(&problem, 1), std::span(&policy, 1)),
      /*poison=*/0xa5);
  mask.bits = bits.as<uint64_t>();
  HeadReport* report = reports.as<HeadReport>();
  cudaStream_t stream = nullptr;
  CHECK_CUDA(cudaStreamCreate(&stream));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  Context context;
  context.stream = stream;
  internal::cuda::plan_problems(std::span(&problem, 1), std::span(&policy, 1), std::span(&mask, 1),
                                std::span(&report, 1), scratch.span(), context);
  CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
  CHECK_CUDA(cudaGraphInstantiate(&executable, graph, 0));
  for (int n = 0; n < 100; ++n) {
    const int32_t length = 1 + (n * 617) % 1500;
    const int32_t now[] = {length, length};
    CHECK_CUDA(
        cudaMemcpyAsync(lengths.as<int32_t>(), now, sizeof now, cudaMemcpyHostToDevice, stream));
    CHECK_CUDA(cudaGraphLaunch(executable, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    const auto replayed = bits.to_host<uint64_t>();
    const auto replayed_reports = reports.to_host<HeadReport>();
    const DevicePlan direct = device_plan(problem, policy);
    ASSERT_EQ(replayed, direct.bits[0]) << n;
    for (size_t h = 0; h < 4; ++h) {
      ASSERT_TRUE(same_bits(replayed_reports[h], direct.reports[0][h])) << n;
    }
  }
  CHECK_CUDA(cudaGraphExecDestroy(executable));
  CHECK_CUDA(cudaGraphDestroy(graph));
  CHECK_CUDA(cudaStreamDestroy(stream));
}

}  // namespace
}  // namespace flexprefill::test
