#ifndef FLEXPREFILL_C_API_H
#define FLEXPREFILL_C_API_H

/* The library for other languages: flexprefill.h as a C ABI.
 *
 *   problem (q, k, v)  --plan-->  block mask  --attend-->  out (+ log-sum-exp)
 *
 * Every struct starts with struct_size = sizeof(the struct) as the caller compiled it. The
 * functions flexprefill_default_*() below fill a struct with the defaults; change what you need. A
 * struct of another size is refused, so that a caller built for another ABI gets a message and not
 * a crash.
 *
 * A function that can fail returns a FlexprefillStatus and leaves its message in
 * flexprefill_last_error(). No exception leaves the library. On failure nothing is returned through
 * pointers; out and lse may have been written in part. All functions are thread-safe on distinct
 * workspaces and plans. Shapes stand in brackets, slowest dimension first. examples/quickstart.c is
 * a complete program. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "flexprefill/export.h"
#include "flexprefill/version.h"

/* Changes when a caller must be recompiled: with the major version, before 1.0.0 with the minor
 * one. */
#define FLEXPREFILL_ABI_VERSION \
  ((uint32_t)(FLEXPREFILL_VERSION_MAJOR * 1000 + FLEXPREFILL_VERSION_MINOR))

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(modernize-use-using): C has typedef alone */

typedef enum FlexprefillStatus {
  FLEXPREFILL_OK = 0,
  FLEXPREFILL_INVALID_ARGUMENT = 1, /* an argument breaks a rule, or no backend can run the call */
  FLEXPREFILL_OUT_OF_MEMORY = 2,
  FLEXPREFILL_INTERNAL_ERROR = 3
} FlexprefillStatus;

/* Element types. The 8-bit types are reserved: every backend refuses them by name today. */
typedef enum FlexprefillDType {
  FLEXPREFILL_F32 = 0,
  FLEXPREFILL_F16 = 1,
  FLEXPREFILL_BF16 = 2,
  FLEXPREFILL_F8_E4M3 = 3,
  FLEXPREFILL_F8_E5M2 = 4,
  FLEXPREFILL_I8 = 5
} FlexprefillDType;

typedef enum FlexprefillDevice { FLEXPREFILL_CPU = 0, FLEXPREFILL_CUDA = 1 } FlexprefillDevice;

/* Which kv head query head h reads. */
typedef enum FlexprefillGrouping {
  FLEXPREFILL_BLOCKED = 0,    /* h / (heads / kv_heads): neighbours share, as in Llama */
  FLEXPREFILL_INTERLEAVED = 1 /* h % kv_heads */
} FlexprefillGrouping;

typedef enum FlexprefillPolicyKind {
  FLEXPREFILL_DENSE = 0,
  FLEXPREFILL_A_SHAPE = 1,
  FLEXPREFILL_FLEX = 2
} FlexprefillPolicyKind;

typedef enum FlexprefillRule {
  FLEXPREFILL_RULE_OFFICIAL = 0, /* the block sets of the authors' code; needs q_len == kv_len */
  FLEXPREFILL_RULE_COVERAGE = 1  /* the probe rows keep at least gamma of their attention mass */
} FlexprefillRule;

/* What plan chose for a head. */
typedef enum FlexprefillPattern {
  FLEXPREFILL_PATTERN_DENSE = 0,
  FLEXPREFILL_PATTERN_A_SHAPE = 1,
  FLEXPREFILL_PATTERN_VERTICAL_SLASH = 2,
  FLEXPREFILL_PATTERN_QUERY_AWARE = 3
} FlexprefillPattern;

/* A view of [tokens, heads, head_dim]; owns nothing. Element (t, h, c) lies at
 * data + t * token_stride + h * head_stride + c. */
typedef struct FlexprefillTensor {
  uint32_t struct_size;
  uint32_t dtype;       /* FlexprefillDType */
  void* data;           /* aligned to the element; only out is written */
  int64_t tokens;       /* >= 0 */
  int32_t heads;        /* >= 1 */
  int32_t head_dim;     /* 1 .. 256; contiguous in memory */
  int64_t token_stride; /* elements, >= 0 */
  int64_t head_stride;  /* elements, >= 0 */
  const float* scale;   /* [heads] dequantisation scale of the 8-bit types, or null */
  uint32_t device;      /* FlexprefillDevice */
  int32_t device_index; /* number of the CUDA device; 0 for the CPU */
} FlexprefillTensor;

