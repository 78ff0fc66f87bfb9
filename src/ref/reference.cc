// The `ref` backend: plan = score each head, then select; attend = one block row at a time. Heads
// and block rows are independent, so threads change nothing but the time.

#include "ref/reference.h"

#include <omp.h>

#include <algorithm>
#include <string>
#include <variant>

#include "ref/arena.h"
#include "ref/attend.h"
#include "ref/score.h"
#include "select.h"
#include "why_not.h"

namespace flexprefill::internal {
namespace {

const Policy& policy_of(std::span<const Policy> policies, int32_t h) {
  return policies[policies.size() == 1 ? 0 : static_cast<size_t>(h)];
}

int thread_count(int threads) { return threads > 0 ? threads : omp_get_max_threads(); }

// Scratch of one thread for one head of plan().
size_t plan_bytes(const AttentionProblem& problem, const Policy& policy) {
  const auto* flex = std::get_if<FlexPrefill>(&policy);
  if (flex == nullptr || runs_dense(problem, *flex)) return 0;
  Arena counter;
  if (flex->rule == Rule::kOfficial) {
    score_official(problem, 0, counter);
  } else {
    score_coverage(problem, 0, counter);
  }
  return counter.used_bytes();
}

size_t attend_bytes(const AttentionProblem& problem) {
  Arena counter;
  attend_block_row<double>(problem, {}, 0, 0, counter);
  return counter.used_bytes();
}

HeadReport plan_head(const AttentionProblem& problem, const Policy& policy, const BlockMask& mask,
                     int32_t h, Arena arena) {
  if (std::holds_alternative<Dense>(policy)) return select_dense(mask, h);
  if (const auto* shape = std::get_if<AShape>(&policy)) return select_a_shape(mask, h, *shape);
  const FlexPrefill& flex = std::get<FlexPrefill>(policy);
  if (runs_dense(problem, flex)) return select_dense(mask, h);
  if (flex.rule == Rule::kOfficial) {
    return select_official(problem, flex, score_official(problem, h, arena), mask, h);
  }
  return select_coverage(problem, flex, score_coverage(problem, h, arena), mask, h);
}

class Reference final : public Backend {
 public:
  std::string_view name() const override { return "ref"; }

  std::string description() const override { return "scalar reference, fp32 or fp64 arithmetic"; }

  std::string why_not(const AttentionProblem& problem, std::span<const Policy> policies,
                      const AttendOptions& options) const override {
    return plain_causal_why_not(name(), problem, policies, options);
  }

  size_t scratch_bytes(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
                       int threads) const override {
    return static_cast<size_t>(thread_count(threads)) * thread_bytes(problems, policies);
  }

  void plan(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
            std::span<const BlockMask> masks, std::span<HeadReport* const> reports,
            std::span<std::byte> scratch, const Context& context) const override {
    const size_t bytes = thread_bytes(problems, policies);
    const int threads = thread_count(context.threads);
    for (size_t p = 0; p < problems.size(); ++p) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
      for (int32_t h = 0; h < masks[p].heads; ++h) {
        reports[p][h] = plan_head(problems[p], policy_of(policies, h), masks[p], h,
                                  thread_arena(scratch, bytes));
      }
    }
  }

  void attend(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks,
              const AttendOptions& options, std::span<std::byte> scratch,
              const Context& context) const override {
    size_t bytes = 0;
    for (const AttentionProblem& problem : problems) bytes = std::max(bytes, attend_bytes(problem));
    const int threads = thread_count(context.threads);
    for (size_t p = 0; p < problems.size(); ++p) {
      const BlockMask& mask = masks[p];
      const int64_t rows = int64_t{mask.heads} * mask.q_blocks;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
      for (int64_t row = 0; row < rows; ++row) {
        const auto h = static_cast<int32_t>(row / mask.q_blocks);
        const auto i = static_cast<int32_t>(row % mask.q_blocks);
        Arena arena = thread_arena(scratch, bytes);
        if (options.accumulate_f64) {
          attend_block_row<double>(problems[p], mask, h, i, arena);
        } else {
          attend_block_row<float>(problems[p], mask, h, i, arena);
        }
      }
    }
  }

 private:
  static size_t thread_bytes(std::span<const AttentionProblem> problems,
                             std::span<const Policy> policies) {
    size_t bytes = 0;
    for (const AttentionProblem& problem : problems) {
      bytes = std::max(bytes, attend_bytes(problem));
      for (const Policy& policy : policies) bytes = std::max(bytes, plan_bytes(problem, policy));
    }
    return bytes;
  }

  static Arena thread_arena(std::span<std::byte> scratch, size_t bytes) {
    return Arena(scratch.subspan(static_cast<size_t>(omp_get_thread_num()) * bytes, bytes));
  }
};

}  // namespace

const Backend& reference_backend() {
  static const Reference reference;
  return reference;
}

}  // namespace flexprefill::internal
