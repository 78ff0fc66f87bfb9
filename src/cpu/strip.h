#pragma once

// Scores of a strip of queries (lanes) against the keys of one block, before their exponentials:
// s is [keys, kVecs * kLanes]. In the namespace of the instruction set.

#include "cpu/tile.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {

// A hidden key's score: against a finite maximum the difference is -inf, whose 2^x is 0 under any
// scale, and never inf - inf.
inline constexpr float kHidden = -__builtin_inff();

// Hides from each lane the keys it must not see: those from limit[lane] on.
template <int kVecs>
FLEXPREFILL_INLINE void mask_scores(float* s, int keys, const float* limit) {
  for (int n = 0; n < keys; ++n) {
    for (int x = 0; x < kVecs; ++x) {
      float* const at = s + (n * kVecs + x) * kLanes;
      const Mask visible = less(broadcast(static_cast<float>(n)), load_f32(limit + x * kLanes));
      store_f32(at, select(visible, load_f32(at), broadcast(kHidden)));
    }
  }
}

// Raises top [lanes] to the largest score of each lane.
template <int kVecs>
FLEXPREFILL_INLINE void find_top(const float* s, int keys, float* top) {
  for (int x = 0; x < kVecs; ++x) {
    Vec largest = load_f32(top + x * kLanes);
    for (int n = 0; n < keys; ++n) {
      largest = max(load_f32(s + (n * kVecs + x) * kLanes), largest);
    }
    store_f32(top + x * kLanes, largest);
  }
}

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