/* Attention of one sequence, or of one chunk of it. A batch is an array of these. The caller keeps
 * every tensor alive and unchanged until the call returns. */
typedef struct FlexprefillProblem {
  uint32_t struct_size;
  uint32_t grouping;            /* FlexprefillGrouping; default blocked */
  const FlexprefillTensor* q;   /* [q_len, heads, k.head_dim] */
  const FlexprefillTensor* k;   /* [kv_len, kv_heads, k.head_dim]; with pages: tokens = page_size */
  const FlexprefillTensor* v;   /* [kv_len, kv_heads, v.head_dim] */
  const FlexprefillTensor* out; /* [q_len, heads, v.head_dim]; may be null for plan */
  float* lse;                 /* [heads, q_len] natural log-sum-exp of the scaled scores, or null */
  int64_t q_start;            /* position of the first query relative to the first key */
  uint32_t has_q_start;       /* 0 (default): q_start = kv_len - q_len; 1: as given */
  float softmax_scale;        /* finite, > 0; 0 (default) = 1 / sqrt(k.head_dim) */
  const int32_t* block_table; /* [ceil(paged_kv_len / page_size)] page numbers; null = contiguous */
  int32_t page_size;          /* tokens per page; 0 (default) = contiguous */
  uint32_t causal;            /* 1 (default) or 0 */
  int64_t page_stride;        /* elements from one page to the next */
  int64_t paged_kv_len;       /* tokens in use when paged */
  const int32_t* q_len_device; /* true lengths on the device, or null */
  const int32_t* kv_len_device;
  int64_t window;            /* 0 (default) = no sliding window */
  const float* sinks;        /* [heads] extra logit in the softmax's denominator, or null */
  const float* alibi_slopes; /* [heads], or null */
  float softcap;             /* 0 (default) = none */
  uint32_t reserved;         /* 0 */
} FlexprefillProblem;

/* What plan is asked to do: kind says which of the fields count. */
typedef struct FlexprefillPolicy {
  uint32_t struct_size;
  uint32_t kind;        /* FlexprefillPolicyKind; default FLEXPREFILL_FLEX */
  int64_t sink_tokens;  /* A_SHAPE: >= 0, default 128 */
  int64_t local_tokens; /* A_SHAPE: >= 1, default 3968 */
  float gamma;          /* FLEX: (0, 1], default 0.9; share of the attention mass to keep */
  float tau;            /* FLEX: [0, 1], default 0.1; query-aware below this distance */
  int64_t min_budget;   /* FLEX: >= 0 tokens per line type and head, default 1024 */
  int64_t max_budget;   /* FLEX: >= 1 tokens per line type and head; 0 (default) = no limit */
  uint32_t rule;        /* FLEX: FlexprefillRule, default coverage */
  uint32_t reserved;    /* 0 */
} FlexprefillPolicy;

/* Where and with what a call runs. */
typedef struct FlexprefillContext {
  uint32_t struct_size;
  int32_t threads; /* CPU threads, [0, 4096]; 0 (default) = as many as OpenMP gives */
  void* workspace; /* at least flexprefill_workspace_bytes(); one per concurrent call */
  size_t workspace_bytes;
  void* stream; /* cudaStream_t; unused on the CPU */
  const char*
      backend; /* a name of flexprefill_backend_name(); null (default) = the best that accepts */
} FlexprefillContext;

/* How attend computes. */
typedef struct FlexprefillAttendOptions {
  uint32_t struct_size;
  uint32_t accumulate_f64;  /* 1: fp64 arithmetic, backend ref only; default 0 */
  uint32_t mean_correction; /* reserved: every backend refuses 1 by name today */
  uint32_t reserved;        /* 0 */
} FlexprefillAttendOptions;

