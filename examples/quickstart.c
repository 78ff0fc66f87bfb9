/* Causal attention over 4096 tokens from C, computing only the blocks that FlexPrefill chooses. */

#include <stdio.h>
#include <stdlib.h>

#include "flexprefill/c_api.h"

enum { kTokens = 4096, kHeads = 4, kKvHeads = 2, kHeadDim = 64 };

static float q[kTokens * kHeads * kHeadDim]; /* [tokens, heads, head_dim] */
static float k[kTokens * kKvHeads * kHeadDim];
static float v[kTokens * kKvHeads * kHeadDim];
static float out[kTokens * kHeads * kHeadDim];

static void fill(float* tensor, size_t count) {
  static uint32_t state = 1;
  for (size_t n = 0; n < count; ++n) {
    state = state * 1664525u + 1013904223u;
    tensor[n] = (float)(state >> 8) / (1 << 23) - 1.0f;
  }
}

static void check(FlexprefillStatus status) {
  if (status == FLEXPREFILL_OK) return;
  fprintf(stderr, "%s\n", flexprefill_last_error());
  exit(1);
}

int main(void) {
  fill(q, sizeof q / sizeof *q);
  fill(k, sizeof k / sizeof *k);
  fill(v, sizeof v / sizeof *v);
  /* Like most trained heads, these look at the first tokens whatever the query is. */
  for (size_t n = 0; n < sizeof q / sizeof *q; n += kHeadDim) q[n] = 16.0f;
  for (size_t n = 0; n < 4 * kKvHeads * kHeadDim; n += kHeadDim) k[n] = 8.0f;

  FlexprefillTensor q_view = flexprefill_tensor(q, FLEXPREFILL_F32, kTokens, kHeads, kHeadDim);
  FlexprefillTensor k_view = flexprefill_tensor(k, FLEXPREFILL_F32, kTokens, kKvHeads, kHeadDim);
  FlexprefillTensor v_view = flexprefill_tensor(v, FLEXPREFILL_F32, kTokens, kKvHeads, kHeadDim);
  FlexprefillTensor out_view = flexprefill_tensor(out, FLEXPREFILL_F32, kTokens, kHeads, kHeadDim);
  FlexprefillProblem problem = flexprefill_default_problem();
  problem.q = &q_view;
  problem.k = &k_view;
  problem.v = &v_view;
  problem.out = &out_view;

  FlexprefillPolicy policy = flexprefill_default_policy();
  policy.gamma = 0.9f;
  policy.min_budget = 256;
  FlexprefillContext context = flexprefill_default_context();
  check(flexprefill_workspace_bytes(&problem, 1, &policy, 1, &context, &context.workspace_bytes));
  context.workspace = malloc(context.workspace_bytes);
  if (context.workspace == NULL) return 1;

  FlexprefillPlan* plan = NULL;
  check(flexprefill_prefill(&problem, 1, &policy, 1, NULL, &context, &plan)); /* writes out */

  for (int32_t h = 0; h < kHeads; ++h) {
    FlexprefillReport report = flexprefill_default_report();
    check(flexprefill_plan_report(plan, 0, h, &report));
    printf("head %d: %lld of %lld blocks, %.3f of the attention mass\n", (int)h,
           (long long)report.kept_blocks, (long long)report.causal_blocks, report.coverage);
  }
  flexprefill_plan_free(plan);
  free(context.workspace);
  return 0;
}
