// attend() for query blocks that share keys: exact softmax attention of each over the key blocks of
// its mask row, in the online form. Per key block and strip of queries (lanes):
//
//   S^T = K Q^T;  m' = max(m, max S);  P = 2^(c (S - m'));  l = l 2^(c (m - m')) + sum P
//   O^T = O^T 2^(c (m - m')) + V^T P^T          with c = softmax_scale * log2(e)
//
// Every step runs down the keys, so no sum ever crosses lanes. Compiled once per instruction set;
// the loop nest and its sizes are explained in docs/kernels.md.

#include "cpu/kernels.h"
#include "cpu/soft_max.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {
namespace {

// The maximum before the first key: finite, so that a hidden key's score differs from it by -inf.
constexpr float kNoMaximum = -3.4028234663852886e38f;

// What one query block carries from key block to key block.
template <typename Product>
struct QueryState {
  typename Product::Unit* q;  // strips of [k_units, lanes]
  float* o;                   // strips of [v_rows, lanes]
  float* m;                   // [128] running maximum of S
  float* l;                   // [128] running sum of P
};

// The scratch of one thread.
template <typename Product>
struct AttendScratch {
  using Unit = typename Product::Unit;
  int k_units, k_stride, v_stride, v_rows;
  Unit* k;          // [128, k_stride]
  Unit* v[2];       // [128 / kDepth, v_stride] of this key block and of the one before
  float* s;         // [128, kStrip]
  Unit* p[2];       // [128 / kDepth, kStrip] of this strip and of the one before
  float* alpha[2];  // [kStrip] as p
  float* top;       // [kStrip] maximum of S of this block and those before
  float* limit;     // [128] keys of the block at hand that a query may see
  QueryState<Product> queries[kMaxQueryBlocks];
  size_t bytes;

