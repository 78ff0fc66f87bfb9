// The cpu backend: cuts calls into items, hands them to the threads, and calls the kernels of the
// instruction set in use. attend(): an item is a few query blocks that read the same keys.

#include "cpu/backend.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdlib>

#include "cpu/plan.h"
#include "cpu/scratch.h"
#include "cpu/threads.h"
#include "why_not.h"

namespace flexprefill::internal {
namespace {

// Query blocks of one problem and kv head, by number (blocks_of_kv_head()).
struct ItemRange {
  int32_t problem;
  int32_t g;
  int32_t first, count;
  int64_t blocks;  // key blocks to compute
};

int64_t count_query_blocks(std::span<const AttentionProblem> problems) {
  int64_t count = 0;
  for (const AttentionProblem& problem : problems) {
    const BlockMask grid = block_grid(problem);
    count += int64_t{grid.heads} * grid.q_blocks;
  }
  return count;
}

size_t attend_scratch_bytes(const Kernels& kernels, std::span<const AttentionProblem> problems) {
  size_t bytes = 0;
  for (const AttentionProblem& problem : problems) {
    bytes =
        std::max(bytes, kernels.attend_scratch_bytes(problem.kv.k.head_dim, problem.kv.v.head_dim));
  }
  return bytes;
}

int32_t computed_blocks(const BlockMask& mask, int32_t h, int32_t i) {
  const int32_t end = mask.causal_blocks(i);
  if (mask.bits == nullptr) return end;
  const uint64_t* const row = mask.row(h, i);
  int32_t count = 0;
  for (int32_t base = 0; base < end; base += 64) {
    const uint64_t word = row[base / 64];
    count += std::popcount(end - base < 64 ? word & ((uint64_t{1} << (end - base)) - 1) : word);
  }
  return count;
}

// The query blocks that read kv head g, counted from the last query block of its first head: heads
// of one query block side by side, because they keep the most key blocks in common.
int32_t blocks_of_kv_head(const BlockMask& mask, int32_t kv_heads) {
  return mask.heads / kv_heads * mask.q_blocks;
}

struct HeadAndBlock {
  int32_t h, i;
};

HeadAndBlock head_and_block(const AttentionProblem& problem, const BlockMask& mask, int32_t g,
                            int32_t n) {
  const int32_t group = mask.heads / problem.kv.k.heads;
  const int32_t member = n % group;
  const int32_t h = problem.grouping == HeadGrouping::kBlocked ? g * group + member
                                                               : g + member * problem.kv.k.heads;
  assert(kv_head(problem, h) == g);
  return {h, mask.q_blocks - 1 - n / group};
}

// Cuts the work into items, those of one kv head together (their keys stay in the cache), the
// dearest of a kv head first. Fewer query blocks an item where threads would wait for the last one.
std::span<ItemRange> list_items(std::span<const AttentionProblem> problems,
                                std::span<const BlockMask> masks, std::span<ItemRange> list,
                                int threads) {
  constexpr int64_t kItemsPerThread = 4;
  const auto size = static_cast<int32_t>(std::clamp<int64_t>(
      static_cast<int64_t>(list.size()) / (kItemsPerThread * threads), 1, kMaxQueryBlocks));
  size_t num_items = 0;
  for (size_t p = 0; p < masks.size(); ++p) {
    const int32_t kv_heads = problems[p].kv.k.heads;
    const int32_t count = blocks_of_kv_head(masks[p], kv_heads);
    for (int32_t g = 0; g < kv_heads; ++g) {
      const size_t begin = num_items;
      for (int32_t first = 0; first < count; first += size) {
        ItemRange range = {static_cast<int32_t>(p), g, first, std::min(size, count - first), 0};
        for (int32_t n = first; n < first + range.count; ++n) {
          const HeadAndBlock at = head_and_block(problems[p], masks[p], g, n);
          range.blocks += computed_blocks(masks[p], at.h, at.i);
        }
        list[num_items++] = range;
      }
      std::sort(list.begin() + static_cast<std::ptrdiff_t>(begin),
                list.begin() + static_cast<std::ptrdiff_t>(num_items),
                [](const ItemRange& a, const ItemRange& b) {
                  return a.blocks != b.blocks ? a.blocks > b.blocks : a.first < b.first;
                });
    }
  }
  return list.first(num_items);
}

QueryBlock query_block(const AttentionProblem& problem, const BlockMask& mask, HeadAndBlock at) {
  const auto [h, i] = at;
  const int64_t start = q_start(problem);
  const int64_t block_begin = int64_t{kBlock} * (mask.first_q_block + i);
  const int64_t begin = std::max(block_begin, start) - start;
  const int64_t end = std::min(block_begin + kBlock - start, problem.q.tokens);
  QueryBlock block = {};
  block.q = rows_of(problem.q, h, begin);
  const HeadView& out = problem.out;
  block.out = static_cast<char*>(out.data) +
              (begin * out.token_stride + h * out.head_stride) * dtype_bytes(out.dtype);
  block.out_stride = out.token_stride;
  block.lse = problem.lse == nullptr ? nullptr : problem.lse + h * problem.q.tokens + begin;
  block.bits = mask.bits == nullptr ? nullptr : mask.row(h, i);
  block.causal_blocks = mask.causal_blocks(i);
  block.rows = static_cast<int32_t>(end - begin);
  block.first_position = start + begin;
  return block;
}

AttendItem attend_item(const AttentionProblem& problem, const BlockMask& mask,
                       const ItemRange& range) {
  AttendItem item = {};
  item.k = rows_of(problem.kv.k, range.g, 0);
  item.v = rows_of(problem.kv.v, range.g, 0);
  item.out_dtype = problem.out.dtype;
  item.kv_len = kv_len(problem);
  item.head_dim = problem.kv.k.head_dim;
  item.v_head_dim = problem.kv.v.head_dim;
  item.scale_log2 = scale_log2_of(problem);
  item.num_query_blocks = range.count;
  for (int32_t n = 0; n < range.count; ++n) {
    item.query_blocks[n] =
        query_block(problem, mask, head_and_block(problem, mask, range.g, range.first + n));
  }
  return item;
}

// bf16 products serve 16-bit inputs: they cost f16 three bits of q, k and v (docs/kernels.md), at
// twice the speed. One fp32 input says that bits matter, and everything is multiplied in fp32.
bool uses_bf16(const Kernels& kernels, const AttentionProblem& problem) {
  const auto is_16_bit = [](const HeadView& view) { return dtype_bytes(view.dtype) == 2; };
  return kernels.attend_bf16 != nullptr && is_16_bit(problem.q) && is_16_bit(problem.kv.k) &&
         is_16_bit(problem.kv.v);
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(Isa isa) : isa_(isa), kernels_(kernels_of(isa)) {}

  std::string_view name() const override { return "cpu"; }

  std::string description() const override {
    return "vectorised for " + std::string(isa_name(isa_)) + ", OpenMP threads";
  }

  std::string why_not(const AttentionProblem& problem, std::span<const Policy> policies,
                      const AttendOptions& options) const override {
    std::string why = plain_causal_why_not(name(), problem, policies, options);
    if (why.empty() && options.accumulate_f64) {
      why = "cpu refuses AttendOptions.accumulate_f64 = true: it computes in fp32";
    }
    return why;
  }

  size_t scratch_bytes(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
                       int threads) const override {
    const size_t team = static_cast<size_t>(thread_count(threads));
    const size_t attend =
        align_scratch(sizeof(ItemRange) * static_cast<size_t>(count_query_blocks(problems))) +
        team * align_scratch(attend_scratch_bytes(kernels_, problems));
    const size_t plan = team * align_scratch(plan_scratch_bytes(kernels_, problems, policies));
    return std::max(attend, plan) + kScratchAlign;
  }

  void plan(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
            std::span<const BlockMask> masks, std::span<HeadReport* const> reports,
            std::span<std::byte> scratch, const Context& context) const override {
    plan_problems(kernels_, problems, policies, masks, reports, scratch, context);
  }

  void attend(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks,
              const AttendOptions&, std::span<std::byte> scratch,
              const Context& context) const override {
    const std::span<std::byte> memory = aligned_part(scratch);
    const size_t blocks = static_cast<size_t>(count_query_blocks(problems));
    const PerThread parts =
        split_scratch(memory.subspan(align_scratch(sizeof(ItemRange) * blocks)),
                      attend_scratch_bytes(kernels_, problems), thread_count(context.threads));
    const std::span<ItemRange> items = list_items(
        problems, masks, {reinterpret_cast<ItemRange*>(memory.data()), blocks}, parts.threads);
    for_each_item(parts.threads, static_cast<int64_t>(items.size()), [&](int thread, int64_t n) {
      const ItemRange& range = items[static_cast<size_t>(n)];
      const AttentionProblem& problem = problems[static_cast<size_t>(range.problem)];
      const AttendItem item =
          attend_item(problem, masks[static_cast<size_t>(range.problem)], range);
      const auto kernel = uses_bf16(kernels_, problem) ? kernels_.attend_bf16 : kernels_.attend_f32;
      kernel(item, parts.of(thread).data());
    });
  }

 private:
  Isa isa_;
  const Kernels& kernels_;
};

}  // namespace

const Backend* cpu_backend_for(Isa isa) {
  static const CpuBackend portable(Isa::kPortable), avx2(Isa::kAvx2), avx512(Isa::kAvx512),
      avx512bf16(Isa::kAvx512Bf16);
  assert(isa_supported(isa));
  switch (isa) {
    case Isa::kPortable: break;
    case Isa::kAvx2: return &avx2;
    case Isa::kAvx512: return &avx512;
    case Isa::kAvx512Bf16: return &avx512bf16;
  }
  return &portable;
}

const Backend* cpu_backend() {
  static const Isa isa = [] {
    // Nobody writes the environment from our side.
    const char* forced = std::getenv("FLEXPREFILL_CPU_ISA");  // NOLINT(concurrency-mt-unsafe)
    return choose_isa(forced == nullptr ? "" : forced);
  }();
  return cpu_backend_for(isa);
}

}  // namespace flexprefill::internal
