#pragma once

// Selection without sorting. Scores are non-negative floats, so their bits order them; the smallest
// set of largest scores that suffices is found by narrowing a bracket of the lowest score kept,
// and among equals of the last index. Masses are summed in fixed point: any order gives the same
// bits. Run by a team (team.h): a warp, a block of threads, or one host thread.

#include <bit>
#include <cmath>
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

// How find_cut() weighs the scores of a long list that is read many times: keys(x), a functor.
template <typename Keys>
struct KeyMass {
  const Keys& keys;

  FLEXPREFILL_DEVICE_FN uint32_t key(int32_t x) const { return keys(x); }
  FLEXPREFILL_DEVICE_FN static uint32_t key_of_mass(float mass) {
    return score_key(mass * static_cast<float>(1.0 / kMassUnits));
  }
  FLEXPREFILL_DEVICE_FN Tally tally(int32_t x) const { return {mass_of_key(keys(x)), 1}; }
};

// The same for the weights of one softmax, times 2^31 so that a conversion gives their mass:
// cheaper, and as fine as fp32 weights are exact.
struct ShortTally {
  uint32_t mass = 0;
  uint32_t count = 0;

  FLEXPREFILL_DEVICE_FN ShortTally& operator+=(const ShortTally& other) {
    mass += other.mass;
    count += other.count;
    return *this;
  }
};
inline constexpr float kWeightUnits = 0x1p31f;
struct WeightMass {
  const float* weights;  // times kWeightUnits

  FLEXPREFILL_DEVICE_FN uint32_t key(int32_t x) const {
#ifdef __CUDA_ARCH__
    return __float_as_uint(weights[x]) + 1;  // no NaN, none negative
#else
    return std::bit_cast<uint32_t>(weights[x]) + 1;
#endif
  }
  FLEXPREFILL_DEVICE_FN static uint32_t key_of_mass(float mass) { return score_key(mass); }
  FLEXPREFILL_DEVICE_FN ShortTally tally(int32_t x) const {
#ifdef __CUDA_ARCH__
    return {__float2uint_rn(weights[x]), 1};
#else
    return {static_cast<uint32_t>(std::nearbyint(weights[x])), 1};
#endif
  }
};

// What a set must reach: the target and the least count, unless the most is reached before.
struct CutRule {
  double target = 0.0;  // in units of the tally
  int32_t min_count = 0;
  int32_t max_count = kPlanNoLimit;

