// Times plan() of the cuda backend: medians of event times of a captured graph, without attend().
//
//   cuda_plan_bench [--steps] [--official] [--head-dim D] [kv_len...]
//                                           default 8192 32768 131072; head_dim 128 or D <= 256,
//                                           bf16, 32 query / 8 KV heads
//
// "noise" is normal q and k, for which every head is query-aware at tau .1 (the dearest plan);
// "lines" has sinks, far lines and local attention. --steps also prints what each kernel adds:
// the time of the graph that ends with it less that of the graph that ends before it. --official
// times kOfficial, too (up to 131072). Run on an idle GPU.

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench/normal.cuh"
#include "cuda/check.h"
#include "cuda/plan.h"
#include "flexprefill/flexprefill.h"
#include "tests/support/device_memory.h"

namespace {

using flexprefill::bench::normal;
using flexprefill::internal::cuda::check;
using flexprefill::test::DeviceMemory;

constexpr int kHeads = 32, kKvHeads = 8, kRuns = 20;

// Keys of lines: a few at the start and one in 4096 share direction 0; queries look there, and at
// the last 300 tokens by a direction that drifts.
__global__ void fill(__nv_bfloat16* x, int64_t tokens, int heads, int head_dim, bool queries,
                     bool lines) {
  const int64_t total = tokens * heads * head_dim;
  for (int64_t n = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; n < total;
       n += int64_t{gridDim.x} * blockDim.x) {
    const int c = static_cast<int>(n % head_dim);
    const int64_t t = n / head_dim / heads;
    float value = normal(static_cast<uint32_t>(n) ^ (queries ? 0x9e3779b9u : 0));
    if (lines) {
      value *= 0.5f;
      const bool anchor = queries || t < 4 || t % 4096 == 77;
      if (anchor) value += normal(static_cast<uint32_t>(c) + 1000) * 0.6f;
      value +=
          0.7f * cosf(static_cast<float>(t) * powf(10000.0f, -static_cast<float>(c / 2) / 64.0f) +
                      (c % 2) * 1.5708f);
    }
    x[n] = __float2bfloat16(value);
  }
}

struct Row {
  const char* data;
  int64_t kv_len, q_len;
  int head_dim;
  flexprefill::FlexPrefill policy;
};

// Ascending.
using Times = std::vector<float>;  // ms
float median(const Times& times) { return times[times.size() / 2]; }

template <typename Work>
Times time_runs(cudaStream_t stream, const Work& work) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  Times times;
  for (int n = 0; n < kRuns + 3; ++n) {
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    work();
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaStreamSynchronize(stream), "plan");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (n >= 3) times.push_back(ms);
  }
  check(cudaEventDestroy(begin), "cudaEventDestroy");
  check(cudaEventDestroy(end), "cudaEventDestroy");
  std::sort(times.begin(), times.end());
  return times;
}