/* Bit j % 64 of word [h, i, j / 64]: query block i of head h reads key block j. Row i covers the
 * absolute positions [128 I, 128 I + 128) with I = first_q_block + i. Blocks after I are in the
 * future: attend ignores their bits. */
typedef struct FlexprefillMask {
  uint32_t struct_size;
  int32_t heads;
  int32_t q_blocks;
  int32_t k_blocks;
  int32_t q_block; /* 128 */
  int32_t k_block; /* 128 */
  uint64_t* bits;  /* [heads, q_blocks, ceil(k_blocks / 64)]; null = every causal block */
  int64_t first_q_block;
} FlexprefillMask;

/* What plan decided for one head. */
typedef struct FlexprefillReport {
  uint32_t struct_size;
  uint32_t pattern;      /* FlexprefillPattern */
  int64_t kept_blocks;   /* blocks that attend will compute */
  int64_t causal_blocks; /* blocks that dense attention would compute */
  float coverage; /* mean kept attention mass of the probe rows, [0, 1]; NaN = not measured */
  float coverage_min_row;  /* the lowest probe row's; NaN = not measured */
  float divergence;        /* Jensen-Shannon distance, natural logarithm; NaN = not measured */
  uint32_t budget_limited; /* 1: max_budget ended the selection below gamma */
} FlexprefillReport;

/* A plan. Its bits and reports lie in the workspace of the call that made it and live as long. */
typedef struct FlexprefillPlan FlexprefillPlan;

/* NOLINTEND(modernize-use-using) */

/* The defaults of each struct, struct_size included. */
static inline FlexprefillProblem flexprefill_default_problem(void) {
  FlexprefillProblem problem;
  memset(&problem, 0, sizeof problem);
  problem.struct_size = sizeof problem;
  problem.causal = 1;
  return problem;
}

static inline FlexprefillPolicy flexprefill_default_policy(void) {
  FlexprefillPolicy policy;
  memset(&policy, 0, sizeof policy);
  policy.struct_size = sizeof policy;
  policy.kind = FLEXPREFILL_FLEX;
  policy.sink_tokens = 128;
  policy.local_tokens = 3968;
  policy.gamma = 0.9f;
  policy.tau = 0.1f;
  policy.min_budget = 1024;
  policy.rule = FLEXPREFILL_RULE_COVERAGE;
  return policy;
}

static inline FlexprefillContext flexprefill_default_context(void) {
  FlexprefillContext context;
  memset(&context, 0, sizeof context);
  context.struct_size = sizeof context;
  return context;
}

static inline FlexprefillAttendOptions flexprefill_default_attend_options(void) {
  FlexprefillAttendOptions options;
  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  return options;
}

static inline FlexprefillMask flexprefill_default_mask(void) {
  FlexprefillMask mask;
  memset(&mask, 0, sizeof mask);
  mask.struct_size = sizeof mask;
  return mask;
}

static inline FlexprefillReport flexprefill_default_report(void) {
  FlexprefillReport report;
  memset(&report, 0, sizeof report);
  report.struct_size = sizeof report;
  return report;
}

/* A view of a tensor [tokens, heads, head_dim] on the CPU without gaps. dtype: FlexprefillDType. */
static inline FlexprefillTensor flexprefill_tensor(void* data, uint32_t dtype, int64_t tokens,
                                                   int32_t heads, int32_t head_dim) {
  FlexprefillTensor tensor;
  memset(&tensor, 0, sizeof tensor);
  tensor.struct_size = sizeof tensor;
  tensor.dtype = dtype;
  tensor.data = data;
  tensor.tokens = tokens;
  tensor.heads = heads;
  tensor.head_dim = head_dim;
  tensor.token_stride = (int64_t)heads * head_dim;
  tensor.head_stride = head_dim;
  return tensor;
}

/* FLEXPREFILL_ABI_VERSION of the library that is linked. */
FLEXPREFILL_EXPORT uint32_t flexprefill_abi_version(void);

/* "major.minor.patch" of the library that is linked. */
FLEXPREFILL_EXPORT const char* flexprefill_version(void);

