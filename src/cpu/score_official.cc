// Rule::kOfficial needs every probability by key and by distance, so it takes two passes over the
// keys: the maximum and sum of each row, then the sums of P. Compiled once per instruction set.

#include "cpu/score_parts.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {
namespace {

// Both operands are bf16 values, so a product of bf16 loses nothing.
#ifdef FLEXPREFILL_BF16_PRODUCT
using OfficialProduct = Bf16Product;
#else
using OfficialProduct = F32Product;
#endif
using OfficialScratch = ScoreScratch<OfficialProduct>;

// The probe rows bf16(bf16(q) / sqrt(head_dim)) as strips of units; mean [head_dim] is their mean.
void pack_probe_rows(const ScoreItem& item, const OfficialScratch& scratch, float* mean) {
  const Vec scale = broadcast(1.0f / __builtin_sqrtf(static_cast<float>(item.head_dim)));
  alignas(64) float sums[256 + 16] = {}, row[256 + 16];
  const auto round_row = [&]<DType kType>(int r) {
    convert_row<kType>(row_of(item.q, r, kBytes<kType>), item.head_dim, [&](int c, Vec x) {
      const Vec rounded = round_to_bf16(round_to_bf16(x) * scale);
      store_f32(row + c, rounded);
      store_f32(sums + c, load_f32(sums + c) + rounded);
    });
  };
  for (int r = 0; r < item.rows; ++r) {
    switch (item.q.dtype) {
      case DType::kF32: round_row.operator()<DType::kF32>(r); break;
      case DType::kF16: round_row.operator()<DType::kF16>(r); break;
      default: round_row.operator()<DType::kBF16>(r); break;
    }
    pack_rows<OfficialProduct>({row, DType::kF32, 0}, 1, 1, item.head_dim,
                               scratch.k + r * scratch.stride, scratch.stride);
  }
  const int rows = round_up(item.rows, kLanes);
  std::memset(scratch.k + item.rows * scratch.stride, 0,
              sizeof(*scratch.k) * static_cast<size_t>(rows - item.rows) * scratch.stride);
  transpose_to_strips(scratch.k, scratch.stride, item.rows, scratch.units, scratch.q);
  const float inverse = 1.0f / static_cast<float>(item.rows);
  for (int c = 0; c < item.head_dim; ++c) mean[c] = sums[c] * inverse;
}

// A block's keys rounded to bf16: where they lie if they are that already.
Left<OfficialProduct::Unit> official_keys(const ScoreItem& item, int64_t first_key, int keys,
                                          const OfficialScratch& scratch) {
  const TokenRows tokens = keys_from(item, first_key);
  if (OfficialProduct::kDepth == 2 && keys % 2 == 0) {
    const auto in_place = rows_in_place<OfficialProduct>(tokens, item.head_dim);
    if (in_place.data != nullptr) return in_place;
  }
  pack_rows<OfficialProduct>(tokens, keys, round_up(keys, 2), item.head_dim, scratch.k,
                             scratch.stride);
  if constexpr (OfficialProduct::kDepth == 1) {
    if (tokens.dtype != DType::kBF16) {
      for (int64_t at = 0; at < int64_t{keys} * scratch.stride; at += kLanes) {
        store_f32(scratch.k + at, round_to_bf16(load_f32(scratch.k + at)));
      }
    }
  }
  return {scratch.k, scratch.stride, 1};
}

// The logits of the block at first_key as the official code has them, rounded to bf16, with kMasked
// for keys that a row does not see: s is [keys, kSkewStride], row r in column kSkewPad + r.
int official_logits(const ScoreItem& item, int64_t first_key, const OfficialScratch& scratch) {
  const bool edge = set_limits(item, first_key, scratch.limit);
  const int keys = static_cast<int>(min_int64(kTile, item.keys - first_key));
  const auto k = official_keys(item, first_key, keys, scratch);
  for (int first = 0; first < item.rows; first += kStrip) {
    float* const s = scratch.s + kSkewPad + first;
    with_vecs(strip_vecs(item.rows, first), [&]<int kVecs>() {
      multiply<OfficialProduct, kVecs, Sums::kFresh, kSkewStride>(
          k, scratch.q + first * scratch.units, round_up(keys, 2), scratch.units, nullptr, s);
      for (int n = 0; n < keys; ++n) {
        for (int x = 0; x < kVecs; ++x) {
          float* const at = s + n * kSkewStride + x * kLanes;
          Vec logit = round_to_bf16(load_f32(at));
          if (edge) {
            const Vec seen = load_f32(scratch.limit + first + x * kLanes);
            logit = select(less(broadcast(static_cast<float>(n)), seen), logit, broadcast(kMasked));
          }
          store_f32(at, logit);
        }
      }
    });
  }
  return keys;
}

// First pass over a block: the running maximum of each row and the sum of exponentials below it.
void add_to_row_sums(const ScoreItem& item, int keys, const OfficialScratch& scratch) {
  for (int r = 0; r < item.rows; r += kLanes) {
    const float* const s = scratch.s + kSkewPad + r;
    const Vec before = load_f32(scratch.max + r);
    Vec now = before;
    for (int n = 0; n < keys; ++n) now = max(now, load_f32(s + n * kSkewStride));
    Vec sum = load_f32(scratch.sum + r) * exp2_of_nonpositive((before - now) * broadcast(kLog2E));
    for (int n = 0; n < keys; ++n) {
      sum = sum + exp2_of_nonpositive((load_f32(s + n * kSkewStride) - now) * broadcast(kLog2E));
    }
    store_f32(scratch.max + r, now);
    store_f32(scratch.sum + r, sum);
  }
}

// Second pass: logits become P / rows in place (0 where masked and past the last row).
void normalise(const ScoreItem& item, int keys, const OfficialScratch& scratch, float* row_mass,
               int64_t k_blocks) {
  for (int r = 0; r < item.rows; r += kLanes) {
    float* const s = scratch.s + kSkewPad + r;
    const Vec max = load_f32(scratch.max + r);
    const Vec inverse = load_f32(scratch.sum + r);
    Vec total = broadcast(0.0f);
    for (int n = 0; n < keys; ++n) {
      const Vec p =
          inverse * exp2_of_nonpositive((load_f32(s + n * kSkewStride) - max) * broadcast(kLog2E));
      total = total + p;
      store_f32(s + n * kSkewStride, p);
    }
    alignas(64) float masses[kLanes];
    store_f32(masses, total);
    for (int lane = 0; lane < min_int(kLanes, item.rows - r); ++lane) {
      row_mass[(r + lane) * k_blocks] = masses[lane];
    }
  }
}

// vertical[n] = sum over rows of P[n][.] * factor, for the keys of one block.
void add_columns(const ScoreItem& item, int keys, const float* s, float factor, float* vertical) {
  for (int n = 0; n < keys; ++n) {
    Vec sum = broadcast(0.0f);
    for (int r = 0; r < item.rows; r += kLanes) {
      sum = sum + load_f32(s + n * kSkewStride + kSkewPad + r);
    }
    vertical[n] = sum_of_lanes(sum) * factor;
  }
}

// slash[d] += factor * sum of P at distance d = (first_position + r) - (first_key + n), that is
// along the diagonals r - n = e of the block.
void add_diagonals(const ScoreItem& item, int64_t first_key, int keys, const float* s, float factor,
                   float* slash) {
  for (int e = -round_up(keys - 1, kLanes); e < kTile; e += kLanes) {
    const int begin = -e - (kLanes - 1) > 0 ? -e - (kLanes - 1) : 0;  // first n with a row r >= 0
    const int end = min_int(keys, kTile - e);                         // rows are r = n + e + lane
    Vec sum = broadcast(0.0f);
    for (int n = begin; n < end; ++n) {
      sum = sum + load_f32(s + n * kSkewStride + kSkewPad + n + e);
    }
    alignas(64) float sums[kLanes];
    store_f32(sums, sum);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t distance = item.first_position - first_key + e + lane;
      if (distance >= 0 && distance < item.keys) slash[distance] += sums[lane] * factor;
    }
  }
}

}  // namespace

