// Streams and CUDA graphs: plan() and attend() wait for nothing and may be captured.

#include <cuda_runtime_api.h>

#include <random>

#include "tests/cuda/gpu.h"

namespace flexprefill::test {
namespace {

#define ASSERT_CUDA(call) ASSERT_EQ(call, cudaSuccess)

struct Workspace {
  Workspace(std::span<const AttentionProblem> problems, const Policy& policy, const Stream& stream)
      : memory(workspace_bytes(problems, policy)) {
    context.workspace = memory.data();
    context.workspace_bytes = memory.bytes();
    context.stream = stream.get();
  }

  DeviceBuffer memory;
  Context context;
};

// What plan() may be asked for here.
std::vector<Policy> policies(const AttentionProblem& problem) {
  std::vector<Policy> all = {Dense{}, AShape{.sink_tokens = 100, .local_tokens = 200},
                             FlexPrefill{.gamma = 0.7f, .min_budget = 128}};
  std::erase_if(all, [&](const Policy& policy) {
    const std::string why = gpu().why_not(placed(gpu(), problem), std::span(&policy, 1), {});
    if (!why.empty()) skip(gpu(), "a policy", why);
    return !why.empty();
  });
  return all;
}

// A problem on the device whose lengths lie there too, and what it takes to pose it again.
struct Posed {
  explicit Posed(const Case& bounds)
      : x(bounds),
        q_len(static_cast<int32_t>(bounds.q_len)),
        kv_len(static_cast<int32_t>(bounds.kv_len)) {
    x.problem.q_len_device = &q_len;
    x.problem.kv_len_device = &kv_len;
    x.mask = block_grid(x.problem);
    device = std::make_unique<OnDevice>(std::span(&x.problem, 1), std::span(&x.mask, 1));
  }

  AttentionProblem problem() const { return device->problems()[0]; }

  void upload() const {
    const AttentionProblem p = problem();
    ASSERT_CUDA(cudaMemcpy(p.q.data, x.q.bytes().data(), extent(x.problem.q), cudaMemcpyDefault));
    ASSERT_CUDA(
        cudaMemcpy(p.kv.k.data, x.k.bytes().data(), extent(x.problem.kv.k), cudaMemcpyDefault));
    ASSERT_CUDA(
        cudaMemcpy(p.kv.v.data, x.v.bytes().data(), extent(x.problem.kv.v), cudaMemcpyDefault));
    ASSERT_CUDA(cudaMemcpy(const_cast<int32_t*>(p.q_len_device), &q_len, 4, cudaMemcpyDefault));
    ASSERT_CUDA(cudaMemcpy(const_cast<int32_t*>(p.kv_len_device), &kv_len, 4, cudaMemcpyDefault));
    ASSERT_CUDA(cudaMemset(p.out.data, 0xff, extent(x.problem.out)));
    ASSERT_CUDA(cudaDeviceSynchronize());
  }

  std::vector<std::byte> output() const {
    std::vector<std::byte> bytes(extent(x.problem.out));
    EXPECT_EQ(cudaMemcpy(bytes.data(), problem().out.data, bytes.size(), cudaMemcpyDefault),
              cudaSuccess);
    return bytes;
  }

  static size_t extent(const HeadView& view) {  // packed
    return static_cast<size_t>(view.tokens * view.token_stride * dtype_bytes(view.dtype));
  }

