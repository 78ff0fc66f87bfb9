// plan() on the host side: lays out the scratch, describes the call in a table, and launches
//
//   copy_table -> score_coverage -> total_rows, combine_blocks -> decide
//     -> mean_queries, write_rows -> measure, finish
//
// docs/plan_cuda.md tells what each does. The table travels in kernel arguments: a copy from host
// memory would have to outlive a captured graph.

#include "cuda/plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <variant>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/plan_kernels.cuh"
#include "ref/arena.h"

namespace flexprefill::internal::cuda {
namespace {

constexpr size_t kScratchAlign = 256;

struct TablePart {
  uint32_t words[960];  // a short copy, for few problems; arguments may be longer
};

__global__ void copy_table(const __grid_constant__ TablePart part, uint32_t* to, int32_t words) {
  release_stream();  // whoever comes next reads nothing before it joins
  for (int32_t n = static_cast<int32_t>(threadIdx.x); n < words; n += blockDim.x) {
    to[n] = part.words[n];
  }
}

int32_t to_blocks(int64_t tokens) {
  return static_cast<int32_t>(std::min<int64_t>((tokens + kBlock - 1) / kBlock, kPlanNoLimit));
}

PlanPolicy plan_policy(const Policy& policy) {
  PlanPolicy result;
  if (const auto* shape = std::get_if<AShape>(&policy)) {
    result.kind = PlanPolicy::kAShape;
    result.sink_blocks = to_blocks(shape->sink_tokens);
    result.local_tokens = shape->local_tokens;
  } else if (const auto* flex = std::get_if<FlexPrefill>(&policy)) {
    result.kind = flex->rule == Rule::kOfficial ? PlanPolicy::kOfficial : PlanPolicy::kCoverage;
    result.gamma = flex->gamma;
    result.tau = flex->tau;
    result.min_blocks = to_blocks(flex->min_budget);
    if (flex->max_budget) result.max_blocks = to_blocks(*flex->max_budget);
  }
  return result;
}

// Whether every row of a view starts at a multiple of 16 bytes.
bool is_aligned(const HeadView& view, int64_t page_stride) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.token_stride % 8 == 0 &&
         view.head_stride % 8 == 0 && page_stride % 8 == 0;
}

PlanProblem plan_problem(const AttentionProblem& problem) {
  const BlockMask grid = block_grid(problem);
  const HeadView& q = problem.q;
  const HeadView& k = problem.kv.k;
  PlanProblem p = {};
  p.q = q.data;
  p.k = k.data;
  p.q_token_stride = q.token_stride;
  p.q_head_stride = q.head_stride;
  p.k_token_stride = k.token_stride;
  p.k_head_stride = k.head_stride;
  p.page_stride = problem.kv.page_stride;
  p.block_table = problem.kv.block_table;
  p.source = length_source(problem);
  p.softmax_scale =
      problem.softmax_scale.value_or(1.0f / std::sqrt(static_cast<float>(k.head_dim)));
  p.page_size = problem.kv.page_size;
  p.heads = q.heads;
  p.kv_heads = k.heads;
  p.head_dim = k.head_dim;
  p.q_blocks = grid.q_blocks;
  p.k_blocks = grid.k_blocks;
  p.row_words = grid.row_words();
  p.interleaved = problem.grouping == HeadGrouping::kInterleaved;
  p.is_f16 = q.dtype == DType::kF16;
  p.q_aligned = is_aligned(q, 0);
  p.k_aligned = is_aligned(k, problem.kv.page_size > 0 ? problem.kv.page_stride : 0);
  p.tile_dim = tile_dim(k.head_dim);
  p.heads_per_group = probe_heads(p.tile_dim);
  p.head_groups = (p.heads / p.kv_heads + p.heads_per_group - 1) / p.heads_per_group;
  return p;
}

// The longest a problem can be, whatever the lengths on the device.
PlanShape largest_shape(PlanProblem p) {
  p.source.q_len_device = p.source.kv_len_device = nullptr;
  return shape_of(p);
}

// A call, described and laid out in scratch.
struct Call {
  PlanTable table = {};
  PlanSizes sizes;
  std::vector<PlanProblem> problems;
  std::vector<PlanPolicy> policies;
  std::span<std::byte> table_bytes;  // on the device

  Call(std::span<const AttentionProblem> all, std::span<const Policy> per_head, Arena& arena) {
    for (const Policy& policy : per_head) policies.push_back(plan_policy(policy));
    for (const AttentionProblem& problem : all) problems.push_back(plan_problem(problem));
    table.num_problems = static_cast<int32_t>(problems.size());
    table.num_policies = static_cast<int32_t>(policies.size());
    table_bytes = arena.take<std::byte>(static_cast<int64_t>(sizeof(PlanTable) +
                                                             problems.size() * sizeof(PlanProblem) +
                                                             policies.size() * sizeof(PlanPolicy)));
    for (PlanProblem& p : problems) lay_out(p, arena);
    table.states = arena.take<HeadState>(sizes.heads).data();
    number_work();
  }

