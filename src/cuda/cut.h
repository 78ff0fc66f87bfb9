#pragma once

// Selection without sorting. Scores are non-negative floats, so their bits order them; the smallest
// set of largest scores that suffices is found by bisecting the bits of the lowest score kept, and
// among equals by bisecting the index. Masses are summed in fixed point: any order gives the same
// bits. Run by a team (team.h): a warp, a block of threads, or one host thread.

#include <bit>
#include <cstdint>

#include "cuda/plan_table.h"

namespace flexprefill::internal::cuda {

// Bits of a score plus one; 0 stands for "not there". NaN counts as largest.
FLEXPREFILL_DEVICE_FN uint32_t score_key(float score) {
#ifdef __CUDA_ARCH__
  const uint32_t bits = __float_as_uint(score);
#else
  const uint32_t bits = std::bit_cast<uint32_t>(score);
#endif
  constexpr uint32_t kInfinity = 0x7f800000u;
  if ((bits & 0x7fffffffu) > kInfinity) return kInfinity + 1;
  return (bits >> 31) != 0 ? 1 : bits + 1;  // -0; nothing else is negative
}

// Units of fixed-point mass. 2^-40 of a probability is below what fp32 scores resolve, and 128 rows
// times 2^20 entries fit 64 bits.
inline constexpr double kMassUnits = 0x1p40;

// The mass of a score in fixed point, from its key: rounded down, at most 2^23 (infinities alike).
FLEXPREFILL_DEVICE_FN uint64_t mass_of_key(uint32_t key) {
  if (key <= 1) return 0;
  const uint32_t bits = key - 1;
  const int32_t shift = static_cast<int32_t>(bits >> 23) - 110;  // 2^-150 mantissa units * 2^40
  const uint64_t mantissa = (bits & 0x7fffffu) | 0x800000u;
  if (shift > 39) return uint64_t{1} << 63;
  return shift >= 0 ? mantissa << shift : shift > -24 ? mantissa >> -shift : 0;
}

struct Tally {
  uint64_t mass = 0;
  uint32_t count = 0;

  FLEXPREFILL_DEVICE_FN Tally& operator+=(const Tally& other) {
    mass += other.mass;
    count += other.count;
    return *this;
  }
};

// What a set must reach: the target and the least count, unless the most is reached before.
struct CutRule {
  double target = 0.0;  // in units of kMassUnits
  int32_t min_count = 0;
  int32_t max_count = kPlanNoLimit;

  FLEXPREFILL_DEVICE_FN bool suffices(const Tally& tally) const {
    return static_cast<int64_t>(tally.count) >= max_count ||
           (static_cast<int64_t>(tally.count) >= min_count &&
            static_cast<double>(tally.mass) >= target);
  }
};

// Keeps the keys above `key`, and of those equal to it the ones with an index below `index_end`.
struct Cut {
  uint32_t key = 0;
  int32_t index_end = 0;

  FLEXPREFILL_DEVICE_FN bool keeps(uint32_t k, int32_t index) const {
    return k > key || (k == key && index < index_end);
  }
};

// The cut that keeps every key.
FLEXPREFILL_DEVICE_FN Cut keep_all() { return {0, 0}; }

template <typename Team, typename Keys>
FLEXPREFILL_DEVICE_FN Tally tally_from(const Team& team, int32_t n, const Keys& keys,
                                       uint32_t least) {
  return team.sum(n, [&](int32_t x) {
    const uint32_t key = keys(x);
    Tally tally;
    if (key >= least) tally = {mass_of_key(key), 1};
    return tally;
  });
}

// The cut that keeps the fewest keys, largest first and equal ones by index, that suffice; all if
// no set does. keys(x), x < n, are score_key()s.
template <typename Team, typename Keys>
FLEXPREFILL_DEVICE_FN Cut find_cut(const Team& team, int32_t n, const Keys& keys,
                                   const CutRule& rule) {
  Tally from_low = tally_from(team, n, keys, 1);
  if (!rule.suffices(from_low)) return keep_all();
  // All keys >= low suffice, all >= high do not (there are none).
  uint32_t low = 1, high = 0x7f800002u;
  Tally above;  // of the keys >= high
  while (high - low > 1) {
    // A single key is left between them: it is the last one kept.
    if (from_low.count == above.count + 1) return {low - 1, 0};
    const uint32_t middle = low + (high - low) / 2;
    const Tally tally = tally_from(team, n, keys, middle);
    if (rule.suffices(tally)) {
      low = middle;
      from_low = tally;
    } else {
      high = middle;
      above = tally;
    }
  }
  if (rule.suffices(above)) return {high - 1, 0};  // even the empty set does
  const uint64_t mass = mass_of_key(low);
  int32_t begin = 0, end = n;  // the equal keys before `end` suffice, those before `begin` do not
  while (end - begin > 1) {
    const int32_t middle = begin + (end - begin) / 2;
    const Tally equal = team.sum(middle, [&](int32_t x) {
      Tally tally;
      if (keys(x) == low) tally = {mass, 1};
      return tally;
    });
    if (rule.suffices({above.mass + equal.mass, above.count + equal.count})) {
      end = middle;
    } else {
      begin = middle;
    }
  }
  return {low, end};
}

// Rule::kCoverage: the fewest scores whose sum reaches gamma of the total, within the budgets.
template <typename Team, typename Keys>
FLEXPREFILL_DEVICE_FN Cut cover_cut(const Team& team, int32_t n, const Keys& keys,
                                    const PlanPolicy& policy, bool ranks = true) {
  CutRule rule;
  if (ranks) {  // NaN scores have no mass: the budgets alone decide
    const Tally total = tally_from(team, n, keys, 1);
    rule.target = static_cast<double>(policy.gamma) * static_cast<double>(total.mass);
  }
  rule.min_count = policy.min_blocks > 1 ? policy.min_blocks : 1;
  rule.max_count = policy.max_blocks;
  return find_cut(team, n, keys, rule);
}

}  // namespace flexprefill::internal::cuda
