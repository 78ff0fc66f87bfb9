#pragma once

// From scores to probabilities, one strip of queries (lanes) against the keys of one block:
//
//   m' = max(m, max S);  P = 2^(c (S - m'));  l = l 2^(c (m - m')) + sum P
//
// Included in the namespace of the instruction set, by attend.cc alone.

#include "cpu/strip.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {

// Whether P of a strip is made while the values of the strip before are multiplied. It needs memory
// for P beside S, and registers beside those of the product.
template <typename Product>
inline constexpr bool kOverlaps = Product::kDepth > 1;

// A strip of queries between its two products.
template <typename Product>
struct Strip {
  using Unit = typename Product::Unit;
  int vecs = 0;  // width; 0: no strip
  int keys = 0;  // that its last query sees, made even; never 0: query blocks lie on the key grid
  float* m = nullptr;       // [lanes] running maximum of S
  float* l = nullptr;       // [lanes] running sum of P
  float* o = nullptr;       // [v_rows, lanes]
  float* alpha = nullptr;   // [lanes] factor for what was summed before this block
  bool moved = false;       // whether a maximum did, so that alpha has to be applied
  Unit* p = nullptr;        // [keys / kDepth, lanes]
  const Unit* v = nullptr;  // [keys / kDepth, v_stride] of the key block
};

// Turns the scores s [keys, lanes] of a strip into its p. Half a pair of keys of one vector is a
// step(), so that the work can be spread over the steps of another product (multiply()): it takes
// little of the multipliers, which are all that a product waits for. Where a strip is in that has
// no bearing on its bits.
template <typename Product>
class SoftMax {
 public:
  using Unit = typename Product::Unit;

  SoftMax() = default;  // nothing to do

  // Takes over the maximum top [lanes] of s, not below m: sets m, alpha and moved, scales l.
  SoftMax(float* s, const float* top, float c, Strip<Product>& strip)
      : s_(s),
        p_(strip.p),
        m_(strip.m),
        l_(strip.l),
        c_(c),
        lanes_(strip.vecs * kLanes),
        pairs_(strip.keys / 2),
        pairs_left_(pairs_),
        vecs_left_(strip.vecs) {
    strip.moved = false;
    for (int lane = 0; lane < lanes_; lane += kLanes) {
      const Vec before = load_f32(strip.m + lane), now = load_f32(top + lane);
      const Vec factor = Product::exp2((before - now) * broadcast(c));
      strip.moved = strip.moved || any(less(before, now));
      store_f32(strip.m + lane, now);
      store_f32(strip.l + lane, load_f32(strip.l + lane) * factor);
      store_f32(strip.alpha + lane, factor);
    }
  }

  FLEXPREFILL_INLINE_MEMBER void step() {
    if constexpr (kOverlaps<Product>) {
      if (vecs_left_ == 0) return;
      if (half_done_) {
        store_f32(l_, load_f32(l_) + take_pair(load_f32(s_), weight(s_ + lanes_)));
        if (--pairs_left_ == 0) next_vec();
      } else {
        store_f32(s_, weight(s_));
      }
      half_done_ = !half_done_;
    }
  }

  FLEXPREFILL_INLINE_MEMBER void finish() {
    if (half_done_) step();
    for (; vecs_left_ > 0; next_vec()) {
      Vec sum = load_f32(l_);
      for (; pairs_left_ > 0; --pairs_left_) {
        sum = sum + take_pair(weight(s_), weight(s_ + lanes_));
      }
      store_f32(l_, sum);
    }
  }

 private:
  FLEXPREFILL_INLINE_MEMBER Vec weight(const float* s) const {
    // The difference first: at large scores the product alone would round to either side.
    return Product::exp2((load_f32(s) - load_f32(m_)) * broadcast(c_));
  }

  // Stores the weights of a pair of keys, moves on to the next, and returns their sum.
  FLEXPREFILL_INLINE_MEMBER Vec take_pair(Vec even, Vec odd) {
    if constexpr (Product::kDepth == 1) {
      store_f32(p_, even);
      store_f32(p_ + lanes_, odd);
    } else {
#ifdef FLEXPREFILL_BF16_PRODUCT
      store_pairs(p_, even, odd);
#endif
    }
    s_ += 2 * lanes_;
    p_ += 2 / Product::kDepth * lanes_;
    return even + odd;
  }

  FLEXPREFILL_INLINE_MEMBER void next_vec() {
    s_ += kLanes - 2 * pairs_ * lanes_;
    p_ += kLanes - 2 / Product::kDepth * pairs_ * lanes_;
    m_ += kLanes;
    l_ += kLanes;
    pairs_left_ = pairs_;
    --vecs_left_;
  }

  float* s_ = nullptr;  // the next pair of keys of the vector at hand, as p_
  Unit* p_ = nullptr;
  const float* m_ = nullptr;
  float* l_ = nullptr;
  float c_ = 0.0f;
  int lanes_ = 0, pairs_ = 0;
  int pairs_left_ = 0, vecs_left_ = 0;
  bool half_done_ = false;  // the first key of the pair has its weight in place of its score
};

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
