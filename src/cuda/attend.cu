// attend() on the host side: chooses the kernel of each problem, describes the problems to it, and
// launches prepare_attend and one kernel per combination of dtype and head dims.

#include "cuda/attend.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
#include <numeric>
#include <span>
#include <vector>

#include "cuda/attend_prepare.cuh"
#include "cuda/attend_sm90.cuh"
#include "cuda/launch.cuh"
#include "cuda/tensor_map.h"
#include "flexprefill/error.h"

namespace flexprefill::internal::cuda {
namespace {

constexpr double kLog2E = 1.44269504088896341;
// The number of pages of a pool is not known; the block table keeps loads inside.
constexpr int64_t kAnyPages = int64_t{1} << 31;
// next_tile of every kernel, before the problems.
constexpr size_t kCounterBytes = 256;

// Keys in a row that one copy can bring.
int32_t box_keys_of(const KvView& kv) {
  return kv.page_size > 0 ? std::gcd(kv.page_size, static_cast<int32_t>(kBlock)) : kBlock;
}

// A copy takes about as long for a few tokens as for many: below 16, plain loads are faster.
KeyCopies copies_of(const KvView& kv, int32_t tile_keys) {
  const int32_t box_keys = box_keys_of(kv);
  if (box_keys >= tile_keys) return KeyCopies::kTiles;
  const bool grouped =
      page_groups(kv.k, kv.page_stride) > 0 && page_groups(kv.v, kv.page_stride) > 0;
  return box_keys >= 16 && grouped ? KeyCopies::kPages : KeyCopies::kRows;
}

const AttendKernel* kernel_of(const AttentionProblem& problem) {
  for (const AttendKernel& kernel : attend_kernels()) {
    if (kernel.dtype == problem.q.dtype && kernel.head_dim == problem.q.head_dim &&
        kernel.v_head_dim == problem.kv.v.head_dim &&
        kernel.copies == copies_of(problem.kv, kernel.keys)) {
      return &kernel;
    }
  }
  return nullptr;
}

PagedRows paged_rows(const HeadView& view, int64_t page_stride) {
  return {view.data, view.token_stride, view.head_stride, page_stride};
}

std::string kernel_why_not(const AttentionProblem& problem) {
  const DType dtype = problem.q.dtype;
  if (dtype != DType::kBF16 && dtype != DType::kF16) {
    return "q.dtype = " + std::string(to_string(dtype)) + ": it reads f16 and bf16";
  }
  if (problem.kv.k.dtype != dtype) {
    return "kv.k.dtype = " + std::string(to_string(problem.kv.k.dtype)) +
           ": it takes q.dtype = " + std::string(to_string(dtype)) + " alone";
  }
  const HeadView& out = problem.out;
  if (out.data != nullptr && out.dtype != dtype) {
    return "out.dtype = " + std::string(to_string(out.dtype)) +
           ": it writes q.dtype = " + std::string(to_string(dtype)) + " alone";
  }
  if (kernel_of(problem) == nullptr) {
    return "q.head_dim = " + std::to_string(problem.q.head_dim) +
           " with v.head_dim = " + std::to_string(problem.kv.v.head_dim) +
           ": it has 64, 96, 128, 192 and 256, and 192 with 128";
  }
  return "";
}

std::string pages_why_not(const KvView& kv) {
  if (kv.page_size == 0) return "";
  const int64_t bytes = kv.page_stride * dtype_bytes(kv.k.dtype);
  if (bytes <= 0 || bytes % 16 != 0) {
    return "kv.page_stride = " + std::to_string(kv.page_stride) +
           ": it takes multiples of 16 bytes";
  }
  return "";
}

// Keys and values of this many bytes stay in the L2 (50 MB) beside what else passes.
constexpr int64_t kSectionBytes = 32 << 20;

// Of the keys and values of one kv head; never 0, as kv heads are counted by it.
int64_t kv_head_bytes(const AttentionProblem& problem) {
  const HeadView &k = problem.kv.k, &v = problem.kv.v;
  return std::max<int64_t>(1, kv_len(problem)) * (k.head_dim + v.head_dim) * dtype_bytes(k.dtype);
}

// More heads at once balance better, but only while their keys are read from memory once.
int32_t section_of(const AttentionProblem& problem) {
  return static_cast<int32_t>(
      std::clamp<int64_t>(kSectionBytes / kv_head_bytes(problem), 1, problem.kv.k.heads));
}

// What prepare_attend copies to the device. first_tile, g_order and lengths are filled in later.
AttendProblem describe(const AttentionProblem& problem, const BlockMask& mask,
                       const AttendKernel& kernel) {
  const KvView& kv = problem.kv;
  const bool paged = kv.page_size > 0;
  AttendProblem result = {};
  result.source = length_source(problem);
  result.mask = device_mask(mask);
  result.block_table = paged ? kv.block_table : nullptr;
  result.page_size = std::max(kv.page_size, 1);
  result.box_keys = box_keys_of(kv);
  result.k_rows = paged_rows(kv.k, kv.page_stride);
  result.v_rows = paged_rows(kv.v, kv.page_stride);
  result.g_out = problem.out.data;
  result.out_token_stride = problem.out.token_stride;
  result.out_head_stride = problem.out.head_stride;
  result.g_lse = problem.lse;
  result.lse_stride = problem.q.tokens;
  const double scale =
      problem.softmax_scale.value_or(1.0f / std::sqrt(static_cast<float>(problem.q.head_dim)));
  result.scale_log2 = static_cast<float>(std::min(scale * kLog2E, double{FLT_MAX}));
  result.group = problem.q.heads / kv.k.heads;
  result.kv_heads = kv.k.heads;
  result.section = section_of(problem);
  result.tile_blocks = mask.q_blocks;
  result.interleaved = problem.grouping == HeadGrouping::kInterleaved;

  const BoxShape k_box = {kernel.panel, kernel.head_dim / kernel.panel,
                          std::min(result.box_keys, kernel.keys)};
  const BoxShape v_box = {kernel.v_panel, kernel.v_head_dim / kernel.v_panel, k_box.rows};
  result.q_map = tensor_map(problem.q, {k_box.panel, k_box.panels, kBlock}, /*pages=*/1, 0);
  if (kv_len(problem) == 0) return result;
  if (kernel.copies == KeyCopies::kTiles) {
    const int64_t pages = paged ? kAnyPages : 1;
    result.k_map = tensor_map(kv.k, k_box, pages, kv.page_stride);
    result.v_map = tensor_map(kv.v, v_box, pages, kv.page_stride);
  } else if (kernel.copies == KeyCopies::kPages) {
    result.k_map = grouped_map(kv.k, k_box);
    result.v_map = grouped_map(kv.v, v_box);
    result.k_page_groups = static_cast<int32_t>(page_groups(kv.k, kv.page_stride));
    result.v_page_groups = static_cast<int32_t>(page_groups(kv.v, kv.page_stride));
  }
  return result;
}

// Query blocks times heads.
int64_t num_tiles(const BlockMask& mask) { return int64_t{mask.heads} * mask.q_blocks; }

// Whether a problem makes its call, of so many tiles, be sorted. Lists have to differ, and tiles be
// more than are computed at once. A short call gains at its end; where a kv head does not fit the
// L2, tiles gain that read the same keys together. Any other takes longer to sort than it gains.
bool is_worth_sorting(const AttentionProblem& problem, const BlockMask& mask, int64_t tiles) {
  const bool is_short = tiles <= kSortedTiles;
  return mask.bits != nullptr && tiles > kSms &&
         (is_short || kv_head_bytes(problem) > kSectionBytes);
}

// The problems of one kernel, longest keys first: what runs last should be short.
std::vector<size_t> problems_of(const AttendKernel& kernel,
                                std::span<const AttentionProblem> problems,
                                std::span<const BlockMask> masks) {
  std::vector<size_t> order;
  for (size_t p = 0; p < problems.size(); ++p) {
    if (masks[p].q_blocks > 0 && kernel_of(problems[p]) == &kernel) order.push_back(p);
  }
  std::ranges::stable_sort(order, std::greater<>(), [&](size_t p) { return kv_len(problems[p]); });
  return order;
}

// Tiles are counted in 32 bits.
void expect_few_enough(std::span<const BlockMask> masks) {
  int64_t tiles = 0;
  for (const BlockMask& mask : masks) tiles += num_tiles(mask);
  if (tiles > INT32_MAX) {
    throw Error("problems = " + std::to_string(tiles) +
                " query blocks times heads, expected at most 2^31 - 1 in a call");
  }
}

}  // namespace

std::string attend_why_not(const AttentionProblem& problem) {
  std::string why = kernel_why_not(problem);
  if (why.empty()) why = view_why_not("q", problem.q);
  if (why.empty()) why = view_why_not("kv.k", problem.kv.k);
  if (why.empty()) why = view_why_not("kv.v", problem.kv.v);
  if (why.empty() && problem.out.data != nullptr) why = view_why_not("out", problem.out);
  if (why.empty()) why = pages_why_not(problem.kv);
  return why;
}

size_t attend_scratch_bytes(std::span<const AttentionProblem> problems) {
  // Whether a call is sorted depends on its masks, which are not known here: every tile has a
  // place.
  int64_t tiles = 0;
  for (const AttentionProblem& problem : problems) tiles += num_tiles(block_grid(problem));
  return kCounterBytes + problems.size() * sizeof(AttendProblem) +
         static_cast<size_t>(tiles) * sizeof(int32_t);
}

void attend_problems(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks,
                     std::span<std::byte> scratch, const Context& context) {
  expect_few_enough(masks);
  const auto stream = static_cast<cudaStream_t>(context.stream);
  auto* next_tile = reinterpret_cast<int32_t*>(scratch.data());
  auto* g_problems = reinterpret_cast<AttendProblem*>(scratch.data() + kCounterBytes);
  static_assert(kCounterBytes % alignof(AttendProblem) == 0);
  auto* g_order = reinterpret_cast<int32_t*>(g_problems + problems.size());
  for (const AttendKernel& kernel : attend_kernels()) {
    const std::vector<size_t> order = problems_of(kernel, problems, masks);
    if (order.empty()) continue;
    int64_t tiles = 0;
    std::vector<AttendProblem> described;
    described.reserve(order.size());
    for (const size_t p : order) {
      described.push_back(describe(problems[p], masks[p], kernel));
      described.back().first_tile = static_cast<int32_t>(tiles);
      tiles += num_tiles(masks[p]);
    }
    // All problems or none: the kernel takes tiles from g_order or in ascending order.
    const bool sorts = std::ranges::any_of(
        order, [&](size_t p) { return is_worth_sorting(problems[p], masks[p], tiles); });
    if (sorts) {
      for (AttendProblem& problem : described) problem.g_order = g_order + problem.first_tile;
    }
    prepare_attend(described, g_problems, next_tile, stream);
    kernel.launch({.problems = g_problems,
                   .num_problems = static_cast<int32_t>(described.size()),
                   .num_tiles = static_cast<int32_t>(tiles),
                   .next_tile = next_tile,
                   .g_order = sorts ? g_order : nullptr},
                  stream);
    g_order += tiles;
    g_problems += described.size();
    ++next_tile;
  }
}

}  // namespace flexprefill::internal::cuda