  AttendScratch(void* memory, int head_dim, int v_head_dim) {
    k_units = (head_dim + Product::kDepth - 1) / Product::kDepth;
    k_stride = tile_stride(k_units);
    v_stride = tile_stride(v_head_dim);
    v_rows = round_up(v_head_dim, 2);
    Carver carver(memory);
    k = carver.take<Unit>(int64_t{kTile} * k_stride);
    s = carver.take<float>(int64_t{kTile} * kStrip);
    for (int n = 0; n < 2; ++n) {
      alpha[n] = carver.take<float>(kStrip);
      if constexpr (kOverlaps<Product>) {
        v[n] = carver.take<Unit>(int64_t{kTile} / Product::kDepth * v_stride);
        p[n] = carver.take<Unit>(int64_t{kTile} / Product::kDepth * kStrip);
      } else {  // no strip waits, and P takes the place of S
        v[n] = n == 0 ? carver.take<Unit>(int64_t{kTile} / Product::kDepth * v_stride) : v[0];
        p[n] = s;
      }
    }
    top = carver.take<float>(kStrip);
    limit = carver.take<float>(kTile);
    for (QueryState<Product>& query : queries) {
      query.q = carver.take<Unit>(int64_t{kTile} * k_units);
      query.o = carver.take<float>(int64_t{kTile} * v_rows);
      query.m = carver.take<float>(kTile);
      query.l = carver.take<float>(kTile);
    }
    bytes = carver.bytes();
  }
};

// Whether the query block keeps key block j.
bool keeps(const QueryBlock& block, int32_t j) {
  return j < block.causal_blocks &&
         (block.bits == nullptr || (block.bits[j / 64] >> (j % 64) & 1) != 0);
}

// First key block at or after j that the query block keeps; causal_blocks or more: none.
int32_t next_kept(const QueryBlock& block, int32_t j) {
  if (block.bits == nullptr) return j;
  while (j < block.causal_blocks) {
    const uint64_t word = block.bits[j / 64] >> (j % 64);
    if (word != 0) return j + __builtin_ctzll(word);
    j = (j / 64 + 1) * 64;
  }
  return j;
}

// First key block at or after j that some query block of the item keeps, or kNone.
constexpr int32_t kNone = 0x7fffffff;
int32_t next_kept(const AttendItem& item, int32_t j) {
  int32_t next = kNone;
  for (int b = 0; b < item.num_query_blocks; ++b) {
    const int32_t kept = next_kept(item.query_blocks[b], j);
    if (kept < item.query_blocks[b].causal_blocks) next = min_int(next, kept);
  }
  return next;
}

// Keys of the block at first_key that the block's last query sees.
int visible_keys(const AttendItem& item, const QueryBlock& block, int64_t first_key) {
  const int64_t keys = min_int64(kTile, item.kv_len - first_key);
  return static_cast<int>(min_int64(keys, block.first_position + block.rows - first_key));
}

// Sets limit[lane] for the key block at first_key.
void set_limits(const AttendItem& item, const QueryBlock& block, int64_t first_key, float* limit) {
  const int64_t keys = min_int64(kTile, item.kv_len - first_key);
  for (int r = 0; r < kTile; ++r) {
    const int row = min_int(r, block.rows - 1);  // lanes past the last row are never read
    limit[r] = static_cast<float>(min_int64(keys, block.first_position + row + 1 - first_key));
  }
}

// Packs the first `keys` keys and values of a block. Keys that are units already stay where they
// lie; returns where they are read.
template <typename Product>
Left<typename Product::Unit> pack_key_block(const AttendItem& item, int64_t first_key, int keys,
                                            typename Product::Unit* v_units,
                                            const AttendScratch<Product>& scratch) {
  const int k_bytes = item.k.dtype == DType::kF32 ? 4 : 2;
  const int v_bytes = item.v.dtype == DType::kF32 ? 4 : 2;
  const TokenRows k{row_of(item.k, first_key, k_bytes), item.k.dtype, item.k.stride};
  const TokenRows v{row_of(item.v, first_key, v_bytes), item.v.dtype, item.v.stride};
  pack_token_units<Product>(v, keys, item.v_head_dim, v_units, scratch.v_stride);
  if (keys % 2 != 0 && Product::kDepth == 1) {
    std::memset(v_units + int64_t{keys} * scratch.v_stride, 0, sizeof(float) * scratch.v_stride);
  }
  const Left<typename Product::Unit> in_place = rows_in_place<Product>(k, item.head_dim);
  if (in_place.data != nullptr && keys % 2 == 0) return in_place;  // an odd one would read beyond
  pack_rows<Product>(k, keys, round_up(keys, 2), item.head_dim, scratch.k, scratch.k_stride);
  return {scratch.k, scratch.k_stride, 1};
}

// S of one strip, and its maximum in scratch.top.
template <typename Product>
void multiply_keys(const Strip<Product>& strip, Left<typename Product::Unit> k_rows,
                   const typename Product::Unit* q, const float* limit,
                   const AttendScratch<Product>& scratch, Ahead* next_k) {
  with_vecs(strip.vecs, [&]<int kVecs>() {
    for (int x = 0; x < kVecs; ++x) {
      store_f32(scratch.top + x * kLanes, load_f32(strip.m + x * kLanes));
    }
    if (limit != nullptr) {  // the maximum is that of visible scores
      multiply<Product, kVecs, Sums::kFresh>(k_rows, q, strip.keys, scratch.k_units, nullptr,
                                             scratch.s, nullptr, next_k);
      mask_scores<kVecs>(scratch.s, strip.keys, limit);
      find_top<kVecs>(scratch.s, strip.keys, scratch.top);
    } else {
      multiply<Product, kVecs, Sums::kFreshAndTop>(k_rows, q, strip.keys, scratch.k_units, nullptr,
                                                   scratch.s, scratch.top, next_k);
    }
  });
}

// O of one strip; `beside` is what is done meanwhile (multiply()).
template <typename Product, typename Beside>
void multiply_values(const Strip<Product>& strip, const AttendScratch<Product>& scratch,
                     Ahead* next_v, Beside beside) {
  const Left<typename Product::Unit> v_units{strip.v, 1, scratch.v_stride};
  const int steps = strip.keys / Product::kDepth;
  with_vecs(strip.vecs, [&]<int kVecs>() {
    if (strip.moved) {
      multiply<Product, kVecs, Sums::kScaleAndAdd>(v_units, strip.p, scratch.v_rows, steps,
                                                   strip.alpha, strip.o, nullptr, next_v, beside);
    } else {
      multiply<Product, kVecs, Sums::kAdd>(v_units, strip.p, scratch.v_rows, steps, nullptr,
                                           strip.o, nullptr, next_v, beside);
    }
  });
}

// The strips of an item on their way: with kOverlaps each waits for its values until the next has
// its scores, be that in another query block or against another key block.
template <typename Product>
struct Pipeline {
  const AttendScratch<Product>& scratch;
  Strip<Product> waiting = {};
  int strip = 0, key_block = 0;  // which of two buffers is next

