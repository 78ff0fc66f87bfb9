// Rule::kCoverage: one pass over the keys. Each block gives each row a maximum and two sums below
// it; the blocks of a row are then brought to a common maximum. Compiled once per instruction set.

#include "cpu/score_parts.h"
#include "cpu/strip.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {
namespace {

// Sums of 2^(c (s - top)) over the keys of one vector of rows; s is [keys, kStride].
template <int kStride>
void add_up_rows(const float* s, int keys, float c, Vec top, const float* split, float* near_sums,
                 float* far_sums) {
  const Vec own = load_f32(split);
  float fewest = kTile, most = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) {
    fewest = split[lane] < fewest ? split[lane] : fewest;
    most = split[lane] > most ? split[lane] : most;
  }
  const int all_near = min_int(keys, static_cast<int>(fewest));
  const int all_far = min_int(keys, static_cast<int>(most));
  const auto weight = [&](int n) __attribute__((always_inline)) {
    return exp2_of_nonpositive((load_f32(s + n * kStride) - top) * broadcast(c));
  };
  Vec near = broadcast(0.0f), far = broadcast(0.0f);
  int n = 0;
  for (; n < all_near; ++n) near = near + weight(n);
  for (; n < all_far; ++n) {
    const Vec p = weight(n);
    const Mask is_near = less(broadcast(static_cast<float>(n)), own);
    near = near + select(is_near, p, broadcast(0.0f));
    far = far + select(is_near, broadcast(0.0f), p);
  }
  for (; n < keys; ++n) far = far + weight(n);
  store_f32(near_sums, near);
  store_f32(far_sums, far);
}

// The three numbers of every row of the block at first_key.
template <typename Product>
void score_block(const ScoreItem& item, int64_t first_key, const ScoreScratch<Product>& scratch,
                 BlockMass& mass) {
  const bool edge = set_limits(item, first_key, scratch.limit);
  const int keys = static_cast<int>(min_int64(kTile, item.keys - first_key));
  const int even_keys = round_up(keys, 2);
  const TokenRows tokens = keys_from(item, first_key);
  Left<typename Product::Unit> k = rows_in_place<Product>(tokens, item.head_dim);
  if (k.data == nullptr || keys != even_keys) {
    pack_rows<Product>(tokens, keys, even_keys, item.head_dim, scratch.k, scratch.stride);
    k = {scratch.k, scratch.stride, 1};
  }
  Ahead next(item.k, min_int64(first_key + kTile, item.keys), item.keys, item.head_dim,
             (item.rows + kStrip - 1) / kStrip * kTile / kPanel);
  for (int first = 0; first < item.rows; first += kStrip) {
    with_vecs(strip_vecs(item.rows, first), [&]<int kVecs>() {
      constexpr int kWidth = kVecs * kLanes;
      const auto* const q = scratch.q + first * scratch.units;
      float* const top = mass.max + first;
      for (int x = 0; x < kWidth; x += kLanes) store_f32(top + x, broadcast(kMasked));
      if (edge) {
        multiply<Product, kVecs, Sums::kFresh>(k, q, even_keys, scratch.units, nullptr, scratch.s,
                                               nullptr, &next);
        mask_scores<kVecs>(scratch.s, keys, scratch.limit + first);
        find_top<kVecs>(scratch.s, keys, top);
      } else {
        multiply<Product, kVecs, Sums::kFreshAndTop>(k, q, even_keys, scratch.units, nullptr,
                                                     scratch.s, top, &next);
      }
      for (int x = 0; x < kWidth; x += kLanes) {
        add_up_rows<kWidth>(scratch.s + x, keys, item.scale_log2, load_f32(top + x),
                            scratch.split + first + x, mass.near + first + x, mass.far + first + x);
      }
    });
  }
}

// Brings the blocks of each row to the row's own maximum; inverse [rows] is 1 / the row's sum.
void align_blocks(const ScoreItem& item, BlockMass* blocks, int64_t count, float* inverse) {
  for (int r = 0; r < item.rows; r += kLanes) {
    Vec top = load_f32(blocks[0].max + r);
    for (int64_t j = 1; j < count; ++j) top = max(load_f32(blocks[j].max + r), top);
    Vec total = broadcast(0.0f);
    for (int64_t j = 0; j < count; ++j) {
      const Vec factor =
          exp2_of_nonpositive((load_f32(blocks[j].max + r) - top) * broadcast(item.scale_log2));
      const Vec near = load_f32(blocks[j].near + r) * factor;
      const Vec far = load_f32(blocks[j].far + r) * factor;
      total = total + (near + far);
      store_f32(blocks[j].near + r, near);
      store_f32(blocks[j].far + r, far);
    }
    store_f32(inverse + r, broadcast(1.0f) / total);
  }
}

