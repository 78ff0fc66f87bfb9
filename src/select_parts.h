#pragma once

// Pieces that the selectors of both rules are made of.

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "select.h"

namespace flexprefill::internal {

inline constexpr int32_t kNoLimit = std::numeric_limits<int32_t>::max();

struct Scored {
  float score = 0.0f;
  int32_t index = 0;
};

// In as many parts as compilers need to keep vectors of them in registers.
template <typename Sum = float>
Sum dot(const float* a, const float* b, size_t n) {
  constexpr size_t kParts = 16;
  Sum parts[kParts] = {};
  size_t c = 0;
  for (; c + kParts <= n; c += kParts) {
    for (size_t x = 0; x < kParts; ++x) parts[x] += Sum{a[c + x]} * Sum{b[c + x]};
  }
  for (size_t x = 0; c < n; ++c, ++x) parts[x] += Sum{a[c]} * Sum{b[c]};
  Sum sum = 0;
  for (const Sum part : parts) sum += part;
  return sum;
}

int64_t floor_div(int64_t a, int64_t b);

// Tokens to blocks, rounded up; saturates at kNoLimit.
int32_t budget_blocks(int64_t tokens);
int32_t max_budget_blocks(const FlexPrefill& policy);  // kNoLimit when there is none

// All scores, largest first; equal ones by lower index. NaN counts as largest, as torch.sort has
// it.
std::vector<Scored> best_first(std::span<const float> scores);

// Jensen-Shannon distance (square root of the divergence, natural logarithm) of two distributions
// over blocks. `zero` is the value of 0 ln 0: 0, or NaN as the official code has it.
double js_distance(std::span<const float> a, std::span<const float> b, double zero);

// Mean and lowest share of its mass that a probe row keeps under the mask; 1 without valid rows.
struct Coverage {
  double mean = 1.0;
  double min_row = 1.0;
};

// What a probe row that sees keys keeps of its mass under the mask.
struct RowShare {
  int32_t r = 0;       // probe row
  int32_t i = 0;       // row of the mask that it lies in
  double total = 0.0;  // its mass, 1 up to rounding
  double kept = 0.0;   // share of that
};
std::vector<RowShare> kept_shares(const AttentionProblem& problem, std::span<const float> row_mass,
                                  const BlockMask& mask, int32_t h);
Coverage coverage_of(std::span<const RowShare> rows);

// Probe row r sees at least one key.
inline bool sees_keys(const AttentionProblem& problem, const ProbeRows& probes, int32_t r) {
  return probes.first_position + r >= 0 && kv_len(problem) > 0;
}

void clear_head(const BlockMask& mask, int32_t h);

// Pattern, counts and coverage of a finished head; NaN where the coverage is not measured.
HeadReport report_head(const BlockMask& mask, int32_t h, Pattern pattern,
                       const std::optional<Coverage>& coverage);

}  // namespace flexprefill::internal
