// Causal attention over 4096 tokens, computing only the blocks that FlexPrefill chooses.

#include <cstddef>
#include <cstdio>
#include <random>
#include <vector>

#include "flexprefill/flexprefill.h"

int main() {
  constexpr int64_t kTokens = 4096;
  constexpr int32_t kHeads = 8, kKvHeads = 2, kHeadDim = 64;

  // [tokens, heads, head_dim], as the projections of a transformer leave them.
  std::vector<float> q(kTokens * kHeads * kHeadDim), k(kTokens * kKvHeads * kHeadDim);
  std::vector<float> v(kTokens * kKvHeads * kHeadDim), out(kTokens * kHeads * kHeadDim);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (auto* tensor : {&q, &k, &v}) {
    for (float& x : *tensor) x = normal(random);
  }
  // Like most trained heads, these look at the first tokens whatever the query is.
  for (size_t n = 0; n < q.size(); n += kHeadDim) q[n] = 16.0f;
  for (size_t n = 0; n < 4 * kKvHeads * kHeadDim; n += kHeadDim) k[n] = 8.0f;

  namespace fp = flexprefill;
  fp::AttentionProblem problem;
  problem.q = fp::head_view(q.data(), fp::DType::kF32, kTokens, kHeads, kHeadDim);
  problem.kv.k = fp::head_view(k.data(), fp::DType::kF32, kTokens, kKvHeads, kHeadDim);
  problem.kv.v = fp::head_view(v.data(), fp::DType::kF32, kTokens, kKvHeads, kHeadDim);
  problem.out = fp::head_view(out.data(), fp::DType::kF32, kTokens, kHeads, kHeadDim);

  const fp::FlexPrefill policy{.gamma = 0.9f, .min_budget = 256};
  fp::Context context;
  std::vector<std::byte> workspace(fp::workspace_bytes(problem, policy, context));
  context.workspace = workspace.data();
  context.workspace_bytes = workspace.size();

  const fp::Plan plan = fp::prefill(problem, policy, context);  // writes out

  for (const fp::HeadReport& head : plan.report()) {
    std::printf("%s: %lld of %lld blocks, %.3f of the attention mass\n",
                fp::to_string(head.pattern).data(), static_cast<long long>(head.kept_blocks),
                static_cast<long long>(head.causal_blocks), head.coverage);
  }
}
