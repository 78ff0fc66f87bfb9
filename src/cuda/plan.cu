// Policies that look at no score: Dense and AShape.

#include "cuda/plan.h"

#include <variant>

#include "cuda/launch.cuh"
#include "cuda/lengths.cuh"

namespace flexprefill::internal::cuda {
namespace {

// One head of one problem: row I keeps the first sink_blocks blocks and the last local_blocks ones.
struct FixedHead {
  LengthSource lengths;
  DeviceMask mask;
  HeadReport* report;
  int32_t h;
  int32_t sink_blocks, local_blocks;  // local_blocks = INT32_MAX: every causal block
  Pattern pattern;
};

// Bits [begin, end) of the word whose first bit is `base`.
__device__ uint64_t bit_range(int64_t begin, int64_t end, int64_t base) {
  const int64_t low = max(begin - base, int64_t{0}), high = min(end - base, int64_t{64});
  if (low >= high) return 0;
  return (~uint64_t{0} >> (64 - (high - low))) << low;
}

__device__ uint64_t fixed_word(const FixedHead& head, const Lengths& lengths, int32_t i,
                               int32_t w) {
  if (i >= lengths.q_blocks) return 0;
  const int64_t diagonal = lengths.first_q_block + i;
  const int64_t end = lengths.causal_blocks(i);
  return bit_range(0, min(int64_t{head.sink_blocks}, end), int64_t{64} * w) |
         bit_range(max(diagonal - head.local_blocks + 1, int64_t{0}), end, int64_t{64} * w);
}

// One thread block.
__global__ void plan_fixed(const FixedHead head) {
  const Lengths lengths = resolve(head.lengths);
  __shared__ unsigned long long kept, causal;
  if (threadIdx.x == 0) kept = causal = 0;
  __syncthreads();
  const int32_t words = head.mask.row_words;
  unsigned long long my_kept = 0, my_causal = 0;
  for (int64_t n = threadIdx.x; n < int64_t{head.mask.q_blocks} * words; n += blockDim.x) {
    const auto i = static_cast<int32_t>(n / words), w = static_cast<int32_t>(n % words);
    const uint64_t word = fixed_word(head, lengths, i, w);
    head.mask.row(head.h, i)[w] = word;
    my_kept += __popcll(word);
    if (w == 0 && i < lengths.q_blocks) my_causal += lengths.causal_blocks(i);
  }
  atomicAdd(&kept, my_kept);
  atomicAdd(&causal, my_causal);
  __syncthreads();
  if (threadIdx.x != 0) return;
  HeadReport report;
  report.pattern = head.pattern;
  report.kept_blocks = static_cast<int64_t>(kept);
  report.causal_blocks = static_cast<int64_t>(causal);
  if (head.pattern == Pattern::kAShape) report.coverage = report.coverage_min_row = nanf("");
  report.divergence = nanf("");
  head.report[head.h] = report;
}

int32_t blocks_outward(int64_t tokens) {
  return static_cast<int32_t>(std::min<int64_t>((tokens + kBlock - 1) / kBlock, INT32_MAX));
}

}  // namespace

std::string plan_why_not(const AttentionProblem&, std::span<const Policy> policies) {
  for (const Policy& policy : policies) {
    if (std::holds_alternative<FlexPrefill>(policy)) return "policy = FlexPrefill: not planned yet";
  }
  return "";
}

size_t plan_scratch_bytes(std::span<const AttentionProblem>, std::span<const Policy>) { return 0; }

void plan_problems(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
                   std::span<const BlockMask> masks, std::span<HeadReport* const> reports,
                   std::span<std::byte>, const Context& context) {
  for (size_t p = 0; p < problems.size(); ++p) {
    for (int32_t h = 0; h < masks[p].heads; ++h) {
      const Policy& policy = policies[policies.size() == 1 ? 0 : static_cast<size_t>(h)];
      FixedHead head = {length_source(problems[p]),
                        device_mask(masks[p]),
                        reports[p],
                        h,
                        0,
                        INT32_MAX,
                        Pattern::kDense};
      if (const auto* shape = std::get_if<AShape>(&policy)) {
        head.pattern = Pattern::kAShape;
        head.sink_blocks = blocks_outward(shape->sink_tokens);
        // The first position of a row reaches furthest back: local keys of 128 I begin there.
        head.local_blocks = blocks_outward(shape->local_tokens + kBlock - 1);
      }
      launch("plan_fixed", plan_fixed,
             {.grid = 1, .block = 256, .stream = static_cast<cudaStream_t>(context.stream)}, head);
    }
  }
}

}  // namespace flexprefill::internal::cuda
