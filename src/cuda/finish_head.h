#pragma once

// The last step of a head: Rule::kCoverage's top-up, heads that keep nearly everything filled, and
// the report. Team code (team.h).

#include "cuda/decide_head.h"

namespace flexprefill::internal::cuda {

inline constexpr int64_t kPlanFillPercent = 95;  // as in src/select_coverage.cc

struct FinishHead {
  const PlanProblem& p;
  const PlanShape& s;
  const HeadScores& x;
  int32_t h;
  double* share;  // [128] kept share of each probe row; shared memory, which measure() needs not

  FLEXPREFILL_DEVICE_FN uint64_t* row(int32_t i) const { return p.row(h, i); }
  FLEXPREFILL_DEVICE_FN int32_t first_row() const { return s.block_row(s.first_seeing); }
  FLEXPREFILL_DEVICE_FN int32_t rows() const {
    return s.block_row(s.probe_rows - 1) - first_row() + 1;
  }
  FLEXPREFILL_DEVICE_FN bool keeps(int32_t i, int32_t j) const {
    return ((row(i)[j / 64] >> (j % 64)) & 1) != 0;
  }

  FLEXPREFILL_DEVICE_FN double& kept_part(int32_t group, int32_t r) const {
    return x.row_parts[group * kPlanRows + r];
  }
  FLEXPREFILL_DEVICE_FN double& total_part(int32_t group, int32_t r) const {
    return kept_part(kRowGroups + group, r);
  }

  // Mass of probe row r, kept and in total, of the blocks in byte `group` of each mask word.
  FLEXPREFILL_DEVICE_FN void measure(int32_t group, int32_t r) const {
    static_assert(kRowGroups == 8);
    double kept = 0.0, total = 0.0;
    if (s.sees_keys(r)) {
      const uint64_t* const words = row(s.block_row(r));
      const int32_t end = seen_blocks(s, r);
      FLEXPREFILL_UNROLL_2
      for (int32_t first = 8 * group; first < end; first += 64) {
        const uint32_t byte = static_cast<uint32_t>(words[first / 64] >> (8 * group)) & 0xff;
        FLEXPREFILL_UNROLL_16
        for (int32_t b = 0; b < 8; ++b) {
          const double mass =
              first + b < end ? static_cast<double>(x.stat(first + b, kMassPlane)[r]) : 0.0;
          total += mass;
          if (((byte >> b) & 1) != 0) kept += mass;
        }
      }
    }
    kept_part(group, r) = kept;
    total_part(group, r) = total;
  }

  // The blocks that were added last to block row first_row() + part, [row_words]: where the head's
  // lines were.
  FLEXPREFILL_DEVICE_FN uint64_t* added(int32_t part) const {
    return part == 0 ? x.columns : x.offsets;
  }

  // Counts them as kept.
  template <typename Team>
  FLEXPREFILL_DEVICE_FN void measure_added(const Team& team) const {
    team.for_each(kRowGroups * kPlanRows, [&](int32_t n) {
      const int32_t r = n % kPlanRows, group = n / kPlanRows;
      if (!s.sees_keys(r)) return;
      const uint64_t* const words = added(s.block_row(r) - first_row());
      const int32_t end = seen_blocks(s, r);
      double kept = 0.0;
      for (int32_t first = 8 * group; first < end; first += 64) {
        const uint32_t byte = static_cast<uint32_t>(words[first / 64] >> (8 * group)) & 0xff;
        for (int32_t b = 0; byte >> b != 0; ++b) {
          if (((byte >> b) & 1) == 0 || first + b >= end) continue;
          kept += static_cast<double>(x.stat(first + b, kMassPlane)[r]);
        }
      }
      kept_part(group, r) += kept;
    });
  }

  // The kept share of every probe row that sees keys.
  template <typename Team>
  FLEXPREFILL_DEVICE_FN void take_shares(const Team& team) const {
    team.for_each(kPlanRows, [&](int32_t r) {
      double kept = 0.0, total = 0.0;
      for (int32_t group = 0; group < kRowGroups; ++group) {
        kept += kept_part(group, r);
        total += total_part(group, r);
      }
      share[r] = kept / total;
    });
  }

  template <typename Team>
  FLEXPREFILL_DEVICE_FN double share_sum(const Team& team) const {
    return team.sum(kPlanRows, [&](int32_t r) { return s.sees_keys(r) ? share[r] : 0.0; });
  }

  // Keys of the blocks that may be added, for each block row of the probe: 0 = kept already, in the
  // future, or beyond max_blocks. The lines are decided, so their scores' memory is free.
  FLEXPREFILL_DEVICE_FN uint32_t& candidate(int32_t part, int32_t j) const {
    return reinterpret_cast<uint32_t*>(part == 0 ? x.pooled : x.slash)[j];
  }
  // Numbered block row by block row, so that the lower row comes first among equals.
  FLEXPREFILL_DEVICE_FN uint32_t& candidate(int32_t n) const {
    return n < s.visible_blocks ? candidate(0, n) : candidate(1, n - s.visible_blocks);
  }

