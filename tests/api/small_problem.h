#pragma once

// A problem that owns its tensors, small enough to build in every test, and what a call throws.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "flexprefill/flexprefill.h"

namespace flexprefill {

struct SmallProblem {
  static constexpr int32_t kHeads = 4, kKvHeads = 2, kHeadDim = 16, kValueDim = 8;

  explicit SmallProblem(int64_t q_len = 300, int64_t kv_len = 300)
      : q(q_len * kHeads * kHeadDim),
        k(kv_len * kKvHeads * kHeadDim),
        v(kv_len * kKvHeads * kValueDim),
        out(q_len * kHeads * kValueDim),
        lse(q_len * kHeads) {
    uint32_t state = 1;
    for (auto* tensor : {&q, &k, &v}) {
      for (float& x : *tensor) {
        state = state * 1664525u + 1013904223u;
        x = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
      }
    }
    problem.q = head_view(q.data(), DType::kF32, q_len, kHeads, kHeadDim);
    problem.kv.k = head_view(k.data(), DType::kF32, kv_len, kKvHeads, kHeadDim);
    problem.kv.v = head_view(v.data(), DType::kF32, kv_len, kKvHeads, kValueDim);
    problem.out = head_view(out.data(), DType::kF32, q_len, kHeads, kValueDim);
    problem.lse = lse.data();
  }
  SmallProblem(const SmallProblem&) = delete;
  SmallProblem& operator=(const SmallProblem&) = delete;

  std::vector<float> q, k, v, out;  // [tokens, heads, head_dim]
  std::vector<float> lse;           // [heads, q_len]
  AttentionProblem problem;
};

// A context with a workspace of its own.
class OwnContext {
 public:
  explicit OwnContext(size_t bytes) : workspace_(bytes) {
    context.workspace = workspace_.data();
    context.workspace_bytes = workspace_.size();
  }
  OwnContext(const AttentionProblem& problem, const Policy& policy)
      : OwnContext(workspace_bytes(problem, policy)) {}

  Context context;

 private:
  std::vector<std::byte> workspace_;
};

// The message of the Error that call() throws, or "no error".
template <typename Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace flexprefill
