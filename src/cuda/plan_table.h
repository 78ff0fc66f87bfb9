#pragma once

// What the plan kernels know about a call: plain data, filled on the host (plan.cu), copied to the
// device once per call, and read by every kernel. Lengths may lie on the device, so whatever
// depends on them is derived there (shape_of). Compiles without CUDA: tests run the selection on
// the host.

#include <cstdint>

#include "cuda/lengths.h"
#include "flexprefill/backend.h"

#ifdef __CUDA_ARCH__
#define FLEXPREFILL_UNROLL_2 _Pragma("unroll 2")
#define FLEXPREFILL_UNROLL_16 _Pragma("unroll 16")
#else
#define FLEXPREFILL_UNROLL_2
#define FLEXPREFILL_UNROLL_16
#endif

namespace flexprefill::internal::cuda {

inline constexpr int32_t kPlanNoLimit = 0x7fffffff;

// A policy with its tokens counted in blocks.
struct PlanPolicy {
  enum Kind : int32_t { kDense, kAShape, kCoverage, kOfficial };
  Kind kind = kDense;
  float gamma = 0.0f, tau = 0.0f;
  int32_t min_blocks = 0, max_blocks = kPlanNoLimit;
  int64_t sink_blocks = 0, local_tokens = 0;  // kAShape
};

// What is known of one head between the kernels.
struct HeadState {
  Pattern pattern;   // kDense also for heads that are dense without scoring
  int32_t measured;  // scored: the report gives coverage and divergence
  unsigned long long kept_blocks;
  double divergence;
  // kOfficial, query-aware entries: those whose score's bits lie above cut_bits are kept, and the
  // first cut_entries (row by row) of those equal to it. Until all levels of the histogram are
  // read, cut_bits holds the leading bits and cut_mass the mass above them.
  uint32_t cut_bits;
  int32_t unranked;  // a weight is NaN: no entry is kept
  unsigned long long cut_mass, cut_entries;
};

// Scores of the probe rows per key block, one float per row: [k_blocks, kStatPlanes, 128].
// kCoverage: row maximum (log2 units), near and far sums; the first becomes the row mass.
// kOfficial: row mass (second pass), row maximum, row sum (both natural units; then diagonals).
inline constexpr int32_t kStatPlanes = 3, kMassPlane = 0;
inline constexpr int32_t kPlanRows = kBlock;  // probe rows, at most
inline constexpr int32_t kRowGroups = 8;      // parts that sums over a probe row are taken in

// Sums over probe rows per key block, [kSumPlanes, k_blocks]: those of the rows in the first block
// row of the probe (A) and in the second (B).
enum SumPlane : int32_t { kMassA, kMassB, kNearA, kNearB, kFarA, kFarB, kSumPlanes };

struct PlanProblem {
  // [tokens, heads, head_dim] in elements, as HeadView and KvView.
  const void* q;
  const void* k;
  int64_t q_token_stride, q_head_stride;
  int64_t k_token_stride, k_head_stride, page_stride;
  const int32_t* block_table;
  LengthSource source;
  float softmax_scale;
  int32_t page_size;
  int32_t heads, kv_heads, head_dim;
  int32_t q_blocks, k_blocks, row_words;  // of the mask
  bool interleaved, is_f16;
  bool q_aligned, k_aligned;  // rows can be read in units of 16 bytes

  uint64_t* bits;       // [heads, q_blocks, row_words]
  HeadReport* reports;  // [heads]

  // Scratch. Heads that share a kv head share its means.
  float* k_mean;  // [kv_heads, head_dim, k_blocks] mean key of each block, channels slowest
  float* official_k_mean;  // the same of keys rounded to bf16 before
  float* stats;            // [heads, stat_blocks, kStatPlanes, 128]; null = nothing is scored
  double* sums;            // [heads, kSumPlanes, k_blocks]
  float* vertical;         // [heads, k_blocks] mean mass of the key block
  float* pooled;           // [heads, k_blocks] the same as the block means estimate it
  float* slash;            // [heads, k_blocks + 2] mean mass of each distance bucket
  float* row_stats;        // [heads, 2, 128] maximum (log2 units) and 1 / sum of each probe row
  double* row_parts;       // [heads, 2, kRowGroups, 128] kept and total mass of each probe row
  uint64_t* lines;  // [heads, line_words] bit sets: kept columns, then kept offsets in reverse
  float* tokens;    // kOfficial: [heads, 2, 128 k_blocks] mean mass per key, per distance
  unsigned long long* histogram;  // kOfficial: [heads, 2, 1024] entries and mass by score
  uint32_t* row_ties;             // kOfficial: [heads, q_blocks] entries equal to the cut
  int32_t line_words;
  int32_t stat_blocks;  // the larger of q_blocks and k_blocks

  int32_t first_head;  // of this problem among all heads of the call
  int32_t first_score_item, first_row_item, first_block_row;  // likewise in the work of a launch
  int32_t heads_per_group;  // heads of a kv head that one block of a probe kernel scores
  int32_t head_groups;      // parts that the heads of a kv head are scored in
  int32_t tile_dim;         // head_dim as the probe kernels have it: 64, 96, 128, 192, 256
  int32_t score_chunks;     // parts that the key blocks are scored in

