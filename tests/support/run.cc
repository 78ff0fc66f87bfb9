#include "tests/support/run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <iostream>
#include <map>

#include "ref/reference.h"
#include "tests/support/device.h"

namespace flexprefill::test {
namespace {

// Prints the number of skips of each backend when the program ends.
struct SkipCounts {
  std::map<std::string, int> of_backend;

  ~SkipCounts() {
    for (const auto& [name, count] : of_backend) {
      std::cout << "[  SKIPS   ] " << name << ": " << count << " cases\n";
    }
  }
};

// A backend that is forced and cannot run here skips the whole program, visibly to CTest.
class MachineCanRunTheForcedBackend : public testing::Environment {
  void SetUp() override {
    const char* forced = std::getenv("FLEXPREFILL_BACKEND");  // NOLINT(concurrency-mt-unsafe)
    if (forced == nullptr || std::string(forced) != "cuda") return;
    const Backend* backend = find_backend(forced);
    if (backend == nullptr) return;  // the tests will say so
    const std::string why = machine_why_not(*backend);
    if (why.empty()) return;
    std::cout << "[  SKIPPED ] every test: " << why << "\n";  // what CTest looks for
    GTEST_SKIP() << why;
  }
};

const testing::Environment* const kMachine =
    testing::AddGlobalTestEnvironment(new MachineCanRunTheForcedBackend);

}  // namespace

std::vector<const Backend*> tested_backends() {
  const auto list = backends();
  const char* forced = std::getenv("FLEXPREFILL_BACKEND");  // NOLINT(concurrency-mt-unsafe)
  if (forced != nullptr && *forced != '\0') {
    EXPECT_EQ(list.size(), 1u) << "FLEXPREFILL_BACKEND = " << forced << " leaves one backend";
    for (const Backend* backend : list) EXPECT_EQ(backend->name(), forced);
  }
  EXPECT_FALSE(list.empty());
  std::vector<const Backend*> tested;
  for (const Backend* backend : list) {
    const std::string why = machine_why_not(*backend);
    if (why.empty())
      tested.push_back(backend);
    else
      skip(*backend, "everything", why);
  }
  return tested;
}

Case adapted(const Backend& backend, const Case& c) {
  return runs_on_gpu(backend) ? for_tensor_cores(c) : c;
}

void skip(const Backend& backend, const std::string& what, const std::string& why) {
  static SkipCounts counts;
  ++counts.of_backend[std::string(backend.name())];
  std::cout << "[   SKIP   ] " << what << ": " << why << "\n";
}

bool multiplies_in_bf16(const Backend& backend) {
  return backend.description().find("avx512bf16") != std::string::npos;
}

namespace {

// plan() in GPU memory; masks and reports come back with the whole workspace.
PlanResult run_plan_on_gpu(std::span<const AttentionProblem> problems,
                           std::span<const Policy> policies, Context context) {
  const OnDevice device(problems, {});
  const Stream stream;
  const DeviceBuffer workspace(workspace_bytes(device.problems(), policies, context));
  context.workspace = workspace.data();
  context.workspace_bytes = workspace.bytes();
  context.stream = stream.get();
  PlanResult result;
  result.plan = plan(device.problems(), policies, context);
  stream.wait();
  device.download();
  EXPECT_TRUE(workspace.guards_untouched()) << "written outside of the workspace";
  result.workspace.resize(workspace.bytes());
  workspace.download(result.workspace.data());
  const auto on_host = [&](auto*& pointer) {
    const auto offset =
        reinterpret_cast<uintptr_t>(pointer) - reinterpret_cast<uintptr_t>(workspace.data());
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(result.workspace.data() +
                                                                           offset);
  };
  for (BlockMask& mask : result.plan.masks) on_host(mask.bits);
  for (const HeadReport*& report : result.plan.reports) on_host(report);
  return result;
}

void run_attend_on_gpu(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks,
                       Context context) {
  const OnDevice device(problems, masks);
  const Stream stream;
  const DeviceBuffer workspace(workspace_bytes(device.problems(), Policy{Dense{}}, context));
  context.workspace = workspace.data();
  context.workspace_bytes = workspace.bytes();
  context.stream = stream.get();
  attend(device.problems(), device.masks(), {}, context);
  stream.wait();
  device.download();
  EXPECT_TRUE(workspace.guards_untouched()) << "written outside of the workspace";
}

}  // namespace

PlanResult run_plan(const Backend& backend, std::span<const AttentionProblem> problems,
                    std::span<const Policy> policies, int threads) {
  Context context;
  context.backend = &backend;
  context.threads = threads;
  if (runs_on_gpu(backend)) {
    PlanResult result = run_plan_on_gpu(problems, policies, context);
    EXPECT_EQ(result.plan.backend, &backend) << "another backend planned";
    return result;
  }
  PlanResult result;
  result.workspace.resize(workspace_bytes(problems, policies, context), std::byte{0xa5});
  context.workspace = result.workspace.data();
  context.workspace_bytes = result.workspace.size();
  result.plan = plan(problems, policies, context);
  EXPECT_EQ(result.plan.backend, &backend) << "another backend planned";
  return result;
}

PlanResult run_plan(const Backend& backend, const AttentionProblem& problem, const Policy& policy,
                    int threads) {
  return run_plan(backend, std::span(&problem, 1), std::span(&policy, 1), threads);
}

void run_attend(const Backend& backend, std::span<const AttentionProblem> problems,
                std::span<const BlockMask> masks, int threads) {
  Context context;
  context.backend = &backend;
  context.threads = threads;
  if (runs_on_gpu(backend)) return run_attend_on_gpu(problems, masks, context);
  std::vector<std::byte> workspace(workspace_bytes(problems, Policy{Dense{}}, context),
                                   std::byte{0xa5});
  context.workspace = workspace.data();
  context.workspace_bytes = workspace.size();
  attend(problems, masks, {}, context);
}

void run_attend(const Backend& backend, const Instance& x, int threads) {
  run_attend(backend, std::span(&x.problem, 1), std::span(&x.mask, 1), threads);
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return std::ranges::equal(a, b, [](float x, float y) {
    return std::bit_cast<uint32_t>(x) == std::bit_cast<uint32_t>(y);
  });
}

bool same_results(const Instance& a, const Instance& b) {
  return std::ranges::equal(a.out.bytes(), b.out.bytes()) && same_bits(a.lse, b.lse);
}

std::vector<std::unique_ptr<Instance>> attend_together(const Backend& backend,
                                                       std::span<const Case> cases) {
  std::vector<std::unique_ptr<Instance>> batch;
  std::vector<AttentionProblem> problems;
  std::vector<BlockMask> masks;
  for (const Case& c : cases) {
    batch.push_back(std::make_unique<Instance>(c));
    problems.push_back(batch.back()->problem);
    masks.push_back(batch.back()->mask);
  }
  run_attend(backend, problems, masks);
  for (size_t n = 0; n < batch.size(); ++n) {
    const Instance alone(cases[n]);
    run_attend(backend, alone);
    EXPECT_TRUE(same_results(alone, *batch[n])) << backend.name() << " " << cases[n].name();
  }
  return batch;
}

void run_reference(const AttentionProblem& problem, const BlockMask& mask) {
  const Backend& reference = internal::reference_backend();
  const Policy policy = Dense{};
  std::vector<std::byte> scratch(
      reference.scratch_bytes(std::span(&problem, 1), std::span(&policy, 1), 0));
  reference.attend(std::span(&problem, 1), std::span(&mask, 1), {.accumulate_f64 = true}, scratch,
                   {});
}

ReferencePlan reference_plan(const AttentionProblem& problem, const Policy& policy) {
  const Backend& reference = internal::reference_backend();
  const auto problems = std::span(&problem, 1);
  const auto policies = std::span(&policy, 1);
  ReferencePlan result;
  result.mask = block_grid(problem);
  result.bits.resize(static_cast<size_t>(result.mask.num_words()));
  result.mask.bits = result.bits.data();
  result.reports.resize(static_cast<size_t>(problem.q.heads));
  HeadReport* reports = result.reports.data();
  std::vector<std::byte> scratch(reference.scratch_bytes(problems, policies, 0));
  reference.plan(problems, policies, std::span(&result.mask, 1), std::span(&reports, 1), scratch,
                 {});
  return result;
}

Expected expected_attention(const AttentionProblem& problem, const BlockMask& mask) {
  Tensor out(DType::kF32, problem.q.tokens, problem.q.heads, problem.kv.v.head_dim);
  Expected expected;
  expected.lse.resize(static_cast<size_t>(problem.q.heads * problem.q.tokens));
  AttentionProblem exact = problem;
  exact.out = out.view();
  exact.lse = expected.lse.data();
  run_reference(exact, mask);
  expected.out = out.values();
  return expected;
}

}  // namespace flexprefill::test
