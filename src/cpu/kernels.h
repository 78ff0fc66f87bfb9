#pragma once

// What the per-instruction-set translation units (attend.cc, score_*.cc, mean.cc) offer the rest of
// the cpu backend: plain functions on plain data. Those units are compiled once per instruction
// set, so nothing here may make them emit a function that another unit shares: a linker could keep
// the AVX-512 copy.

#include <cstddef>
#include <cstdint>

#include "flexprefill/tensor.h"

namespace flexprefill::internal {

inline constexpr int kBlockTokens = 128;  // kBlock of block_mask.h, whose inline functions stay out
inline constexpr float kLog2E = 1.44269504088896341f;  // scores become exponents of base 2

// The tokens of one head: row t lies `stride` elements after row t - 1, channels are contiguous.
struct TokenRows {
  const void* data;  // [tokens, head_dim]
  DType dtype;
  int64_t stride;
};

// One query block of one head, and its row of the mask.
struct QueryBlock {
  TokenRows q;  // [rows, head_dim], row 0 = first query of the block
  void* out;    // [rows, v_head_dim]
  int64_t out_stride;
  float* lse;             // [rows] or null
  const uint64_t* bits;   // mask row; null = every causal block
  int32_t causal_blocks;  // bits from here on are ignored
  int32_t rows;           // 1 .. 128
  int64_t
      first_position;  // absolute position of row 0; row r sees the keys n <= first_position + r
};

inline constexpr int kMaxQueryBlocks = 4;  // 16 K of queries and 32 K of sums each, at 128 channels

// One unit of attend()'s work: query blocks that read the same keys, of several heads or of one,
// each against the key blocks of its own mask row. A query block's result does not depend on the
// others.
struct AttendItem {
  TokenRows k;  // [kv_len, head_dim]
  TokenRows v;  // [kv_len, v_head_dim]
  DType out_dtype;
  int64_t kv_len;
  int32_t head_dim;
  int32_t v_head_dim;
  float scale_log2;  // softmax_scale * log2(e)
  int32_t num_query_blocks;
  QueryBlock query_blocks[kMaxQueryBlocks];
};

// The probe rows of one head against its visible keys, for plan().
struct ScoreItem {
  TokenRows q;   // [rows, head_dim]
  TokenRows k;   // [keys, head_dim]
  int32_t rows;  // 1 .. 128
  int64_t
      first_position;  // absolute position of row 0; row r sees the keys n <= first_position + r
  int64_t keys;        // > 0; keys that the last row sees
  int32_t head_dim;
  float scale_log2;  // softmax_scale * log2(e); unused by kOfficial, which has its own
};

// What one key block gives the probe rows under kCoverage: the largest score of a row and, relative
// to it, the sum of exp(softmax_scale * score) of the keys at an offset in their block not beyond
// the row's own (distance bucket I - j), and of the others (bucket I - j - 1). A row that sees none
// of the keys has both sums 0.
struct BlockMass {
  float max[kBlockTokens];  // [rows], not yet scaled
  float near[kBlockTokens];
  float far[kBlockTokens];
};

// Where the scores of one head go under kCoverage.
struct CoverageMass {
  BlockMass* blocks;  // [ceil(keys / 128)] scratch
  float* row_mass;    // [rows, row_stride] mass of each of the blocks; 0 in rows that see no key
  int64_t row_stride;
  double* slash;  // [slash_buckets] mass by distance, added to what is there, not yet over the rows
  int64_t first_bucket;  // distance / 128 of the first
  int32_t slash_buckets;
  float* k_mean;  // [ceil(keys / 128), head_dim], or null: not wanted
};

// The entry points of one instruction set. `scratch` is 64-byte aligned and private to the thread.
struct Kernels {
  size_t (*attend_scratch_bytes)(int32_t head_dim, int32_t v_head_dim);
  void (*attend_f32)(const AttendItem& item, void* scratch);  // fp32 products: any input type
  void (*attend_bf16)(const AttendItem& item,
                      void* scratch);  // bf16 products; null = not in this set

  size_t (*score_scratch_bytes)(int32_t head_dim);
  void (*coverage_mass_f32)(const ScoreItem& item, const CoverageMass& mass, void* scratch);
  void (*coverage_mass_bf16)(const ScoreItem& item, const CoverageMass& mass,
                             void* scratch);  // or null

  // Rule::kOfficial, steps 1 to 3: means over the rows of P per key and per distance, and the mass
  // of each key block: vertical [keys], slash [keys], row_mass [rows, ceil(keys / 128)]; and the
  // mean of the rows bf16(q / sqrt(head_dim)), not yet rounded itself: probe_mean [head_dim].
  void (*official_mass)(const ScoreItem& item, float* vertical, float* slash, float* row_mass,
                        float* probe_mean, void* scratch);

  // mean[c] of tokens 0 .. count, each element first rounded to bf16 if asked; mean is [columns].
  void (*mean_of_tokens)(const TokenRows& tokens, int64_t count, int32_t columns, bool round,
                         float* mean);
};

}  // namespace flexprefill::internal