/* Message of the calling thread's last failed call: argument, value and rule. Empty before the
 * first failure; valid until the thread's next failure. Never null. */
FLEXPREFILL_EXPORT const char* flexprefill_last_error(void);

/* The backends, best first. FLEXPREFILL_BACKEND in the environment, read once, leaves only the one
 * it names; 0 backends mean that it names none (flexprefill_last_error() says so). Names and
 * descriptions live as long as the program; null for an index out of range. */
FLEXPREFILL_EXPORT int32_t flexprefill_num_backends(void);
FLEXPREFILL_EXPORT const char* flexprefill_backend_name(int32_t index);
FLEXPREFILL_EXPORT const char* flexprefill_backend_description(int32_t index);

/* Writes to *bytes the workspace that plan and attend need for problems [num_problems] with
 * policies [num_policies]: one policy for all heads, or one per query head. */
FLEXPREFILL_EXPORT FlexprefillStatus flexprefill_workspace_bytes(
    const FlexprefillProblem* problems, size_t num_problems, const FlexprefillPolicy* policies,
    size_t num_policies, const FlexprefillContext* context, size_t* bytes);

/* Decides which blocks to compute; reads q and k alone. Free *plan with flexprefill_plan_free(). */
FLEXPREFILL_EXPORT FlexprefillStatus flexprefill_plan(
    const FlexprefillProblem* problems, size_t num_problems, const FlexprefillPolicy* policies,
    size_t num_policies, const FlexprefillContext* context, FlexprefillPlan** plan);

/* Computes the blocks of a plan of the same problems: writes out, and lse where given.
 * options null = the defaults. */
FLEXPREFILL_EXPORT FlexprefillStatus flexprefill_attend(const FlexprefillProblem* problems,
                                                        size_t num_problems,
                                                        const FlexprefillPlan* plan,
                                                        const FlexprefillAttendOptions* options,
                                                        const FlexprefillContext* context);

/* The same with masks of the caller's own, one per problem. */
FLEXPREFILL_EXPORT FlexprefillStatus flexprefill_attend_masks(
    const FlexprefillProblem* problems, size_t num_problems, const FlexprefillMask* masks,
    const FlexprefillAttendOptions* options, const FlexprefillContext* context);

/* plan and attend in one call. plan null = do not return it; otherwise free *plan. */
FLEXPREFILL_EXPORT FlexprefillStatus flexprefill_prefill(
    const FlexprefillProblem* problems, size_t num_problems, const FlexprefillPolicy* policies,
    size_t num_policies, const FlexprefillAttendOptions* options, const FlexprefillContext* context,
    FlexprefillPlan** plan);

/* Null is allowed and does nothing. */
FLEXPREFILL_EXPORT void flexprefill_plan_free(FlexprefillPlan* plan);

/* Mask of one problem of the plan; mask->struct_size must be set. bits lie in the workspace. */
FLEXPREFILL_EXPORT FlexprefillStatus flexprefill_plan_mask(const FlexprefillPlan* plan,
                                                           size_t problem, FlexprefillMask* mask);

/* Report of one query head of one problem; report->struct_size must be set. */
FLEXPREFILL_EXPORT FlexprefillStatus flexprefill_plan_report(const FlexprefillPlan* plan,
                                                             size_t problem, int32_t head,
                                                             FlexprefillReport* report);

/* Name of the backend that planned; lives as long as the program. Null for a null plan. */
FLEXPREFILL_EXPORT const char* flexprefill_plan_backend(const FlexprefillPlan* plan);

/* The mask sizes of a problem that plan would accept, bits null; mask->struct_size must be set. */
FLEXPREFILL_EXPORT FlexprefillStatus flexprefill_block_grid(const FlexprefillProblem* problem,
                                                            FlexprefillMask* mask);

/* Writes to *share the fraction of the causal blocks that the mask computes, over all heads. */
FLEXPREFILL_EXPORT FlexprefillStatus flexprefill_computed_share(const FlexprefillMask* mask,
                                                                double* share);

#ifdef __cplusplus
}
#endif

#endif /* FLEXPREFILL_C_API_H */