  template <typename Team>
  FLEXPREFILL_DEVICE_FN void list_candidates(const Team& team, const PlanPolicy& policy) const {
    for (int32_t part = 0; part < rows(); ++part) {
      const int32_t i = first_row() + part;
      team.for_each(s.visible_blocks, [&](int32_t j) {
        const bool may = j < s.causal_blocks(i) && !keeps(i, j);
        const double mass = x.sum(static_cast<SumPlane>(kMassA + part), j);
        candidate(part, j) = may ? score_key(static_cast<float>(mass)) : 0;
      });
    }
    if (policy.max_blocks == kPlanNoLimit) return;
    for (int32_t part = 0; part < rows(); ++part) {  // what max_budget leaves of them
      const auto keys = [&](int32_t j) { return candidate(part, j); };
      const CutRule rule = {0.0, policy.max_blocks, policy.max_blocks};
      const Cut limit = find_cut(team, s.visible_blocks, keys, rule);
      team.for_each(s.visible_blocks, [&](int32_t j) {
        if (!limit.keeps(candidate(part, j), j)) candidate(part, j) = 0;
      });
    }
  }

  // Sets the candidates of the cut; returns how many there were.
  template <typename Team>
  FLEXPREFILL_DEVICE_FN uint32_t add(const Team& team, const Cut& cut) const {
    for (int32_t part = 0; part < rows(); ++part) {
      const auto keeps = [&](int32_t j) {
        if (j >= s.visible_blocks) return false;
        const uint32_t key = candidate(part, j);
        return key != 0 && cut.keeps(key, part * s.visible_blocks + j);
      };
      team.store_bits(p.row_words, keeps, [&](int32_t w, uint64_t word) {
        added(part)[w] = word;
        row(first_row() + part)[w] |= word;
      });
    }
    return team.sum(rows() * s.visible_blocks, [&](int32_t n) {
      uint32_t& key = candidate(n);
      if (key == 0 || !cut.keeps(key, n)) return uint32_t{0};
      key = 0;
      return uint32_t{1};
    });
  }

  // Adds the heaviest blocks until the mean share of the probe rows reaches gamma; at most
  // max_blocks to a block row. Whether only max_blocks kept it from gamma; `added` counts blocks.
  template <typename Team>
  FLEXPREFILL_DEVICE_FN bool top_up(const Team& team, const PlanPolicy& policy,
                                    uint32_t& added) const {
    const double target = static_cast<double>(policy.gamma) * s.seeing_rows();
    double sum = share_sum(team);
    if (sum >= target) return false;
    list_candidates(team, policy);
    // The mass of a block is its gain up to rounding, as rows sum to 1; where that falls short of
    // the target, single blocks follow.
    CutRule rule;
    rule.target = (target - sum) * kMassUnits;
    while (true) {
      const auto keys = [&](int32_t n) { return candidate(n); };
      const uint32_t count = add(team, find_cut(team, rows() * s.visible_blocks, keys, rule));
      added += count;
      // Once no candidate is left rounding alone, or the limit, keeps the mean below gamma.
      if (count == 0) return policy.max_blocks != kPlanNoLimit;
      measure_added(team);
      take_shares(team);
      sum = share_sum(team);
      if (sum >= target) return false;
      rule = {0.0, 1, 1};
    }
  }

  template <typename Team>
  FLEXPREFILL_DEVICE_FN void fill(const Team& team) const {
    team.for_each(s.q_blocks * p.row_words, [&](int32_t n) {
      const int32_t i = n / p.row_words, w = n % p.row_words;
      row(i)[w] = bits_below(s.causal_blocks(i), w);
    });
  }
};

struct Minimum {
  double value = 1.0;
  FLEXPREFILL_DEVICE_FN Minimum& operator+=(const Minimum& other) {
    if (other.value < value) value = other.value;
    return *this;
  }
};

// Ends head h, whose rows are written and measured: `state` says what it is. A scored head may
// grow.
template <typename Team>
FLEXPREFILL_DEVICE_FN HeadReport finish_head(const Team& team, const PlanProblem& p,
                                             const PlanShape& s, const PlanPolicy& policy,
                                             const HeadScores& x, const HeadState& state, int32_t h,
                                             double* share) {
  HeadReport report;
  report.pattern = state.pattern;
  report.causal_blocks = s.all_causal_blocks();
  report.kept_blocks = static_cast<int64_t>(state.kept_blocks);
  report.divergence = NAN;
  if (state.measured == 0) {
    if (state.pattern != Pattern::kDense) report.coverage = report.coverage_min_row = NAN;
    return report;
  }
  report.divergence = static_cast<float>(state.divergence);
  const FinishHead head{p, s, x, h, share};
  head.take_shares(team);
  if (policy.kind == PlanPolicy::kCoverage) {
    uint32_t added = 0;
    report.budget_limited = head.top_up(team, policy, added);
    report.kept_blocks += added;
    if (report.kept_blocks * 100 >= report.causal_blocks * kPlanFillPercent) {
      head.fill(team);
      report.pattern = Pattern::kDense;
      report.kept_blocks = report.causal_blocks;
      report.budget_limited = false;
      return report;
    }
  }
  report.coverage = static_cast<float>(head.share_sum(team) / s.seeing_rows());
  const Minimum lowest =
      team.sum(kPlanRows, [&](int32_t r) { return Minimum{s.sees_keys(r) ? share[r] : 1.0}; });
  report.coverage_min_row = static_cast<float>(lowest.value);
  return report;
}

}  // namespace flexprefill::internal::cuda
