// Rule::kCoverage: one pass over the keys keeps three numbers per row and key block; head_scores.cc
// brings the blocks of a row to a common maximum afterwards. Compiled once per instruction set.

#include "cpu/score_parts.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {
namespace {

// Scores s [keys, kVecs * kLanes] of one strip -> its part of the block's mass.
template <int kVecs>
void add_up_strip(const float* s, int keys, float c, bool edge, const float* limit,
                  const float* split, BlockMass* mass, int first) {
  constexpr int kStride = kVecs * kLanes;
  for (int x = 0; x < kVecs; ++x) {
    const Vec seen = load_f32(limit + first + x * kLanes);
    const Vec own = load_f32(split + first + x * kLanes);
    const float* const lanes = s + x * kLanes;
    Vec top = broadcast(kMasked);
    for (int n = 0; n < keys; ++n) {
      Vec score = load_f32(lanes + n * kStride);
      if (edge) {
        score = select(less(broadcast(static_cast<float>(n)), seen), score, broadcast(kMasked));
      }
      top = max(top, score);
    }
    Vec near = broadcast(0.0f), far = broadcast(0.0f);
    for (int n = 0; n < keys; ++n) {
      const Vec key = broadcast(static_cast<float>(n));
      Vec p = exp2_of_nonpositive((load_f32(lanes + n * kStride) - top) * broadcast(c));
      if (edge) p = select(less(key, seen), p, broadcast(0.0f));
      const Mask is_near = less(key, own);
      near = near + select(is_near, p, broadcast(0.0f));
      far = far + select(is_near, broadcast(0.0f), p);
    }
    store_f32(mass->max + first + x * kLanes, top);
    store_f32(mass->near + first + x * kLanes, near);
    store_f32(mass->far + first + x * kLanes, far);
  }
}

template <typename Product>
void coverage_mass(const ScoreItem& item, BlockMass* mass, void* memory) {
  const ScoreScratch<Product> scratch(memory, item.head_dim);
  pack_rows<Product>(item.q, item.rows, round_up(item.rows, kLanes), item.head_dim, scratch.k,
                     scratch.stride);
  transpose_to_strips(scratch.k, scratch.stride, item.rows, scratch.units, scratch.q);
  for (int r = 0; r < kTile; ++r) {
    scratch.split[r] = static_cast<float>(((item.first_position + r) & (kTile - 1)) + 1);
  }
  for (int64_t first_key = 0; first_key < item.keys; first_key += kTile, ++mass) {
    const bool edge = set_limits(item, first_key, scratch.limit);
    const int keys = static_cast<int>(min_int64(kTile, item.keys - first_key));
    const int even_keys = round_up(keys, 2);
    const TokenRows tokens = keys_from(item, first_key);
    Left<typename Product::Unit> k = rows_in_place<Product>(tokens, item.head_dim);
    if (k.data == nullptr || keys != even_keys) {
      pack_rows<Product>(tokens, keys, even_keys, item.head_dim, scratch.k, scratch.stride);
      k = {scratch.k, scratch.stride, 1};
    }
    for (int first = 0; first < item.rows; first += kStrip) {
      with_vecs(strip_vecs(item.rows, first), [&]<int kVecs>() {
        multiply<Product, kVecs, Sums::kFresh>(k, scratch.q + first * scratch.units, even_keys,
                                               scratch.units, nullptr, scratch.s);
        add_up_strip<kVecs>(scratch.s, keys, item.scale_log2, edge, scratch.limit, scratch.split,
                            mass, first);
      });
    }
  }
}

}  // namespace

size_t score_scratch_bytes(int32_t head_dim) {
  return ScoreScratch<F32Product>(nullptr, head_dim).bytes;  // the larger of the two
}

void coverage_mass_f32(const ScoreItem& item, BlockMass* mass, void* scratch) {
  coverage_mass<F32Product>(item, mass, scratch);
}

#ifdef FLEXPREFILL_BF16_PRODUCT
void coverage_mass_bf16(const ScoreItem& item, BlockMass* mass, void* scratch) {
  coverage_mass<Bf16Product>(item, mass, scratch);
}
#endif

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