  bool scores(PlanPolicy::Kind rule) const {
    return std::any_of(policies.begin(), policies.end(), [&](const PlanPolicy& policy) {
      return policy.kind == rule && std::any_of(problems.begin(), problems.end(), [&](auto& p) {
               return needs_scores(largest_shape(p), policy);
             });
    });
  }

 private:
  void lay_out(PlanProblem& p, Arena& arena) {
    sizes.heads += p.heads;
    sizes.max_k_blocks = std::max(sizes.max_k_blocks, p.k_blocks);
    const PlanShape shape = largest_shape(p);
    const bool scored =
        std::any_of(policies.begin(), policies.end(),
                    [&](const PlanPolicy& policy) { return needs_scores(shape, policy); });
    if (!scored) return;
    sizes.tiles |= tile_class(p.is_f16, p.tile_dim);
    const int64_t heads = p.heads, blocks = p.k_blocks;
    p.line_words = p.row_words + (p.k_blocks + 3 + 63) / 64;
    p.k_mean = arena.take<float>(p.kv_heads * p.head_dim * blocks).data();
    // Apart from those of kCoverage, which must not depend on other heads' rules.
    p.official_k_mean = p.k_mean;
    const bool official = has(PlanPolicy::kOfficial);
    if (official && has(PlanPolicy::kCoverage)) {
      p.official_k_mean = arena.take<float>(p.kv_heads * p.head_dim * blocks).data();
    }
    p.stat_blocks = std::max(p.q_blocks, p.k_blocks);
    p.stats = arena.take<float>(heads * p.stat_blocks * kStatPlanes * kPlanRows).data();
    p.row_stats = arena.take<float>(heads * 2 * kPlanRows).data();
    p.row_parts = arena.take<double>(heads * 2 * kRowGroups * kPlanRows).data();
    p.sums = arena.take<double>(heads * kSumPlanes * blocks).data();
    p.vertical = arena.take<float>(heads * blocks).data();
    p.pooled = arena.take<float>(heads * blocks).data();
    p.slash = arena.take<float>(heads * (blocks + 2)).data();
    p.lines = arena.take<uint64_t>(heads * p.line_words).data();
    if (!official) return;
    p.tokens = arena.take<float>(heads * 2 * blocks * kBlock).data();
    p.histogram = arena.take<unsigned long long>(heads * 2 * 1024).data();
    p.row_ties = arena.take<uint32_t>(heads * p.q_blocks).data();
  }

  bool has(PlanPolicy::Kind kind) const {
    return std::any_of(policies.begin(), policies.end(),
                       [&](const PlanPolicy& policy) { return policy.kind == kind; });
  }

  // Cuts the probe kernels' work into as many parts as run at once, and the rows into items.
  void number_work() {
    table.blocks_per_chunk = blocks_per_chunk();
    // Rows that share a pass over the mean keys; as many as fit beside each other.
    sizes.rows_per_item = 16;
    if (scores(PlanPolicy::kCoverage) || scores(PlanPolicy::kOfficial)) {
      if (sizes.max_k_blocks < 512) sizes.rows_per_item = 8;  // enough items for every SM
      if (sizes.max_k_blocks > 3000) sizes.rows_per_item = 6;
      if (sizes.max_k_blocks > 8900) sizes.rows_per_item = 4;
      if (sizes.max_k_blocks > 13000) sizes.rows_per_item = 1;
    }
    int32_t head = 0;
    for (PlanProblem& p : problems) {
      p.score_chunks =
          std::max(1, (p.k_blocks + table.blocks_per_chunk - 1) / table.blocks_per_chunk);
      p.first_head = head;
      p.first_score_item = sizes.score_items;
      p.first_row_item = sizes.row_items;
      p.first_block_row = sizes.block_rows;
      sizes.block_rows += p.heads * p.q_blocks;
      head += p.heads;
      sizes.score_items += parts(p) * p.score_chunks;
      sizes.row_items += p.heads * ((p.q_blocks + sizes.rows_per_item - 1) / sizes.rows_per_item);
    }
  }

  // Key blocks of a score item, so that all items run at once and are equally long. Where short
  // problems alone are more items than that, shorter ones, so that the last to end are short.
  int32_t blocks_per_chunk() const {
    int64_t blocks = 0;
    for (const PlanProblem& p : problems) blocks += int64_t{parts(p)} * p.k_blocks;
    const int32_t slots = score_slots();
    const int64_t even = std::max<int64_t>(1, (blocks + slots - 1) / slots);
    int64_t chunk = even;
    while (chunk < 2 * even && score_items(chunk) > slots) ++chunk;
    if (score_items(chunk) > slots) chunk = std::max<int64_t>(1, even / 2);
    return static_cast<int32_t>(std::min<int64_t>(chunk, 1 << 20));
  }

  // Blocks of score_coverage that run at once: with 64 channels two per SM.
  int32_t score_slots() const {
    const uint32_t small = tile_class(/*is_f16=*/false, 64) | tile_class(/*is_f16=*/true, 64);
    return (sizes.tiles & ~small) == 0 ? 2 * kSms : kSms;
  }

