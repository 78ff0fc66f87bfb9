#pragma once

#include <cstdint>
#include <optional>
#include <variant>

namespace flexprefill {

/// Every causal block.
struct Dense {};

/// Fixed pattern: the first tokens and a window of local ones, both rounded outward to blocks.
struct AShape {
  int64_t sink_tokens = 128;    // >= 0; tokens at the start of the sequence that every query sees
  int64_t local_tokens = 3968;  // >= 1; most recent tokens that every query sees, itself included
};

/// How FlexPrefill counts; docs/algorithm.md derives both.
enum class Rule : uint8_t {
  kOfficial,  // the block sets of the authors' code, roundings included; needs q_len == kv_len
  kCoverage,  // gamma is a promise: the probe rows keep at least gamma of their attention mass
};

/// FlexPrefill (arXiv 2502.20766): per head, the blocks that hold a share gamma of the attention of
/// the last queries (the probe rows: the last min(128, q_len) of the problem, also of a chunk).
struct FlexPrefill {
  float gamma = 0.9f;  // (0, 1]; share of the attention mass to keep. 1 with kCoverage is Dense

  /// [0, 1]; a head is query-aware when the Jensen-Shannon distance (square root of the divergence,
  /// natural logarithm) between pooled and true block scores is below tau, else vertical-slash.
  /// 0 makes every head vertical-slash.
  float tau = 0.1f;

  int64_t min_budget = 1024;  // >= 0 tokens per line type (vertical, slash) and head
  std::optional<int64_t> max_budget = std::nullopt;  // >= 1 tokens per line type and head
  Rule rule = Rule::kCoverage;
};

/// What plan() is asked to do. Plain data; a span of policies gives one per query head.
using Policy = std::variant<Dense, AShape, FlexPrefill>;

}  // namespace flexprefill