  // Row i of head h's mask.
  FLEXPREFILL_DEVICE_FN uint64_t* row(int32_t h, int32_t i) const {
    return bits + (int64_t{h} * q_blocks + i) * row_words;
  }
};

struct PlanTable {
  int32_t num_problems, num_policies;
  int32_t blocks_per_chunk;
  const PlanProblem* problems;  // [num_problems]
  const PlanPolicy* policies;   // [num_policies]
  HeadState* states;            // [heads of all problems]
};

FLEXPREFILL_DEVICE_FN int64_t plan_floor_div(int64_t a, int64_t b) {
  return a / b - (a % b < 0 ? 1 : 0);
}

FLEXPREFILL_DEVICE_FN int64_t plan_min(int64_t a, int64_t b) { return a < b ? a : b; }
FLEXPREFILL_DEVICE_FN int64_t plan_max(int64_t a, int64_t b) { return a > b ? a : b; }

// The true sizes of a problem, and what select.h derives from them.
struct PlanShape : Lengths {
  int64_t visible_keys;    // that the last query sees
  int32_t visible_blocks;  // of them
  int32_t probe_rows;
  int64_t first_position;  // of probe row 0
  int32_t first_seeing;    // probe rows before this one see no key
  int64_t first_bucket;    // slash buckets, see select.h
  int32_t buckets;

  // Probe rows that see keys.
  FLEXPREFILL_DEVICE_FN int32_t seeing_rows() const {
    return visible_keys == 0 ? 0 : probe_rows - first_seeing;
  }
  FLEXPREFILL_DEVICE_FN bool sees_keys(int32_t r) const {
    return visible_keys > 0 && r >= first_seeing && r < probe_rows;
  }
  // Keys that probe row r sees.
  FLEXPREFILL_DEVICE_FN int64_t seen(int32_t r) const {
    return plan_max(plan_min(first_position + r + 1, kv_len), 0);
  }
  // Block row of probe row r.
  FLEXPREFILL_DEVICE_FN int32_t block_row(int32_t r) const {
    return static_cast<int32_t>((first_position + r) / kBlock - first_q_block);
  }
  // Whether probe row r, which sees keys, lies in the second block row of those that do.
  FLEXPREFILL_DEVICE_FN bool in_second_row(int32_t r) const {
    return block_row(r) != block_row(first_seeing);
  }
  FLEXPREFILL_DEVICE_FN int64_t all_causal_blocks() const {
    // Rows I = first_q_block + i keep min(I + 1, k_blocks), those before the first key nothing.
    const int64_t begin = plan_max(first_q_block, 0), end = first_q_block + q_blocks;
    if (end <= begin) return 0;
    const int64_t full = plan_max(plan_min(end, k_blocks), begin);  // rows below grow by one each
    return (full - begin) * (begin + 1 + full) / 2 + (end - full) * k_blocks;
  }
};

FLEXPREFILL_DEVICE_FN PlanShape shape_of(const PlanProblem& p) {
  PlanShape s;
  static_cast<Lengths&>(s) = resolve(p.source);
  if (s.q_blocks > p.q_blocks) s.q_blocks = p.q_blocks;  // the mask holds no more
  const int64_t end = s.q_start + s.q_len;               // position after the last query
  s.visible_keys = s.q_len == 0 ? 0 : plan_max(plan_min(end, s.kv_len), 0);
  s.visible_blocks = static_cast<int32_t>((s.visible_keys + kBlock - 1) / kBlock);
  s.probe_rows = static_cast<int32_t>(plan_min(kPlanRows, s.q_len));
  s.first_position = end - s.probe_rows;
  s.first_seeing = static_cast<int32_t>(plan_max(plan_min(-s.first_position, s.probe_rows), 0));
  const int64_t position = plan_max(s.first_position, 0);
  s.first_bucket = plan_max(position - (s.kv_len - 1), 0) / kBlock;
  s.buckets =
      s.visible_keys == 0 ? 0 : static_cast<int32_t>((end - 1) / kBlock - s.first_bucket + 1);
  return s;
}

FLEXPREFILL_DEVICE_FN int32_t plan_kv_head(const PlanProblem& p, int32_t h) {
  return p.interleaved ? h % p.kv_heads : h / (p.heads / p.kv_heads);
}

FLEXPREFILL_DEVICE_FN const PlanPolicy& policy_of(const PlanTable& table, int32_t h) {
  return table.policies[table.num_policies == 1 ? 0 : h];
}

// Whether heads under this policy are decided by scores (and not dense for their length).
FLEXPREFILL_DEVICE_FN bool needs_scores(const PlanShape& s, const PlanPolicy& policy) {
  if (policy.kind == PlanPolicy::kOfficial) {
    return s.kv_len > plan_max(2, policy.min_blocks) * kBlock;
  }
  if (policy.kind != PlanPolicy::kCoverage || policy.gamma == 1.0f) return false;
  const int64_t least = plan_min(policy.min_blocks, policy.max_blocks);
  return s.visible_blocks > plan_max(2, 2 * least);
}

}  // namespace flexprefill::internal::cuda
