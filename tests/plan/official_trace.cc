#include "tests/plan/official_trace.h"

#include <algorithm>
#include <cmath>

#include "numeric.h"
#include "ref/score.h"

namespace flexprefill::test {
namespace {

constexpr double kF32Unit = 0x1p-24;

// Distance to the next bf16 value: what one rounding that falls the other way moves a logit by.
double bf16_step(double value) { return std::ldexp(1.0, std::ilogb(std::max(value, 1e-30)) - 7); }

double largest_probe_logit(const AttentionProblem& problem, int32_t h) {
  const auto head_dim = static_cast<size_t>(problem.q.head_dim);
  std::vector<float> q(head_dim), k(head_dim);
  const internal::ProbeRows probes = internal::probe_rows(problem);
  double largest = 0.0;
  for (int64_t r = 0; r < probes.count; ++r) {
    internal::load_row(problem.q, probes.first_position + r, h, q.data());
    for (int64_t n = 0; n <= probes.first_position + r; ++n) {
      internal::load_row(problem.kv.k, n, kv_head(problem, h), k.data());
      const double logit = internal::dot(q.data(), k.data(), head_dim) / std::sqrt(head_dim);
      largest = std::max(largest, std::abs(logit));
    }
  }
  return largest;
}

double sum_first(std::span<const float> sorted, int64_t count) {
  double sum = 0.0;
  for (int64_t n = 0; n < std::min<int64_t>(count, static_cast<int64_t>(sorted.size())); ++n) {
    sum += sorted[static_cast<size_t>(n)];
  }
  return sum;
}

std::string str(double value) { return std::to_string(value); }

std::string str(const internal::QueryAwareEntry& entry) {
  std::string text = "(";
  text += std::to_string(entry.i) + ", " + std::to_string(entry.j);
  return text += ")";
}

}  // namespace

OfficialTrace::OfficialTrace(const AttentionProblem& problem, const FlexPrefill& policy, int32_t h)
    : problem_(problem), policy_(policy) {
  internal::Arena counter;
  internal::score_official(problem, h, counter);
  scratch_.resize(counter.used_bytes());
  internal::Arena arena(scratch_);
  scores_ = internal::score_official(problem, h, arena);
  decisions_ = internal::decide_official(problem, policy, scores_);

  query_aware_ = decisions_;
  query_aware_.query_aware = true;
  const int32_t k_blocks = block_grid(problem).k_blocks;
  query_aware_.vertical_count = query_aware_.slash_count =
      std::clamp(internal::budget_blocks(policy.min_budget), 1, k_blocks);
  internal::decide_query_aware(problem, policy, scores_, query_aware_);

  // A weight p moves by at most step p (1 - p) <= step / 4 when one logit moves by a step; a mean
  // over the probe rows by that over their number. Sums of n terms <= 1 in fp32 add n units.
  const double step = bf16_step(largest_probe_logit(problem, h));
  mass_bound_ = step / 4 / kBlock + static_cast<double>(scores_.vertical.size()) * kF32Unit;

  const auto head_dim = static_cast<size_t>(problem.q.head_dim);
  const auto largest_pooled = [&](const float* q, int32_t blocks) {
    double largest = 0.0;
    for (size_t j = 0; j < static_cast<size_t>(blocks); ++j) {
      const double logit = internal::dot(q, &scores_.k_mean[j * head_dim], head_dim);
      largest = std::max(largest, std::abs(logit));
    }
    return largest;
  };
  pooled_step_ = bf16_step(largest_pooled(scores_.probe_mean.data(), k_blocks));
  for (int32_t i = 0; i < k_blocks; ++i) {
    const float* q = &scores_.q_mean[static_cast<size_t>(i) * head_dim];
    row_step_.push_back(bf16_step(largest_pooled(q, i + 1) / std::sqrt(head_dim)));
  }
}

double OfficialTrace::weight_bound(const internal::QueryAwareEntry& entry) const {
  const double p = entry.weight;
  return p * (1 - p) * row_step_[static_cast<size_t>(entry.i)] + kF32Unit;
}

std::vector<int32_t> OfficialTrace::blocks_of(const Decisions& decisions) const {
  BlockMask mask = block_grid(problem_);
  mask.heads = 1;
  std::vector<uint64_t> bits(static_cast<size_t>(mask.num_words()));
  mask.bits = bits.data();
  internal::expand_official(decisions, mask, 0);
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    mask.for_each_block(0, i, [&](int32_t j) { blocks.push_back(i * mask.k_blocks + j); });
  }
  return blocks;
}