void official_mass(const ScoreItem& item, float* vertical, float* slash, float* row_mass,
                   float* probe_mean, void* memory) {
  const OfficialScratch scratch(memory, item.head_dim);
  pack_probe_rows(item, scratch, probe_mean);
  std::memset(scratch.s, 0, sizeof(float) * kTile * kSkewStride);  // the padding stays zero
  std::memset(scratch.sum, 0, sizeof(float) * kTile);
  for (int r = 0; r < kTile; ++r) scratch.max[r] = kMasked;
  for (int64_t first_key = 0; first_key < item.keys; first_key += kTile) {
    add_to_row_sums(item, official_logits(item, first_key, scratch), scratch);
  }
  for (int r = 0; r < kTile; ++r) {
    scratch.sum[r] = r < item.rows ? 1.0f / scratch.sum[r] : 0.0f;
  }

  const float per_row = 1.0f / static_cast<float>(item.rows);
  const int64_t k_blocks = (item.keys + kTile - 1) / kTile;
  std::memset(slash, 0, sizeof(float) * static_cast<size_t>(item.keys));
  for (int64_t j = 0; j < k_blocks; ++j) {
    const int64_t first_key = j * kTile;
    const int keys = official_logits(item, first_key, scratch);
    normalise(item, keys, scratch, row_mass + j, k_blocks);
    add_columns(item, keys, scratch.s, per_row, vertical + first_key);
    add_diagonals(item, first_key, keys, scratch.s, per_row, slash);
  }
}

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
