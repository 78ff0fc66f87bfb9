#include "tests/support/run.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <map>

#include "ref/reference.h"

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

}  // namespace

std::vector<const Backend*> tested_backends() {
  const auto list = backends();
  const char* forced = std::getenv("FLEXPREFILL_BACKEND");  // NOLINT(concurrency-mt-unsafe)
  if (forced != nullptr && *forced != '\0') {
    EXPECT_EQ(list.size(), 1u) << "FLEXPREFILL_BACKEND = " << forced << " leaves one backend";
    for (const Backend* backend : list) EXPECT_EQ(backend->name(), forced);
  }
  EXPECT_FALSE(list.empty());
  return {list.begin(), list.end()};
}

void skip(const Backend& backend, const std::string& what, const std::string& why) {
  static SkipCounts counts;
  ++counts.of_backend[std::string(backend.name())];
  std::cout << "[   SKIP   ] " << what << ": " << why << "\n";
}

bool multiplies_in_bf16(const Backend& backend) {
  return backend.description().find("avx512bf16") != std::string::npos;
}

PlanResult run_plan(const Backend& backend, std::span<const AttentionProblem> problems,
                    std::span<const Policy> policies, int threads) {
  Context context;
  context.backend = &backend;
  context.threads = threads;
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
  std::vector<std::byte> workspace(workspace_bytes(problems, Policy{Dense{}}, context),
                                   std::byte{0xa5});
  context.workspace = workspace.data();
  context.workspace_bytes = workspace.size();
  attend(problems, masks, {}, context);
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