  Instance x;
  int32_t q_len, kv_len;
  std::unique_ptr<OnDevice> device;
};

TEST(CudaGraph, ReplaysWithOtherDataAndLengths) {
  // More tiles than multiprocessors, so that attend sorts them.
  const Case bounds = half_precision(
      {.q_len = 700, .kv_len = 900, .heads = 24, .kv_heads = 2, .k_dim = 128, .v_dim = 128});
  std::mt19937 random(3);
  for (const Policy& policy : policies(Instance(bounds).problem)) {
    Posed posed(bounds);
    const AttentionProblem problem = posed.problem();
    const Stream stream;
    Workspace workspace(std::span(&problem, 1), policy, stream);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    const auto capturing = static_cast<cudaStream_t>(stream.get());
    ASSERT_CUDA(cudaStreamBeginCapture(capturing, cudaStreamCaptureModeThreadLocal));
    prefill(problem, policy, workspace.context);
    ASSERT_CUDA(cudaStreamEndCapture(capturing, &graph));
    ASSERT_CUDA(cudaGraphInstantiate(&executable, graph, 0));
    for (int replay = 0; replay < 100; ++replay) {
      posed.q_len = 1 + static_cast<int32_t>(random() % 700);
      posed.kv_len =
          posed.q_len + static_cast<int32_t>(random() % (901 - static_cast<unsigned>(posed.q_len)));
      std::normal_distribution<float> normal;
      if (replay % 10 == 0) {
        posed.x.q.fill([&] { return normal(random); });
        posed.x.k.fill([&] { return normal(random); });
      }
      posed.upload();
      ASSERT_CUDA(cudaGraphLaunch(executable, capturing));
      stream.wait();
      const std::vector<std::byte> replayed = posed.output();
      posed.upload();
      const Stream other;
      Workspace fresh(std::span(&problem, 1), policy, other);
      prefill(problem, policy, fresh.context);
      other.wait();
      ASSERT_EQ(replayed, posed.output())
          << "replay " << replay << ": q_len " << posed.q_len << ", kv_len " << posed.kv_len;
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }
}

TEST(CudaStreams, TwoAtOnceDoNotMeet) {
  const Case cases[] = {
      half_precision({.q_len = 900, .kv_len = 1500, .heads = 4, .k_dim = 128, .v_dim = 128}),
      half_precision({.q_len = 1300, .kv_len = 1300, .heads = 4, .mask = MaskKind::kRandom})};
  std::vector<std::unique_ptr<Instance>> alone, together;
  std::vector<std::unique_ptr<OnDevice>> devices;
  std::vector<std::unique_ptr<Workspace>> workspaces;
  const Stream streams[2];
  for (size_t n = 0; n < 2; ++n) {
    alone.push_back(std::make_unique<Instance>(cases[n]));
    run(*alone[n]);
    together.push_back(std::make_unique<Instance>(cases[n]));
    devices.push_back(std::make_unique<OnDevice>(std::span(&together[n]->problem, 1),
                                                 std::span(&together[n]->mask, 1)));
    workspaces.push_back(std::make_unique<Workspace>(devices[n]->problems(), Dense{}, streams[n]));
  }
  for (int round = 0; round < 50; ++round) {
    for (size_t n = 0; n < 2; ++n) {
      attend(devices[n]->problems(), devices[n]->masks(), {}, workspaces[n]->context);
    }
  }
  for (size_t n = 0; n < 2; ++n) {
    streams[n].wait();
    devices[n]->download();
    EXPECT_TRUE(same_results(*alone[n], *together[n]));
  }
}

TEST(CudaReports, ComeToTheHostWhenAsked) {
  const Instance x(half_precision({.q_len = 300, .kv_len = 500, .heads = 4}));
  const OnDevice device(std::span(&x.problem, 1), {});
  const Stream stream;
  Workspace workspace(device.problems(), AShape{}, stream);
  const Plan made =
      plan(device.problems(), AShape{.sink_tokens = 1, .local_tokens = 1}, workspace.context);
  const std::vector<HeadReport> reports = read_reports(made, 0, workspace.context);
  std::vector<uint64_t> bits = read_bits(made, 0, workspace.context);
  ASSERT_EQ(reports.size(), 4u);
  BlockMask mask = made.masks[0];
  mask.bits = bits.data();
  for (int32_t h = 0; h < 4; ++h) {
    EXPECT_EQ(reports[static_cast<size_t>(h)].pattern, Pattern::kAShape);
    EXPECT_EQ(reports[static_cast<size_t>(h)].kept_blocks, kept_blocks(mask, h));
    EXPECT_EQ(reports[static_cast<size_t>(h)].kept_blocks,
              6);  // rows 1, 2, 3: the first and their own
  }
}

}  // namespace
}  // namespace flexprefill::test