  // Score items of a chunk of keys; none of a problem that is not scored.
  static int32_t parts(const PlanProblem& p) {
    return p.stat_blocks == 0 ? 0 : p.kv_heads * p.head_groups;
  }

  int64_t score_items(int64_t chunk) const {
    int64_t items = 0;
    for (const PlanProblem& p : problems) items += parts(p) * ((p.k_blocks + chunk - 1) / chunk);
    return items;
  }
};

std::span<std::byte> aligned(std::span<std::byte> memory) {
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  return memory.subspan((kScratchAlign - address % kScratchAlign) % kScratchAlign);
}

// Copies the table to the device; its pointers are those of the copy.
const PlanTable* store_table(Call& call, cudaStream_t stream) {
  std::byte* const to = call.table_bytes.data();
  const size_t problem_bytes = call.problems.size() * sizeof(PlanProblem);
  const size_t policy_bytes = call.policies.size() * sizeof(PlanPolicy);
  call.table.problems = reinterpret_cast<PlanProblem*>(to + sizeof(PlanTable));
  call.table.policies = reinterpret_cast<PlanPolicy*>(to + sizeof(PlanTable) + problem_bytes);
  std::vector<std::byte> bytes(call.table_bytes.size());
  std::memcpy(bytes.data(), &call.table, sizeof(PlanTable));
  std::memcpy(bytes.data() + sizeof(PlanTable), call.problems.data(), problem_bytes);
  std::memcpy(bytes.data() + sizeof(PlanTable) + problem_bytes, call.policies.data(), policy_bytes);
  for (size_t begin = 0; begin < bytes.size(); begin += sizeof(TablePart)) {
    TablePart part;
    const size_t size = std::min(sizeof(TablePart), bytes.size() - begin);
    std::memcpy(&part, bytes.data() + begin, size);
    launch("copy_table", copy_table, {.grid = 1, .block = 256, .stream = stream}, part,
           reinterpret_cast<uint32_t*>(to + begin), static_cast<int32_t>(size / 4));
  }
  return reinterpret_cast<const PlanTable*>(to);
}
static_assert(sizeof(PlanTable) % 8 == 0 && sizeof(PlanProblem) % 8 == 0 &&
              sizeof(PlanPolicy) % 8 == 0);

}  // namespace

std::string plan_why_not(const AttentionProblem& problem, std::span<const Policy> policies) {
  constexpr int32_t kMaxBlocks = 50000;  // a row of weights must fit shared memory
  if (block_grid(problem).k_blocks > kMaxBlocks) {
    return "kv_len = " + std::to_string(kv_len(problem)) + ": it plans at most " +
           std::to_string(int64_t{kMaxBlocks} * kBlock) + " keys";
  }
  const bool whole = problem.q.tokens == kv_len(problem) && q_start(problem) == 0;
  for (const Policy& policy : policies) {
    const auto* flex = std::get_if<FlexPrefill>(&policy);
    if (flex == nullptr) continue;
    if (flex->rule == Rule::kOfficial && !whole) {
      return "FlexPrefill.rule = official: it is defined for q_len = kv_len and q_start = 0 only, "
             "not for q_len = " +
             std::to_string(problem.q.tokens) + ", kv_len = " + std::to_string(kv_len(problem)) +
             ", q_start = " + std::to_string(q_start(problem));
    }
    if (dtype_bytes(problem.q.dtype) != 2 || problem.q.dtype != problem.kv.k.dtype) {
      return "q.dtype = " + std::string(to_string(problem.q.dtype)) +
             ", kv.k.dtype = " + std::string(to_string(problem.kv.k.dtype)) +
             ": it plans from f16 or bf16, the same for both";
    }
  }
  return "";
}

size_t plan_scratch_bytes(std::span<const AttentionProblem> problems,
                          std::span<const Policy> policies) {
  Arena counter;
  Call(problems, policies, counter);
  return counter.used_bytes() + kScratchAlign;
}

void plan_problems(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
                   std::span<const BlockMask> masks, std::span<HeadReport* const> reports,
                   std::span<std::byte> scratch, const Context& context) {
  if (problems.empty()) return;
  Arena arena(aligned(scratch));
  Call call(problems, policies, arena);
  for (size_t n = 0; n < problems.size(); ++n) {
    call.problems[n].bits = masks[n].bits;
    call.problems[n].reports = reports[n];
  }
  if (call.sizes.heads == 0) return;
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const PlanTable* const table = store_table(call, stream);
  const bool coverage = call.scores(PlanPolicy::kCoverage);
  if (coverage) {
    launch_score_coverage(table, call.sizes, stream);
    launch_combine(table, call.sizes, stream);
  }
  launch_decide(table, call.sizes, coverage, stream);
  const bool official = call.scores(PlanPolicy::kOfficial);
  if (official) {
    launch_score_official(table, call.sizes, stream);
    launch_decide_official(table, call.sizes, stream);
  }
  if (coverage) launch_mean_queries(table, call.sizes, stream);
  if (call.sizes.row_items > 0) launch_rows(table, call.sizes, stream);
  if (official) launch_entries_official(table, call.sizes, stream);
  launch_finish(table, call.sizes, stream);
}

}  // namespace flexprefill::internal::cuda
