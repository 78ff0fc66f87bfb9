// attend() for one query block: exact softmax attention over the key blocks of its mask row, in the
// online form. Per key block and strip of queries (lanes):
//
//   S^T = K Q^T;  m' = max(m, max S);  P = 2^(c S - c m');  l = l 2^(c m - c m') + sum P
//   O^T = O^T 2^(c m - c m') + V^T P^T          with c = softmax_scale * log2(e)
//
// Every step runs down the keys, so no sum ever crosses lanes. Compiled once per instruction set;
// the loop nest and its sizes are explained in docs/kernels.md.

#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {
namespace {

constexpr float kMasked = -3.0e38f;  // score of a key that a query must not see; finite, so that no
                                     // NaN comes from inf - inf, and its 2^x is exactly 0

// The scratch of one thread.
template <typename Product>
struct AttendScratch {
  using Unit = typename Product::Unit;
  int k_units, k_stride, v_stride, v_rows;
  Unit* k;       // [128, k_stride]
  Unit* v;       // [128 / kDepth, v_stride]
  Unit* q;       // strips of [k_units, lanes]
  float* s;      // [128, kStrip]; with kDepth 1 also P
  Unit* p;       // [128 / kDepth, kStrip]
  float* o;      // strips of [v_rows, lanes]
  float* m;      // [128] running maximum of S
  float* l;      // [128] running sum of P
  float* alpha;  // [kStrip] factor for what was summed before this block
  float* limit;  // [128] keys of the block at hand that a query may see
  size_t bytes;

