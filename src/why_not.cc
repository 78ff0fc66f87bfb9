#include "why_not.h"

#include <string>
#include <variant>

namespace flexprefill::internal {
namespace {

// What is wrong with a tensor, or empty.
std::string tensor_why_not(const std::string& name, const HeadView& view) {
  if (view.device.type != DeviceType::kCpu) return name + ".device = cuda: it computes on the CPU";
  if (dtype_bytes(view.dtype) < 2) {
    return name + ".dtype = " + std::string(to_string(view.dtype)) + ": it reads f32, f16 and bf16";
  }
  return "";
}

std::string field_why_not(const AttentionProblem& problem, const AttendOptions& options) {
  if (std::string why = kind_why_not(problem); !why.empty()) return why;
  if (problem.kv.page_size != 0) {
    return "kv.page_size = " + std::to_string(problem.kv.page_size) +
           ": it reads contiguous kv only";
  }
  if (problem.q_len_device != nullptr) return "q_len_device = set: it takes lengths from the views";
  if (problem.kv_len_device != nullptr)
    return "kv_len_device = set: it takes lengths from the views";
  if (options.mean_correction) return "AttendOptions.mean_correction = true: it has none";
  return "";
}

std::string policy_why_not(const AttentionProblem& problem, std::span<const Policy> policies) {
  const bool whole = problem.q.tokens == kv_len(problem) && q_start(problem) == 0;
  for (const Policy& policy : policies) {
    const auto* flex = std::get_if<FlexPrefill>(&policy);
    if (flex != nullptr && flex->rule == Rule::kOfficial && !whole) {
      return "FlexPrefill.rule = official: it is defined for q_len = kv_len and q_start = 0 only, "
             "not "
             "for q_len = " +
             std::to_string(problem.q.tokens) + ", kv_len = " + std::to_string(kv_len(problem)) +
             ", q_start = " + std::to_string(q_start(problem));
    }
  }
  return "";
}

}  // namespace

std::string kind_why_not(const AttentionProblem& problem) {
  if (!problem.causal) return "causal = false: it has causal attention only";
  if (problem.window != 0) {
    return "window = " + std::to_string(problem.window) + ": it has no sliding window";
  }
  if (problem.softcap != 0.0f) {
    return "softcap = " + std::to_string(problem.softcap) + ": it has no soft-cap";
  }
  if (problem.sinks != nullptr) return "sinks = set: it has no attention sinks";
  if (problem.alibi_slopes != nullptr) return "alibi_slopes = set: it has no ALiBi";
  return "";
}

std::string plain_causal_why_not(std::string_view backend, const AttentionProblem& problem,
                                 std::span<const Policy> policies, const AttendOptions& options) {
  std::string why = field_why_not(problem, options);
  if (why.empty()) why = tensor_why_not("q", problem.q);
  if (why.empty()) why = tensor_why_not("kv.k", problem.kv.k);
  if (why.empty()) why = tensor_why_not("kv.v", problem.kv.v);
  if (why.empty() && problem.out.data != nullptr) why = tensor_why_not("out", problem.out);
  if (why.empty()) why = policy_why_not(problem, policies);
  return why.empty() ? "" : std::string(backend) + " refuses " + why;
}

}  // namespace flexprefill::internal
