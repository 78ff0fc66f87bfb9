#pragma once

// Traces blocks that differ from Rule::kOfficial's reference to one decision: a list of what could
// have gone the other way, each with its margin and the bound of rounding, expanded and compared.

#include <optional>
#include <string>

#include "flexprefill/flexprefill.h"
#include "select_official.h"

namespace flexprefill::test {

struct Explanation {
  std::string decision;  // what went the other way, with its values
  double margin = 0.0;   // how near it was
  double bound = 0.0;    // how far rounding can move it
};

// What the reference decided for one head, and the spread that rounding can give its scores.
class OfficialTrace {
 public:
  OfficialTrace(const AttentionProblem& problem, const FlexPrefill& policy, int32_t h);

  // The blocks of the reference itself: row * k_blocks + column, ascending.
  std::vector<int32_t> blocks() const { return blocks_of(decisions_); }

  // The single decision that turns the reference's blocks into these, the nearest if several do.
  std::optional<Explanation> explain(const std::vector<int32_t>& blocks) const;

  const internal::OfficialDecisions& decisions() const { return decisions_; }

 private:
  using Decisions = internal::OfficialDecisions;

  struct Alternative {
    Decisions decisions;
    Explanation explanation;
  };

  std::vector<int32_t> blocks_of(const Decisions& decisions) const;
  Alternative other_pattern() const;
  std::vector<Alternative> other_counts(bool vertical) const;
  std::vector<Alternative> other_order(bool vertical) const;
  std::vector<Alternative> other_crossing() const;
  Explanation crossing(size_t n, size_t count) const;
  double weight_bound(const internal::QueryAwareEntry& entry) const;

  AttentionProblem problem_;
  FlexPrefill policy_;
  std::vector<std::byte> scratch_;
  internal::OfficialScores scores_;  // vertical and slash sorted
  Decisions decisions_;
  Decisions query_aware_;         // the same head, had it been query-aware
  double mass_bound_ = 0.0;       // of a mean column or diagonal
  double pooled_step_ = 0.0;      // bf16 step of the pooled estimate's logits
  std::vector<double> row_step_;  // [q_blocks] of each query block's logits
};

}  // namespace flexprefill::test