Times time_graph(cudaStream_t stream, cudaGraph_t graph) {
  cudaGraphExec_t replay;
  check(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
  const Times times =
      time_runs(stream, [&] { check(cudaGraphLaunch(replay, stream), "cudaGraphLaunch"); });
  check(cudaGraphExecDestroy(replay), "cudaGraphExecDestroy");
  return times;
}

// The nodes of a graph that is a chain, in order.
std::vector<cudaGraphNode_t> chain(cudaGraph_t graph) {
  size_t count = 0, one = 1;
  check(cudaGraphGetNodes(graph, nullptr, &count), "cudaGraphGetNodes");
  std::vector<cudaGraphNode_t> nodes(count);
  check(cudaGraphGetRootNodes(graph, nodes.data(), &one), "cudaGraphGetRootNodes");
  for (size_t n = 1; n < count; ++n) {
    cudaGraphEdgeData edge;
    check(cudaGraphNodeGetDependentNodes(nodes[n - 1], &nodes[n], &edge, &one),
          "cudaGraphNodeGetDependentNodes");
  }
  return nodes;
}

// The last part of the kernel's mangled name: _ZN <length> <name> <length> <name> ...
std::string kernel_name(cudaGraphNode_t node) {
  cudaKernelNodeParams kernel;
  const char* mangled = nullptr;
  check(cudaGraphKernelNodeGetParams(node, &kernel), "cudaGraphKernelNodeGetParams");
  check(cudaFuncGetName(&mangled, kernel.func), "cudaFuncGetName");
  std::string name = mangled;
  char* rest = const_cast<char*>(mangled) + std::strlen("_ZN");
  while (std::isdigit(*rest)) {
    const size_t length = std::strtoul(rest, &rest, 10);
    name.assign(rest, length);
    rest += length;
  }
  return name;
}

// What each kernel of a captured plan adds to the time of those before it.
void print_steps(cudaStream_t stream, cudaGraph_t graph) {
  const std::vector<cudaGraphNode_t> nodes = chain(graph);
  float before = 0;
  std::printf("   ");
  for (size_t n = 0; n < nodes.size(); ++n) {
    cudaGraph_t part;
    check(cudaGraphClone(&part, graph), "cudaGraphClone");
    for (size_t later = n + 1; later < nodes.size(); ++later) {
      cudaGraphNode_t node;
      check(cudaGraphNodeFindInClone(&node, nodes[later], part), "cudaGraphNodeFindInClone");
      check(cudaGraphDestroyNode(node), "cudaGraphDestroyNode");
    }
    const float ms = median(time_graph(stream, part));
    std::printf(" %s %.1f", kernel_name(nodes[n]).c_str(), static_cast<double>(ms - before) * 1e3);
    before = ms;
    check(cudaGraphDestroy(part), "cudaGraphDestroy");
  }
  std::printf(" us\n");
}

void time_row(const Row& row, void* q, void* k, bool steps) {
  using namespace flexprefill;
  AttentionProblem problem;
  problem.q = head_view(q, DType::kBF16, row.q_len, kHeads, row.head_dim);
  problem.kv.k = problem.kv.v = head_view(k, DType::kBF16, row.kv_len, kKvHeads, row.head_dim);
  const Policy policy = row.policy;
  BlockMask mask = block_grid(problem);
  const auto problems = std::span<const AttentionProblem>(&problem, 1);
  const auto policies = std::span<const Policy>(&policy, 1);
  const DeviceMemory bits(static_cast<size_t>(mask.num_words()) * 8);
  const DeviceMemory reports(kHeads * sizeof(HeadReport));
  const DeviceMemory scratch(internal::cuda::plan_scratch_bytes(problems, policies),
                             /*poison=*/0xa5);
  mask.bits = bits.as<uint64_t>();
  HeadReport* const report = reports.as<HeadReport>();
  cudaStream_t stream;
  cudaGraph_t graph;
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  Context context;
  context.stream = stream;
  const auto plan = [&] {
    internal::cuda::plan_problems(problems, policies, std::span<const BlockMask>(&mask, 1),
                                  std::span<HeadReport* const>(&report, 1), scratch.span(),
                                  context);
  };
  plan();
  check(cudaStreamSynchronize(stream), "plan");
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  plan();
  check(cudaStreamEndCapture(stream, &graph), "capture");
  const Times graph_ms = time_graph(stream, graph), launch_ms = time_runs(stream, plan);
  double kept = 0, causal = 0, coverage = 0;
  int patterns[4] = {};
  for (const HeadReport& head : reports.to_host<HeadReport>()) {
    kept += static_cast<double>(head.kept_blocks);
    causal += static_cast<double>(head.causal_blocks);
    coverage += static_cast<double>(head.coverage) / kHeads;
    ++patterns[static_cast<int>(head.pattern)];
  }
  const float ms = median(graph_ms), launched = median(launch_ms);
  std::printf(
      "%-6s kv %8lld q %8lld tau %.1f %-9s %9.3f ms [%.3f %.3f] launched %9.3f  share %.4f "
      "coverage %.4f"
      "  dense %d vs %d qa %d  scratch %.1f MB mask %.1f MB\n",
      row.data, static_cast<long long>(row.kv_len), static_cast<long long>(row.q_len),
      static_cast<double>(row.policy.tau),
      row.policy.rule == Rule::kOfficial ? "official" : "coverage", ms, graph_ms.front(),
      graph_ms.back(), launched, kept / causal, coverage, patterns[0], patterns[2], patterns[3],
      static_cast<double>(scratch.bytes()) * 1e-6, static_cast<double>(mask.num_words()) * 8e-6);
  std::fflush(stdout);
  if (steps) print_steps(stream, graph);
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int64_t> lengths;
  bool steps = false, official = false;
  int head_dim = 128;
  for (int n = 1; n < argc; ++n) {
    if (std::strcmp(argv[n], "--steps") == 0) {
      steps = true;
    } else if (std::strcmp(argv[n], "--official") == 0) {
      official = true;
    } else if (std::strcmp(argv[n], "--head-dim") == 0 && n + 1 < argc) {
      head_dim = std::atoi(argv[++n]);
    } else {
      lengths.push_back(std::atoll(argv[n]));
    }
  }
  if (head_dim < 1 || head_dim > 256) {
    std::fprintf(stderr, "--head-dim: expected 1 .. 256\n");
    return 2;
  }
  if (lengths.empty()) lengths = {8192, 32768, 131072};
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  std::printf(
      "%s, %d query / %d KV heads, head_dim %d, bf16, gamma .9, min_budget 1024; median of %d\n",
      properties.name, kHeads, kKvHeads, head_dim, kRuns);
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const size_t row_bytes = static_cast<size_t>(head_dim) * sizeof(__nv_bfloat16);
  const DeviceMemory q(static_cast<size_t>(longest) * kHeads * row_bytes);
  const DeviceMemory k(static_cast<size_t>(longest) * kKvHeads * row_bytes);
  for (const bool lines : {false, true}) {
    fill<<<1024, 256>>>(q.as<__nv_bfloat16>(), longest, kHeads, head_dim, true, lines);
    fill<<<1024, 256>>>(k.as<__nv_bfloat16>(), longest, kKvHeads, head_dim, false, lines);
    check(cudaDeviceSynchronize(), "fill");
    const char* const data = lines ? "lines" : "noise";
    const auto time = [&](int64_t kv_len, int64_t q_len, const flexprefill::FlexPrefill& policy) {
      time_row({data, kv_len, q_len, head_dim, policy}, q.data(), k.data(), steps);
    };
    for (const int64_t kv_len : lengths) {
      time(kv_len, kv_len, {});
      time(kv_len, kv_len, {.tau = 0.0f});
      if (kv_len > 8192) time(kv_len, 8192, {});
      if (official && kv_len <= 131072)
        time(kv_len, kv_len, {.rule = flexprefill::Rule::kOfficial});
    }
  }
  return 0;
}