std::optional<Explanation> OfficialTrace::explain(const std::vector<int32_t>& blocks) const {
  if (blocks == this->blocks()) return Explanation{.decision = "none differs"};
  std::vector<Alternative> alternatives = other_crossing();
  alternatives.push_back(other_pattern());
  for (const bool vertical : {true, false}) {
    for (auto& a : other_counts(vertical)) alternatives.push_back(std::move(a));
    for (auto& a : other_order(vertical)) alternatives.push_back(std::move(a));
  }
  std::optional<Explanation> nearest;
  for (const Alternative& a : alternatives) {
    const auto ratio = [](const Explanation& e) { return e.margin / e.bound; };
    if (nearest && ratio(*nearest) <= ratio(a.explanation)) continue;
    if (blocks_of(a.decisions) == blocks) nearest = a.explanation;
  }
  return nearest;
}

OfficialTrace::Alternative OfficialTrace::other_pattern() const {
  Alternative a;
  const double D = decisions_.divergence;
  a.explanation.decision = "divergence " + str(D) + " next to tau " + str(policy_.tau);
  a.explanation.margin = std::abs(D - static_cast<double>(policy_.tau));
  // One pooled logit moved by a step, and every column by its bound, near D: d(D) = d(D^2) / (2 D).
  a.explanation.bound = (pooled_step_ / 4 + mass_bound_) * std::log(2.0) / (2 * D);
  if (!decisions_.query_aware) {
    a.decisions = query_aware_;
  } else {
    const int32_t k_blocks = block_grid(problem_).k_blocks;
    a.decisions = decisions_;
    a.decisions.query_aware = false;
    a.decisions.vertical_count =
        internal::official_block_count(decisions_.vertical_tokens, policy_, k_blocks);
    a.decisions.slash_count =
        internal::official_block_count(decisions_.slash_tokens, policy_, k_blocks);
  }
  return a;
}

std::vector<OfficialTrace::Alternative> OfficialTrace::other_counts(bool vertical) const {
  std::vector<Alternative> alternatives;
  if (decisions_.query_aware) return alternatives;
  const auto& sorted = vertical ? scores_.vertical : scores_.slash;
  const int64_t tokens = vertical ? decisions_.vertical_tokens : decisions_.slash_tokens;
  const int32_t k_blocks = block_grid(problem_).k_blocks;
  const double gamma = static_cast<double>(policy_.gamma);
  // The nearest token counts that give one block more and one less.
  for (const int64_t other : {tokens / 128 * 128 + 128, tokens / 128 * 128 - 1}) {
    if (other < 1) continue;
    Alternative a{decisions_, {}};
    (vertical ? a.decisions.vertical_count : a.decisions.slash_count) =
        internal::official_block_count(other, policy_, k_blocks);
    // The count passes a multiple of 128 if the sum of one token less stays at or below gamma.
    const double sum = sum_first(sorted, other > tokens ? other - 1 : other);
    a.explanation = {std::string(vertical ? "vertical" : "slash") + " count " +
                         std::to_string(tokens) + " next to " + std::to_string(other),
                     std::abs(sum - gamma), mass_bound_};
    alternatives.push_back(std::move(a));
  }
  return alternatives;
}

