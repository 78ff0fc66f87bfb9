// plan(): scores each head with the kernels and hands the scores to the selectors of select.h. A
// head's scratch is O(128 * k_blocks) for kCoverage and O(kv_len) for kOfficial.

#include "cpu/plan.h"

#include <algorithm>
#include <variant>

#include "cpu/head_scores.h"
#include "cpu/scratch.h"
#include "cpu/threads.h"
#include "ref/arena.h"
#include "select.h"

namespace flexprefill::internal {
namespace {

size_t head_scratch_bytes(const Kernels& kernels, const AttentionProblem& problem,
                          const Policy& policy) {
  const auto* flex = std::get_if<FlexPrefill>(&policy);
  if (flex == nullptr || runs_dense(problem, *flex)) return 0;
  Arena counter;
  HeldKeyMeans none;
  if (flex->rule == Rule::kOfficial) {
    score_official(kernels, problem, 0, *flex, counter, none);
  } else {
    score_coverage(kernels, problem, 0, *flex, counter, none);
  }
  return counter.used_bytes();
}

HeadReport plan_head(const Kernels& kernels, const AttentionProblem& problem, const Policy& policy,
                     const BlockMask& mask, int32_t h, std::span<std::byte> scratch,
                     HeldKeyMeans& held) {
  if (std::holds_alternative<Dense>(policy)) return select_dense(mask, h);
  if (const auto* shape = std::get_if<AShape>(&policy)) return select_a_shape(mask, h, *shape);
  const FlexPrefill& flex = std::get<FlexPrefill>(policy);
  if (runs_dense(problem, flex)) return select_dense(mask, h);
  Arena arena(scratch);
  if (flex.rule == Rule::kOfficial) {
    return select_official(problem, flex, score_official(kernels, problem, h, flex, arena, held),
                           mask, h);
  }
  return select_coverage(problem, flex, score_coverage(kernels, problem, h, flex, arena, held),
                         mask, h);
}

}  // namespace

size_t plan_scratch_bytes(const Kernels& kernels, std::span<const AttentionProblem> problems,
                          std::span<const Policy> policies) {
  size_t bytes = 0;
  for (const AttentionProblem& problem : problems) {
    for (const Policy& policy : policies) {
      bytes = std::max(bytes, head_scratch_bytes(kernels, problem, policy));
    }
  }
  return bytes;
}

void plan_problems(const Kernels& kernels, std::span<const AttentionProblem> problems,
                   std::span<const Policy> policies, std::span<const BlockMask> masks,
                   std::span<HeadReport* const> reports, std::span<std::byte> scratch,
                   const Context& context) {
  const PerThread parts =
      split_scratch(aligned_part(scratch), plan_scratch_bytes(kernels, problems, policies),
                    thread_count(context.threads));
  // One loop over all problems, so that short problems do not leave threads idle. An item is the
  // heads of a kv head, which share its key means, or a single head where there are few items.
  int64_t kv_heads = 0;
  for (const AttentionProblem& problem : problems) kv_heads += problem.kv.k.heads;
  const bool shared = kv_heads % parts.threads == 0 || kv_heads >= int64_t{4} * parts.threads;
  int64_t num_items = kv_heads;
  if (!shared) {
    num_items = 0;
    for (const BlockMask& mask : masks) num_items += mask.heads;
  }
  for_each_item(parts.threads, num_items, [&](int thread, int64_t n) {
    const auto items_of = [&](size_t p) {
      return shared ? problems[p].kv.k.heads : masks[p].heads;
    };
    size_t p = 0;
    for (; n >= items_of(p); ++p) n -= items_of(p);
    HeldKeyMeans held;
    const auto plan_one = [&](int32_t h) {
      const Policy& policy = policies[policies.size() == 1 ? 0 : static_cast<size_t>(h)];
      reports[p][h] = plan_head(kernels, problems[p], policy, masks[p], h, parts.of(thread), held);
    };
    if (!shared) return plan_one(static_cast<int32_t>(n));
    for (int32_t h = 0; h < masks[p].heads; ++h) {
      if (kv_head(problems[p], h) == n) plan_one(h);
    }
  });
}

}  // namespace flexprefill::internal
