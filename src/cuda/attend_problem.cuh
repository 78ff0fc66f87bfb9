#pragma once

// What the attend kernels know of a call: one AttendProblem per problem, in device memory, written
// by prepare_attend just before.

#include <cuda.h>

#include <cstdint>

#include "cuda/lengths.h"

namespace flexprefill::internal::cuda {

// Rows of k or v as plain memory, for copies that are not TMA's. Strides in elements.
struct PagedRows {
  const void* g_data;
  int64_t token_stride, head_stride, page_stride;
};

// How keys and values reach shared memory.
enum class KeyCopies : uint8_t {
  kTiles,  // a copy per tile: contiguous tensors, pages of whole tiles
  kPages,  // a copy per page, or per part of one that tiles have in common
  kRows,   // 16 bytes at a time: pages of a few tokens
};

// Tiles that one block of threads brings in order (attend_order.cuh), four per thread: as many as
// keep their counts in registers.
constexpr int32_t kSortedTiles = 4096;

struct alignas(128) AttendProblem {
  CUtensorMap q_map, k_map, v_map;  // tensor_map.h has the dimensions

  LengthSource source;
  Lengths lengths;  // filled in by prepare_attend
  DeviceMask mask;
  const int32_t* block_table;  // [pages of this problem], or null: contiguous
  int32_t page_size;
  int32_t box_keys;  // tokens that one copy from k or v brings: divides page_size and kBlock
  int32_t k_page_groups, v_page_groups;  // KeyCopies::kPages: groups of eight tokens from a page to
                                         // the next
  PagedRows k_rows, v_rows;
  void* g_out;                                // [q_len, heads, v.head_dim]
  int64_t out_token_stride, out_head_stride;  // elements
  float* g_lse;                               // [heads, lse_stride], or null
  int64_t lse_stride;
  float scale_log2;  // softmax_scale log2(e)
  int32_t group;     // query heads per kv head
  int32_t kv_heads;
  int32_t section;      // kv heads whose keys and values stay in L2 together
  int32_t first_tile;   // in the order of the call: tiles of the problems before
  int32_t tile_blocks;  // query blocks per head, an upper bound
  bool interleaved;     // HeadGrouping
  int32_t* g_order;     // this problem's part of AttendCall::g_order, or null

  __host__ __device__ int32_t tiles() const { return group * kv_heads * tile_blocks; }
};

struct AttendCall {
  const AttendProblem* problems;  // [num_problems]
  int32_t num_problems;
  int32_t num_tiles;
  int32_t* next_tile;      // counts up from 0
  const int32_t* g_order;  // [num_tiles] tiles in the order they are taken, or null: ascending
};

// A query block of a head. A call's tiles go problem by problem, in each section by section of kv
// heads: long rows first, so that short ones fill the end, and heads that share keys side by side.
// Where it pays (is_worth_sorting() in attend.cu), attend_order.cuh sorts those of a problem within
// a section, kSortedTiles at a time.
struct TileId {
  int32_t h, g, i;
};

__host__ __device__ inline TileId tile_in_problem(const AttendProblem& problem, int32_t n) {
  const int32_t per_kv_head = problem.group * problem.tile_blocks;
  const int32_t first_g = n / (per_kv_head * problem.section) * problem.section;
  const int32_t left = problem.kv_heads - first_g;
  const int32_t row_heads = problem.group * (left < problem.section ? left : problem.section);
  const int32_t in_section = n - first_g * per_kv_head, in_row = in_section % row_heads;
  const int32_t g = first_g + in_row / problem.group, member = in_row % problem.group;
  return {problem.interleaved ? member * problem.kv_heads + g : g * problem.group + member, g,
          problem.tile_blocks - 1 - in_section / row_heads};
}

}  // namespace flexprefill::internal::cuda