std::vector<OfficialTrace::Alternative> OfficialTrace::other_order(bool vertical) const {
  std::vector<Alternative> alternatives;
  const auto& order = vertical ? decisions_.vertical : decisions_.slash;
  const auto count =
      static_cast<size_t>(vertical ? decisions_.vertical_count : decisions_.slash_count);
  for (size_t in = 1; in < count; ++in) {  // the first is forced
    for (size_t out = count; out < order.size(); ++out) {
      const double margin = static_cast<double>(order[in].score) - order[out].score;
      if (margin > mass_bound_) break;
      Alternative a{decisions_, {}};
      auto& swapped = vertical ? a.decisions.vertical : a.decisions.slash;
      std::swap(swapped[in], swapped[out]);
      a.explanation = {std::string(vertical ? "vertical block " : "slash offset ") +
                           std::to_string(order[in].index) + " next to " +
                           std::to_string(order[out].index) + " at the cut",
                       margin, mass_bound_};
      alternatives.push_back(std::move(a));
    }
  }
  return alternatives;
}

std::vector<OfficialTrace::Alternative> OfficialTrace::other_crossing() const {
  std::vector<Alternative> alternatives;
  if (!decisions_.query_aware) return alternatives;
  const auto& entries = decisions_.entries;
  const size_t kept = decisions_.kept_entries;
  // Entry n that the cut may treat as its neighbour `edge`: how far apart their weights are.
  const auto order = [&](size_t n, size_t edge) {
    return Explanation{"query-aware order of " + str(entries[n]) + " and " + str(entries[edge]),
                       std::abs(double{entries[n].weight} - double{entries[edge].weight}),
                       weight_bound(entries[n]) + weight_bound(entries[edge])};
  };
  // Keeps the alternative that `change` makes if rounding can turn both conditions.
  const auto add = [&](const Explanation& a, const Explanation& b, const auto& change) {
    if (a.margin > a.bound || b.margin > b.bound) return;
    Decisions decisions = decisions_;
    change(decisions);
    alternatives.push_back({std::move(decisions), a.margin / a.bound > b.margin / b.bound ? a : b});
  };

  // The crossing entry is the last kept one, or the first one dropped, or one as heavy as that.
  for (size_t n = 0; n < kept; ++n) {
    add(order(n, kept - 1), crossing(n, kept), [&](Decisions& decisions) {
      decisions.entries.erase(decisions.entries.begin() + static_cast<std::ptrdiff_t>(n));
      --decisions.kept_entries;
    });
  }
  for (size_t n = kept; n < entries.size(); ++n) {
    add(order(n, kept), crossing(n, kept + 1), [&](Decisions& decisions) {
      std::swap(decisions.entries[n], decisions.entries[kept]);
      ++decisions.kept_entries;
    });
  }
  // An entry inside in place of one outside.
  for (size_t in = 0; in < kept; ++in) {
    for (size_t out = kept; out < entries.size(); ++out) {
      const Explanation swapped = order(in, out);
      add(swapped, swapped,
          [&](Decisions& decisions) { std::swap(decisions.entries[in], decisions.entries[out]); });
    }
  }
  return alternatives;
}

// Entry n lies at the cut: the sum of the first `count` entries against the target.
Explanation OfficialTrace::crossing(size_t n, size_t count) const {
  const auto& entries = decisions_.entries;
  const double target =
      static_cast<double>(policy_.gamma) * static_cast<double>(block_grid(problem_).k_blocks);
  double sum = 0.0, bound = 0.0;
  for (const auto& entry : entries) bound = std::max(bound, weight_bound(entry));
  for (size_t m = 0; m < count; ++m) sum += entries[m].weight;
  bound += static_cast<double>(entries.size()) * kF32Unit * target;
  return {"query-aware crossing entry " + str(entries[n]) + ", sum " + str(sum) + " of target " +
              str(target),
          std::abs(sum - target), bound};
}

}  // namespace flexprefill::test
