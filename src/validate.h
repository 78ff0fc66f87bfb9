#pragma once

// The one validation of calls; api.cc runs it before any backend sees the arguments.

#include <span>

#include "flexprefill/flexprefill.h"

namespace flexprefill::internal {

enum class CallKind { kPlan, kAttend };

// Throws Error naming argument, value and rule. kPlan does not look at out and lse.
void check_problem(const AttentionProblem& problem, size_t index, CallKind kind);

// One policy for all heads, or one per head of every problem.
void check_policies(std::span<const AttentionProblem> problems, std::span<const Policy> policies);

void check_mask(const AttentionProblem& problem, const BlockMask& mask, size_t index);

void check_context(const Context& context);

}  // namespace flexprefill::internal