// A block's sums over the rows, by distance: a row in query block I adds to the buckets I - j
// (near) and I - j - 1 (far), and the probe rows lie in at most two query blocks. near becomes the
// mass.
void add_slash(const ScoreItem& item, BlockMass& block, const float* inverse, const float* q_block,
               double sums[3]) {
  Vec longest = broadcast(0.0f), middle = broadcast(0.0f), shortest = broadcast(0.0f);
  const Vec zero = broadcast(0.0f);
  for (int r = 0; r < item.rows; r += kLanes) {
    const Vec of = load_f32(q_block + r), scale = load_f32(inverse + r);
    const Mask sees_keys = less(broadcast(-0.5f), of), second = less(broadcast(0.5f), of);
    const Vec near = select(sees_keys, load_f32(block.near + r) * scale, zero);
    const Vec far = select(sees_keys, load_f32(block.far + r) * scale, zero);
    longest = longest + select(second, near, zero);
    middle = middle + select(second, far, near);
    shortest = shortest + select(second, zero, far);
    store_f32(block.near + r, near + far);
  }
  sums[0] += sum_of_lanes(shortest);
  sums[1] += sum_of_lanes(middle);
  sums[2] += sum_of_lanes(longest);
}

// row_mass[r][j] = near[r] of block j.
void store_row_mass(const ScoreItem& item, const BlockMass* blocks, int64_t count, float* row_mass,
                    int64_t row_stride) {
  for (int64_t j = 0; j < count; j += kLanes) {
    const int columns = static_cast<int>(min_int64(kLanes, count - j));
    for (int r = 0; r < item.rows; r += kLanes) {
      Vec values[kLanes];
      FLEXPREFILL_UNROLL
      for (int n = 0; n < kLanes; ++n) {
        values[n] = n < columns ? load_f32(blocks[j + n].near + r) : broadcast(0.0f);
      }
      transpose(values);
      for (int lane = 0; lane < min_int(kLanes, item.rows - r); ++lane) {
        alignas(64) float masses[kLanes];
        store_f32(masses, values[lane]);
        std::memcpy(row_mass + (r + lane) * row_stride + j, masses,
                    sizeof(float) * static_cast<size_t>(columns));
      }
    }
  }
}

template <typename Product>
void coverage_mass(const ScoreItem& item, const CoverageMass& mass, void* memory) {
  const ScoreScratch<Product> scratch(memory, item.head_dim);
  pack_rows<Product>(item.q, item.rows, round_up(item.rows, kLanes), item.head_dim, scratch.k,
                     scratch.stride);
  transpose_to_strips(scratch.k, scratch.stride, item.rows, scratch.units, scratch.q);
  const int64_t first_q_block = item.first_position >= 0 ? item.first_position / kTile : 0;
  for (int r = 0; r < kTile; ++r) {
    const int64_t position = item.first_position + r;
    scratch.split[r] = static_cast<float>((position & (kTile - 1)) + 1);
    const bool sees_keys = position >= 0 && r < item.rows;
    const int64_t q_block = position / kTile - first_q_block;
    scratch.max[r] = sees_keys ? static_cast<float>(q_block) : -1.0f;
  }
  const int64_t count = (item.keys + kTile - 1) / kTile;
  for (int64_t j = 0; j < count; ++j) {
    score_block(item, j * kTile, scratch, mass.blocks[j]);
    if (mass.k_mean != nullptr) {  // while the keys are at hand
      mean_of_tokens(keys_from(item, j * kTile), min_int64(kTile, item.keys - j * kTile),
                     item.head_dim, /*round=*/false, mass.k_mean + j * item.head_dim);
    }
  }
  align_blocks(item, mass.blocks, count, scratch.sum);
  for (int64_t j = 0; j < count; ++j) {
    double sums[3] = {};
    add_slash(item, mass.blocks[j], scratch.sum, scratch.max, sums);
    for (int n = 0; n < 3; ++n) {
      const int64_t bucket = first_q_block - j - 1 + n - mass.first_bucket;
      if (bucket >= 0 && bucket < mass.slash_buckets) mass.slash[bucket] += sums[n];
    }
  }
  store_row_mass(item, mass.blocks, count, mass.row_mass, mass.row_stride);
}

}  // namespace

size_t score_scratch_bytes(int32_t head_dim) {
  return ScoreScratch<F32Product>(nullptr, head_dim).bytes;  // the larger of the two
}

void coverage_mass_f32(const ScoreItem& item, const CoverageMass& mass, void* scratch) {
  coverage_mass<F32Product>(item, mass, scratch);
}

#ifdef FLEXPREFILL_BF16_PRODUCT
void coverage_mass_bf16(const ScoreItem& item, const CoverageMass& mass, void* scratch) {
  coverage_mass<Bf16Product>(item, mass, scratch);
}
#endif

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
