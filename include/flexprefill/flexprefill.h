#pragma once

/// Sparse attention over long prompts, in two steps:
///
///   problem (q, k, v)  --plan-->  block mask  --attend-->  out (+ log-sum-exp)
///
/// plan() is cheap and decides which 128 x 128 blocks of the attention matrix are computed;
/// attend() computes exactly those; prefill() does both. Every function validates its arguments
/// once and throws Error. All are thread-safe on distinct workspaces. Results do not depend on the
/// number of threads nor on what else is in the batch. examples/quickstart.cc is a complete
/// program.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "flexprefill/backend.h"
#include "flexprefill/block_mask.h"
#include "flexprefill/error.h"
#include "flexprefill/export.h"
#include "flexprefill/policy.h"
#include "flexprefill/tensor.h"
#include "flexprefill/version.h"

namespace flexprefill {

/// What plan() decided. The vectors are the caller's; the bits and reports they point to lie in the
/// workspace of the call (on the problems' device) and live as long as it does.
struct Plan {
  std::vector<BlockMask> masks;            // one per problem
  std::vector<const HeadReport*> reports;  // per problem: [heads]
  const Backend* backend = nullptr;        // which backend planned

  /// Report of problem p; CPU problems only. read_reports() serves every device.
  std::span<const HeadReport> report(size_t p = 0) const {
    return {reports[p], static_cast<size_t>(masks[p].heads)};
  }
};

/// Bytes of workspace that plan() and attend() need for these problems. One policy for all heads,
/// or (second form) one per query head. Depends on shapes, dtypes, policies, threads and backend
/// alone.
FLEXPREFILL_EXPORT size_t workspace_bytes(std::span<const AttentionProblem> problems,
                                          const Policy& policy, const Context& context = {});
FLEXPREFILL_EXPORT size_t workspace_bytes(std::span<const AttentionProblem> problems,
                                          std::span<const Policy> policies,
                                          const Context& context = {});
FLEXPREFILL_EXPORT size_t workspace_bytes(const AttentionProblem& problem, const Policy& policy,
                                          const Context& context = {});

/// Decides which blocks to compute. Reads q and k only. The diagonal is always kept; nothing in the
/// future ever is.
FLEXPREFILL_EXPORT Plan plan(std::span<const AttentionProblem> problems, const Policy& policy,
                             const Context& context);
FLEXPREFILL_EXPORT Plan plan(std::span<const AttentionProblem> problems,
                             std::span<const Policy> policies, const Context& context);
FLEXPREFILL_EXPORT Plan plan(const AttentionProblem& problem, const Policy& policy,
                             const Context& context);

/// The reports and the mask bits [heads, q_blocks, row_words] of problem p of a plan, copied to the
/// host from wherever they lie. Waits for the work on context.stream.
FLEXPREFILL_EXPORT std::vector<HeadReport> read_reports(const Plan& plan, size_t p = 0,
                                                        const Context& context = {});
FLEXPREFILL_EXPORT std::vector<uint64_t> read_bits(const Plan& plan, size_t p = 0,
                                                   const Context& context = {});

/// Computes the blocks of the plan, or of the caller's own masks (one per problem): writes out, and
/// lse where given. The workspace needed is that of workspace_bytes() with any policy.
FLEXPREFILL_EXPORT void attend(std::span<const AttentionProblem> problems, const Plan& plan,
                               const AttendOptions& options, const Context& context);
FLEXPREFILL_EXPORT void attend(std::span<const AttentionProblem> problems,
                               std::span<const BlockMask> masks, const AttendOptions& options,
                               const Context& context);
FLEXPREFILL_EXPORT void attend(const AttentionProblem& problem, const Plan& plan,
                               const AttendOptions& options, const Context& context);
FLEXPREFILL_EXPORT void attend(const AttentionProblem& problem, const BlockMask& mask,
                               const AttendOptions& options, const Context& context);

/// plan() and attend() in one call.
FLEXPREFILL_EXPORT Plan prefill(std::span<const AttentionProblem> problems, const Policy& policy,
                                const AttendOptions& options, const Context& context);
FLEXPREFILL_EXPORT Plan prefill(const AttentionProblem& problem, const Policy& policy,
                                const Context& context);

}  // namespace flexprefill
