#pragma once

#include <span>
#include <string>
#include <string_view>

#include "flexprefill/backend.h"

namespace flexprefill::internal {

// Why a backend refuses the kind of attention asked for, if it has causal softmax attention and
// nothing beside it: names the field and its value. Empty = it is of that kind.
std::string kind_why_not(const AttentionProblem& problem);

// Why a host backend that computes plain causal attention over contiguous 16- and 32-bit tensors
// refuses the problem: names the field and its value. Empty = nothing here is in the way.
std::string plain_causal_why_not(std::string_view backend, const AttentionProblem& problem,
                                 std::span<const Policy> policies, const AttendOptions& options);

}  // namespace flexprefill::internal