  template <typename AnyTally>
  FLEXPREFILL_DEVICE_FN bool suffices(const AnyTally& tally) const {
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

template <typename Team, typename Scores>
FLEXPREFILL_DEVICE_FN auto tally_from(const Team& team, int32_t n, const Scores& scores,
                                      uint32_t least) {
  return team.sum(n, [&](int32_t x) {
    decltype(scores.tally(x)) tally;
    if (scores.key(x) >= least) tally = scores.tally(x);
    return tally;
  });
}

// The scores that a cut may lie among: keys >= low suffice, keys >= high do not.
template <typename AnyTally>
struct Bracket {
  uint32_t low = 1, high = 0x7f800002u;
  AnyTally from_low, above;  // of the keys >= low, >= high

  FLEXPREFILL_DEVICE_FN uint32_t count() const { return from_low.count - above.count; }
  FLEXPREFILL_DEVICE_FN float mean() const {
    return static_cast<float>(from_low.mass - above.mass) / static_cast<float>(count());
  }
};

// Narrows the bracket until it holds one key or at most `enough` scores. The cut does not depend on
// the keys that are tried: the mean score halves all but very uneven scores; where it does not, the
// bits are halved.
template <typename Team, typename Scores, typename AnyTally>
FLEXPREFILL_DEVICE_FN void narrow(const Team& team, int32_t n, const Scores& scores,
                                  const CutRule& rule, uint32_t enough,
                                  Bracket<AnyTally>& bracket) {
  bool uneven = false;
  while (bracket.high - bracket.low > 1 && bracket.count() > enough) {
    const uint32_t count = bracket.count();
    uint32_t middle = uneven ? 0 : scores.key_of_mass(bracket.mean());
    if (middle <= bracket.low || middle >= bracket.high) {
      middle = bracket.low + (bracket.high - bracket.low) / 2;
    }
    const AnyTally tally = tally_from(team, n, scores, middle);
    if (rule.suffices(tally)) {
      bracket.low = middle;
      bracket.from_low = tally;
    } else {
      bracket.high = middle;
      bracket.above = tally;
    }
    uneven = !uneven && bracket.count() > count / 4 * 3;
  }
}

// How many of the scores whose key is `key` suffice with `above`, as the index after the last one.
template <typename Team, typename Scores, typename AnyTally>
FLEXPREFILL_DEVICE_FN int32_t equal_end(const Team& team, int32_t n, const Scores& scores,
                                        const CutRule& rule, uint32_t key, const AnyTally& above) {
  int32_t begin = 0, end = n;  // those before `end` suffice, those before `begin` do not
  while (end - begin > 1) {
    const int32_t middle = begin + (end - begin) / 2;
    AnyTally set = team.sum(middle, [&](int32_t x) {
      AnyTally tally;
      if (scores.key(x) == key) tally = scores.tally(x);
      return tally;
    });
    set += above;
    (rule.suffices(set) ? end : begin) = middle;
  }
  return end;
}

// The cut that keeps the fewest scores, largest first and equal ones by index, that suffice; all if
// no set does. `all` is their tally.
template <typename Team, typename Scores, typename AnyTally>
FLEXPREFILL_DEVICE_FN Cut cut_scores(const Team& team, int32_t n, const Scores& scores,
                                     const CutRule& rule, const AnyTally& all) {
  if (!rule.suffices(all)) return keep_all();
  if (rule.suffices(AnyTally{})) return {0xffffffffu, 0};
  Bracket<AnyTally> bracket;
  bracket.from_low = all;
  narrow(team, n, scores, rule, Team::kGathers, bracket);
  if (bracket.count() == 1) return {bracket.low - 1, 0};  // a single score: the last one kept
  if constexpr (Team::kGathers > 1) {
    if (bracket.count() <= Team::kGathers) {
      const auto few = team.gather(n, scores, bracket.low, bracket.high);
      return few.last_kept(bracket.above, rule);
    }
  }
  return {bracket.low, equal_end(team, n, scores, rule, bracket.low, bracket.above)};
}

// The same of score_key()s, keys(x) for x < n; the target is in units of kMassUnits.
template <typename Team, typename Keys>
FLEXPREFILL_DEVICE_FN Cut find_cut(const Team& team, int32_t n, const Keys& keys,
                                   const CutRule& rule) {
  const KeyMass<Keys> scores{keys};
  return cut_scores(team, n, scores, rule, tally_from(team, n, scores, 1));
}

// Rule::kCoverage: the fewest scores whose sum reaches gamma of the total, within the budgets.
template <typename Team, typename Scores>
FLEXPREFILL_DEVICE_FN Cut cover_scores(const Team& team, int32_t n, const Scores& scores,
                                       const PlanPolicy& policy) {
  CutRule rule;
  const auto total = tally_from(team, n, scores, 1);
  rule.target = static_cast<double>(policy.gamma) * static_cast<double>(total.mass);
  rule.min_count = policy.min_blocks > 1 ? policy.min_blocks : 1;
  rule.max_count = policy.max_blocks;
  return cut_scores(team, n, scores, rule, total);
}

template <typename Team, typename Keys>
FLEXPREFILL_DEVICE_FN Cut cover_cut(const Team& team, int32_t n, const Keys& keys,
                                    const PlanPolicy& policy) {
  return cover_scores(team, n, KeyMass<Keys>{keys}, policy);
}

// What cover_scores() keeps of scores that are all NaN: they have no mass, the budgets decide.
FLEXPREFILL_DEVICE_FN Cut cover_unranked(const PlanPolicy& policy) {
  const int32_t least = policy.min_blocks > 1 ? policy.min_blocks : 1;
  return {0xffffffffu, least < policy.max_blocks ? least : policy.max_blocks};
}

}  // namespace flexprefill::internal::cuda