  // The buffers of a new strip.
  Strip<Product> begin_strip() {
    Strip<Product> next;
    next.alpha = scratch.alpha[strip];
    next.p = scratch.p[strip];
    next.v = scratch.v[key_block];
    strip ^= 1;
    return next;
  }

  // Takes on a strip whose scores are there.
  void add(Strip<Product> next, float c, Ahead* next_v) {
    SoftMax<Product> soft_max(scratch.s, scratch.top, c, next);
    if constexpr (kOverlaps<Product>) {
      if (waiting.vecs != 0) {
        multiply_values(waiting, scratch, next_v, soft_max);
      } else {
        soft_max.finish();
      }
      waiting = next;
    } else {
      soft_max.finish();
      multiply_values(next, scratch, next_v, Nothing());
    }
  }

  void finish() {
    if (waiting.vecs != 0) multiply_values(waiting, scratch, nullptr, SoftMax<Product>());
  }
};

// One query block against the packed key block at first_key.
template <typename Product>
void add_key_block(const AttendItem& item, const QueryBlock& block, int64_t first_key,
                   Left<typename Product::Unit> k_rows, const QueryState<Product>& query,
                   Pipeline<Product>& pipeline, Ahead* next_k, Ahead* next_v) {
  const AttendScratch<Product>& scratch = pipeline.scratch;
  // Only the diagonal block and the tail of the keys hide keys from some query.
  const bool edge = first_key + kTile > item.kv_len || first_key + kTile > block.first_position + 1;
  if (edge) set_limits(item, block, first_key, scratch.limit);
  for (int first = 0; first < block.rows; first += kStrip) {
    Strip<Product> strip = pipeline.begin_strip();
    strip.vecs = strip_vecs(block.rows, first);
    strip.m = query.m + first;
    strip.l = query.l + first;
    strip.o = query.o + first * scratch.v_rows;
    const int last = min_int(first + strip.vecs * kLanes, kTile) - 1;
    strip.keys = edge ? round_up(static_cast<int>(scratch.limit[last]), 2) : kTile;
    multiply_keys(strip, k_rows, query.q + first * scratch.k_units,
                  edge ? scratch.limit + first : nullptr, scratch, next_k);
    pipeline.add(strip, item.scale_log2, next_v);
  }
}

// Key block j for every query block that keeps it; meanwhile block `next` is fetched.
template <typename Product>
void add_key_block(const AttendItem& item, int32_t j, int32_t next, Pipeline<Product>& pipeline) {
  const AttendScratch<Product>& scratch = pipeline.scratch;
  const int64_t first_key = int64_t{kTile} * j;
  int keys = 0, strips = 0;
  for (int b = 0; b < item.num_query_blocks; ++b) {
    const QueryBlock& block = item.query_blocks[b];
    if (!keeps(block, j)) continue;
    const int visible = visible_keys(item, block, first_key);
    keys = keys < visible ? visible : keys;
    strips += (block.rows + kStrip - 1) / kStrip;
  }
  const auto k_rows = pack_key_block(item, first_key, keys, scratch.v[pipeline.key_block], scratch);
  const int64_t next_key = next == kNone ? item.kv_len : int64_t{kTile} * next;
  Ahead next_k(item.k, next_key, item.kv_len, item.head_dim, strips * kTile / kPanel);
  Ahead next_v(item.v, next_key, item.kv_len, item.v_head_dim, strips * scratch.v_rows / kPanel);
  for (int b = 0; b < item.num_query_blocks; ++b) {
    const QueryBlock& block = item.query_blocks[b];
    if (!keeps(block, j)) continue;
    add_key_block(item, block, first_key, k_rows, scratch.queries[b], pipeline, &next_k, &next_v);
  }
  pipeline.key_block ^= 1;
}

// out[r][c] = o[c][r] * inverse[r] for the kLanes queries of one vector; o is [v_head_dim, lanes].
template <DType kType>
void store_output(const QueryBlock& block, int v_head_dim, const float* o, int lanes, Vec inverse,
                  int first_row) {
  const int rows = min_int(kLanes, block.rows - first_row);
  for (int c = 0; c < v_head_dim; c += kLanes) {
    const int columns = min_int(kLanes, v_head_dim - c);
    Vec values[kLanes];
    FLEXPREFILL_UNROLL
    for (int n = 0; n < kLanes; ++n) {
      values[n] = n < columns ? load_f32(o + (c + n) * lanes) * inverse : broadcast(0.0f);
    }
    transpose(values);
    char* out = static_cast<char*>(block.out) + (first_row * block.out_stride + c) * kBytes<kType>;
    for (int r = 0; r < rows; ++r, out += block.out_stride * kBytes<kType>) {
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
void finish(const AttendItem& item, const QueryBlock& block, const QueryState<Product>& query,
            int v_rows) {
  for (int r = 0; r < block.rows; r += kLanes) {
    const int first = r / kStrip * kStrip;
    const int lanes = strip_vecs(block.rows, first) * kLanes;
    const float* const o = query.o + first * v_rows + (r - first);
    const Vec l = load_f32(query.l + r);
    // A row that saw a key has l >= 1, for the key of its maximum; NaN stays NaN.
    const Mask saw_none = less(l, broadcast(0.5f));
    const Vec inverse = select(saw_none, broadcast(0.0f), broadcast(1.0f) / l);
    const auto store = [&]<DType kType>() {
      store_output<kType>(block, item.v_head_dim, o, lanes, inverse, r);
    };
    switch (item.out_dtype) {
      case DType::kF32: store.template operator()<DType::kF32>(); break;
      case DType::kF16: store.template operator()<DType::kF16>(); break;
      default: store.template operator()<DType::kBF16>(); break;
    }
  }
  if (block.lse == nullptr) return;
  for (int r = 0; r < block.rows; ++r) {
    constexpr double kLn2 = 0.6931471805599453;
    const float l = query.l[r];
    const double scaled_max = static_cast<double>(query.m[r]) * item.scale_log2 * kLn2;
    block.lse[r] =
        l == 0.0f ? -__builtin_inff() : static_cast<float>(scaled_max + __builtin_log(l));
  }
}

// Queries and output rows are read and written once each, a page apart: without this every row
// waits for memory.
void fetch_rows(const AttendItem& item, const QueryBlock& block) {
  const int q_bytes = block.q.dtype == DType::kF32 ? 4 : 2;
  const int out_bytes = item.out_dtype == DType::kF32 ? 4 : 2;
  for (int r = 0; r < block.rows; ++r) {
    const char* q = static_cast<const char*>(row_of(block.q, r, q_bytes));
    for (int byte = 0; byte < item.head_dim * q_bytes; byte += 64) prefetch(q + byte);
    const char* out = static_cast<const char*>(block.out) + r * block.out_stride * out_bytes;
    for (int byte = 0; byte < item.v_head_dim * out_bytes; byte += 64) {
      prefetch_to_write(out + byte);
    }
  }
}

template <typename Product>
void begin(const AttendItem& item, const QueryBlock& block, const AttendScratch<Product>& scratch,
           const QueryState<Product>& query) {
  fetch_rows(item, block);
  pack_rows<Product>(block.q, block.rows, round_up(block.rows, kLanes), item.head_dim, scratch.k,
                     scratch.k_stride);
  transpose_to_strips(scratch.k, scratch.k_stride, block.rows, scratch.k_units, query.q);
  std::memset(query.o, 0, sizeof(float) * kTile * scratch.v_rows);
  std::memset(query.l, 0, sizeof(float) * kTile);
  for (int r = 0; r < kTile; ++r) query.m[r] = kNoMaximum;
}

template <typename Product>
void attend_with(const AttendItem& item, void* memory) {
  const AttendScratch<Product> scratch(memory, item.head_dim, item.v_head_dim);
  for (int b = 0; b < item.num_query_blocks; ++b) {
    begin(item, item.query_blocks[b], scratch, scratch.queries[b]);
  }
  Pipeline<Product> pipeline{scratch};
  for (int32_t j = next_kept(item, 0); j != kNone;) {
    const int32_t next = next_kept(item, j + 1);
    add_key_block(item, j, next, pipeline);
    j = next;
  }
  pipeline.finish();
  for (int b = 0; b < item.num_query_blocks; ++b) {
    finish(item, item.query_blocks[b], scratch.queries[b], scratch.v_rows);
  }
}

}  // namespace

size_t attend_scratch_bytes(int32_t head_dim, int32_t v_head_dim) {
  const size_t f32 = AttendScratch<F32Product>(nullptr, head_dim, v_head_dim).bytes;
#ifdef FLEXPREFILL_BF16_PRODUCT
  // Larger for few channels only: P of two strips does not share memory with S.
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