  AttendScratch(void* memory, int head_dim, int v_head_dim) {
    k_units = (head_dim + Product::kDepth - 1) / Product::kDepth;
    k_stride = tile_stride(k_units);
    v_stride = tile_stride(v_head_dim);
    v_rows = round_up(v_head_dim, 2);
    char* const begin = static_cast<char*>(memory);
    char* next = begin;
    const auto take = [&next](int64_t count) {
      char* const at = next;
      next += (count * 4 + 63) / 64 * 64;
      return at;
    };
    k = reinterpret_cast<Unit*>(take(int64_t{kTile} * k_stride));
    v = reinterpret_cast<Unit*>(take(int64_t{kTile} / Product::kDepth * v_stride));
    q = reinterpret_cast<Unit*>(take(int64_t{kTile} * k_units));
    s = reinterpret_cast<float*>(take(int64_t{kTile} * kStrip));
    p = reinterpret_cast<Unit*>(s);
    if constexpr (Product::kDepth > 1) {
      p = reinterpret_cast<Unit*>(take(int64_t{kTile} / Product::kDepth * kStrip));
    }
    o = reinterpret_cast<float*>(take(int64_t{kTile} * v_rows));
    m = reinterpret_cast<float*>(take(kTile));
    l = reinterpret_cast<float*>(take(kTile));
    alpha = reinterpret_cast<float*>(take(kStrip));
    limit = reinterpret_cast<float*>(take(kTile));
    bytes = static_cast<size_t>(next - begin);
  }
};

// Hides from each lane the keys it must not see: those from limit[lane] on. s is [keys, kVecs *
// kLanes].
template <int kVecs>
void mask_scores(float* s, int keys, const float* limit) {
  for (int n = 0; n < keys; ++n) {
    for (int x = 0; x < kVecs; ++x) {
      float* const at = s + (n * kVecs + x) * kLanes;
      const Mask visible = less(broadcast(static_cast<float>(n)), load_f32(limit + x * kLanes));
      store_f32(at, select(visible, load_f32(at), broadcast(kMasked)));
    }
  }
}

// Turns scores s [keys, lanes] into p [keys / kDepth, lanes]; updates m and l and sets alpha
// [lanes]. Returns whether a maximum moved, that is whether alpha has to be applied.
template <typename Product, int kVecs>
bool soft_max(const float* s, int keys, float c, float* m, float* l, float* alpha,
              typename Product::Unit* p) {
  constexpr int kStride = kVecs * kLanes;
  Vec even[kVecs], odd[kVecs];
  FLEXPREFILL_UNROLL
  for (int x = 0; x < kVecs; ++x) even[x] = odd[x] = load_f32(m + x * kLanes);
  for (int n = 0; n < keys; n += 2) {
    FLEXPREFILL_UNROLL
    for (int x = 0; x < kVecs; ++x) {
      even[x] = max(even[x], load_f32(s + n * kStride + x * kLanes));
      odd[x] = max(odd[x], load_f32(s + (n + 1) * kStride + x * kLanes));
    }
  }
  bool moved = false;
  Vec offset[kVecs], sum_even[kVecs], sum_odd[kVecs];
  FLEXPREFILL_UNROLL
  for (int x = 0; x < kVecs; ++x) {
    const Vec before = load_f32(m + x * kLanes);
    const Vec now = max(even[x], odd[x]);
    offset[x] = now * broadcast(c);
    const Vec factor = exp2_of_nonpositive<Product::kExpDegree>(before * broadcast(c) - offset[x]);
    moved = moved || any(less(before, now));
    store_f32(m + x * kLanes, now);
    store_f32(alpha + x * kLanes, factor);
    sum_even[x] = load_f32(l + x * kLanes) * factor;
    sum_odd[x] = broadcast(0.0f);
  }
  for (int n = 0; n < keys; n += 2) {
    FLEXPREFILL_UNROLL
    for (int x = 0; x < kVecs; ++x) {
      const float* const at = s + n * kStride + x * kLanes;
      const Vec p_even =
          exp2_of_nonpositive<Product::kExpDegree>(fma(load_f32(at), broadcast(c), -offset[x]));
      const Vec p_odd = exp2_of_nonpositive<Product::kExpDegree>(
          fma(load_f32(at + kStride), broadcast(c), -offset[x]));
      sum_even[x] = sum_even[x] + p_even;
      sum_odd[x] = sum_odd[x] + p_odd;
      if constexpr (Product::kDepth == 1) {
        store_f32(p + n * kStride + x * kLanes, p_even);
        store_f32(p + (n + 1) * kStride + x * kLanes, p_odd);
      } else {
#ifdef FLEXPREFILL_BF16_PRODUCT
        store_pairs(p + n / 2 * kStride + x * kLanes, p_even, p_odd);
#endif
      }
    }
  }
  FLEXPREFILL_UNROLL
  for (int x = 0; x < kVecs; ++x) store_f32(l + x * kLanes, sum_even[x] + sum_odd[x]);
  return moved;
}

// Sets limit[lane] for key block j; returns how many keys of the block the last query sees.
int set_limits(const AttendItem& item, int64_t first_key, float* limit) {
  const int64_t keys = min_int64(kTile, item.kv_len - first_key);
  for (int r = 0; r < kTile; ++r) {
    const int row = min_int(r, item.rows - 1);  // lanes past the last row are never read
    limit[r] = static_cast<float>(min_int64(keys, item.first_position + row + 1 - first_key));
  }
  return static_cast<int>(limit[kTile - 1]);
}

// next_key: first key of the block that comes after this one, kv_len if none does.
template <typename Product>
void add_key_block(const AttendItem& item, int64_t first_key, int64_t next_key,
                   const AttendScratch<Product>& scratch) {
  // Only the diagonal block and the tail of the keys hide keys from some query.
  const bool edge = first_key + kTile > item.kv_len || first_key + kTile > item.first_position + 1;
  const int keys = edge ? set_limits(item, first_key, scratch.limit) : kTile;
  const int k_bytes = item.k.dtype == DType::kF32 ? 4 : 2;
  const int v_bytes = item.v.dtype == DType::kF32 ? 4 : 2;
  const TokenRows k{row_of(item.k, first_key, k_bytes), item.k.dtype, item.k.stride};
  const TokenRows v{row_of(item.v, first_key, v_bytes), item.v.dtype, item.v.stride};
  // Rows that are units already are read where they lie, as long as no row past the keys is read.
  Left<typename Product::Unit> k_rows = rows_in_place<Product>(k, item.head_dim);
  if (k_rows.data == nullptr || keys % 2 != 0) {
    pack_rows<Product>(k, keys, round_up(keys, 2), item.head_dim, scratch.k, scratch.k_stride);
    k_rows = {scratch.k, scratch.k_stride, 1};
  }
  pack_token_units<Product>(v, keys, item.v_head_dim, scratch.v, scratch.v_stride);
  if (keys % 2 != 0 && Product::kDepth == 1) {
    std::memset(scratch.v + int64_t{keys} * scratch.v_stride, 0, sizeof(float) * scratch.v_stride);
  }

  const int strips = (item.rows + kStrip - 1) / kStrip;
  Ahead next_k(item.k, next_key, item.kv_len, item.head_dim, strips * kTile / kPanel);
  Ahead next_v(item.v, next_key, item.kv_len, item.v_head_dim, strips * scratch.v_rows / kPanel);
  for (int first = 0; first < item.rows; first += kStrip) {
    with_vecs(strip_vecs(item.rows, first), [&]<int kVecs>() {
      constexpr int kWidth = kVecs * kLanes;
      const int strip_keys =
          edge ? round_up(static_cast<int>(scratch.limit[min_int(first + kWidth, kTile) - 1]), 2)
               : kTile;
      multiply<Product, kVecs, Sums::kFresh>(k_rows, scratch.q + first * scratch.k_units,
                                             strip_keys, scratch.k_units, nullptr, scratch.s,
                                             &next_k);
      if (edge) mask_scores<kVecs>(scratch.s, strip_keys, scratch.limit + first);
      const bool moved =
          soft_max<Product, kVecs>(scratch.s, strip_keys, item.scale_log2, scratch.m + first,
                                   scratch.l + first, scratch.alpha, scratch.p);
      const Left<typename Product::Unit> v_units{scratch.v, 1, scratch.v_stride};
      float* const o = scratch.o + first * scratch.v_rows;
      const int steps = strip_keys / Product::kDepth;
      if (moved) {
        multiply<Product, kVecs, Sums::kScaleAndAdd>(v_units, scratch.p, scratch.v_rows, steps,
                                                     scratch.alpha, o, &next_v);
      } else {
        multiply<Product, kVecs, Sums::kAdd>(v_units, scratch.p, scratch.v_rows, steps, nullptr, o,
                                             &next_v);
      }
    });
  }
}

// out[r][c] = o[c][r] * inverse[r] for the kLanes queries of one vector; o is [v_head_dim, lanes].
template <DType kType>
void store_output(const AttendItem& item, const float* o, int lanes, Vec inverse, int first_row) {
  const int rows = min_int(kLanes, item.rows - first_row);
  for (int c = 0; c < item.v_head_dim; c += kLanes) {
    const int columns = min_int(kLanes, item.v_head_dim - c);
    Vec values[kLanes];
    FLEXPREFILL_UNROLL
    for (int n = 0; n < kLanes; ++n) {
      values[n] = n < columns ? load_f32(o + (c + n) * lanes) * inverse : broadcast(0.0f);
    }
    transpose(values);
    char* out =
        static_cast<char*>(item.out) + (int64_t{first_row} * item.out_stride + c) * kBytes<kType>;
    for (int r = 0; r < rows; ++r, out += item.out_stride * kBytes<kType>) {
      if (columns == kLanes) {
        store_from_f32<kType>(out, values[r]);
      } else {
        store_from_f32<kType>(out, values[r], columns);
      }
    }
  }
}

// out = O / l, lse = ln(l) + scaled m; a row that saw no key gives 0 and -inf.
template <typename Product>
void finish(const AttendItem& item, const AttendScratch<Product>& scratch) {
  for (int r = 0; r < item.rows; r += kLanes) {
    const int first = r / kStrip * kStrip;
    const int lanes = strip_vecs(item.rows, first) * kLanes;
    const float* const o = scratch.o + first * scratch.v_rows + (r - first);
    const Vec l = load_f32(scratch.l + r);
    // A row that saw a key has l >= 1, for the key of its maximum; NaN stays NaN.
    const Mask saw_none = less(l, broadcast(0.5f));
    const Vec inverse = select(saw_none, broadcast(0.0f), broadcast(1.0f) / l);
    switch (item.out_dtype) {
      case DType::kF32: store_output<DType::kF32>(item, o, lanes, inverse, r); break;
      case DType::kF16: store_output<DType::kF16>(item, o, lanes, inverse, r); break;
      default: store_output<DType::kBF16>(item, o, lanes, inverse, r); break;
    }
  }
  if (item.lse == nullptr) return;
  for (int r = 0; r < item.rows; ++r) {
    constexpr double kLn2 = 0.6931471805599453;
    const float l = scratch.l[r];
    const float scaled_max = scratch.m[r] * item.scale_log2;  // as soft_max rounded it
    item.lse[r] =
        l == 0.0f ? -__builtin_inff() : static_cast<float>(scaled_max * kLn2 + __builtin_log(l));
  }
}

// Queries and output rows are read and written once each, a page apart: without this every row
// waits for memory.
void fetch_rows(const AttendItem& item) {
  const int q_bytes = item.q.dtype == DType::kF32 ? 4 : 2;
  const int out_bytes = item.out_dtype == DType::kF32 ? 4 : 2;
  for (int r = 0; r < item.rows; ++r) {
    const char* q = static_cast<const char*>(row_of(item.q, r, q_bytes));
    for (int byte = 0; byte < item.head_dim * q_bytes; byte += 64) prefetch(q + byte);
    const char* out = static_cast<const char*>(item.out) + r * item.out_stride * out_bytes;
    for (int byte = 0; byte < item.v_head_dim * out_bytes; byte += 64) {
      prefetch_to_write(out + byte);
    }
  }
}

// First key block of the row's mask at or after block j; causal_blocks or more: none.
int32_t next_block(const AttendItem& item, int32_t j) {
  if (item.bits == nullptr) return j;
  while (j < item.causal_blocks) {
    const uint64_t word = item.bits[j / 64] >> (j % 64);
    if (word != 0) return j + __builtin_ctzll(word);
    j = (j / 64 + 1) * 64;
  }
  return j;
}

template <typename Product>
void attend_with(const AttendItem& item, void* memory) {
  const AttendScratch<Product> scratch(memory, item.head_dim, item.v_head_dim);
  fetch_rows(item);
  pack_rows<Product>(item.q, item.rows, round_up(item.rows, kLanes), item.head_dim, scratch.k,
                     scratch.k_stride);
  transpose_to_strips(scratch.k, scratch.k_stride, item.rows, scratch.k_units, scratch.q);
  std::memset(scratch.o, 0, sizeof(float) * kTile * scratch.v_rows);
  std::memset(scratch.l, 0, sizeof(float) * kTile);
  for (int r = 0; r < kTile; ++r) scratch.m[r] = kMasked;

  for (int32_t j = next_block(item, 0); j < item.causal_blocks;) {
    const int32_t next = next_block(item, j + 1);
    add_key_block(item, int64_t{kTile} * j, next < item.causal_blocks ? int64_t{kTile} * next : -1,
                  scratch);
    j = next;
  }
  finish(item, scratch);
}

}  // namespace

size_t attend_scratch_bytes(int32_t head_dim, int32_t v_head_dim) {
  const size_t f32 = AttendScratch<F32Product>(nullptr, head_dim, v_head_dim).bytes;
#ifdef FLEXPREFILL_BF16_PRODUCT
  // Larger for few channels only: its P does not share memory with S.
  const size_t bf16 = AttendScratch<Bf16Product>(nullptr, head_dim, v_head_dim).bytes;
  return f32 > bf16 ? f32 : bf16;
#else
  return f32;
#endif
}

void attend_f32(const AttendItem& item, void* scratch) { attend_with<F32Product>(item, scratch); }

#ifdef FLEXPREFILL_BF16_PRODUCT
void attend_bf16(const AttendItem& item, void* scratch) { attend_with<Bf16Product>(item, scratch); }
#endif

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
