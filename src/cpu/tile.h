#pragma once

// The two building blocks of the kernels: packing tokens into a tile of units, and the
// register-tiled product of two tiles. In the namespace of the instruction set.
//
// Lanes are queries: a tile of queries is stored transposed, [units, lanes], and cut into strips of
// kStrip lanes, each contiguous. S^T = K Q^T and O^T += V^T P^T are then the same product: rows of
// the left operand are broadcast unit by unit, the right operand is read a vector of lanes at a
// time.

#include "cpu/simd.h"

namespace flexprefill::internal::FLEXPREFILL_ISA {

inline constexpr int kTile = 128;  // queries and keys of a block
inline constexpr int kStrip = kStripVecs * kLanes;

FLEXPREFILL_INLINE int min_int(int a, int b) { return a < b ? a : b; }
FLEXPREFILL_INLINE int64_t min_int64(int64_t a, int64_t b) { return a < b ? a : b; }
FLEXPREFILL_INLINE int round_up(int x, int step) { return (x + step - 1) / step * step; }

// Row stride of a tile of `units` columns: whole cache lines, an odd number of them, so that a
// column of 128 rows spreads over all sets of the first-level cache.
FLEXPREFILL_INLINE int tile_stride(int units) { return 16 * (((units + 15) / 16) | 1); }

// Carves a thread's scratch into arrays of 4-byte elements that begin on 64 bytes.
class Carver {
 public:
  explicit Carver(void* memory) : begin_(static_cast<char*>(memory)), next_(begin_) {}

  template <typename Element>
  Element* take(int64_t count) {
    static_assert(sizeof(Element) == 4);
    char* const at = next_;
    next_ += (count * 4 + 63) / 64 * 64;
    return reinterpret_cast<Element*>(at);
  }
  size_t bytes() const { return static_cast<size_t>(next_ - begin_); }

 private:
  char* begin_;
  char* next_;
};

FLEXPREFILL_INLINE const void* row_of(const TokenRows& tokens, int64_t t, int bytes) {
  return static_cast<const char*>(tokens.data) + t * tokens.stride * bytes;
}

// One row of `columns` channels as fp32, zero up to the next multiple of 16 columns.
template <DType kType, typename Store>
FLEXPREFILL_INLINE void convert_row(const void* row, int columns, Store store) {
  const char* source = static_cast<const char*>(row);
  int c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    store(c, load_as_f32<kType>(source + c * kBytes<kType>));
  }
  if (c < columns) {
    store(c, load_as_f32<kType>(source + c * kBytes<kType>, columns - c));
    c += kLanes;
  }
  for (; c % 16 != 0; c += kLanes) store(c, broadcast(0.0f));
}

// Packs tokens 0 .. num_tokens row by row, channels becoming units: tile is [num_rows, stride]. The
// last unit of a row is filled up with zero, and so are the rows past num_tokens.
template <typename Product, DType kType>
static void pack_rows_of(const TokenRows& tokens, int num_tokens, int num_rows, int columns,
                         typename Product::Unit* tile, int stride) {
  for (int r = 0; r < num_tokens; ++r) {
    typename Product::Unit* row = tile + static_cast<int64_t>(r) * stride;
    const void* const source = row_of(tokens, r, kBytes<kType>);
    if constexpr (Product::kDepth == 2 && kType == DType::kBF16) {
      std::memcpy(row, source, static_cast<size_t>(columns) * 2);
      if (columns % 2 != 0) std::memset(reinterpret_cast<char*>(row) + columns * 2, 0, 2);
    } else {
      convert_row<kType>(source, columns, [&](int c, Vec x) {
        if constexpr (Product::kDepth == 1) {
          store_f32(row + c, x);
        } else {
          store_bf16_units(row + c / 2, x);
        }
      });
    }
  }
  std::memset(tile + static_cast<int64_t>(num_tokens) * stride, 0,
              sizeof(*tile) * static_cast<size_t>(num_rows - num_tokens) * stride);
}

// Packs tokens so that neighbouring tokens share a unit: tile is [ceil(num_tokens / kDepth),
// stride].
template <typename Product, DType kType>
static void pack_token_units_of(const TokenRows& tokens, int num_tokens, int columns,
                                typename Product::Unit* tile, int stride) {
  if constexpr (Product::kDepth == 1) {
    pack_rows_of<Product, kType>(tokens, num_tokens, num_tokens, columns, tile, stride);
  } else {
#ifdef FLEXPREFILL_BF16_PRODUCT
    constexpr int kSize = kBytes<kType>;
    const char zeros[kSize * 256] = {};  // the neighbour of a last odd token
    for (int t = 0; t < num_tokens; t += 2) {
      typename Product::Unit* row = tile + static_cast<int64_t>(t / 2) * stride;
      const auto* first = static_cast<const char*>(row_of(tokens, t, kSize));
      const auto* second =
          t + 1 < num_tokens ? static_cast<const char*>(row_of(tokens, t + 1, kSize)) : zeros;
      int c = 0;
      for (; c + kLanes <= columns; c += kLanes) {
        pair_tokens<kType>(row + c, first + kSize * c, second + kSize * c);
      }
      if (c < columns) {
        alignas(64) char padded[2][kSize * kLanes] = {};
        std::memcpy(padded[0], first + kSize * c, static_cast<size_t>(columns - c) * kSize);
        std::memcpy(padded[1], second + kSize * c, static_cast<size_t>(columns - c) * kSize);
        pair_tokens<kType>(row + c, padded[0], padded[1]);
      }
    }
#endif
  }
}

template <typename Product>
static void pack_rows(const TokenRows& tokens, int num_tokens, int num_rows, int columns,
                      typename Product::Unit* tile, int stride) {
  switch (tokens.dtype) {
    case DType::kF32:
      return pack_rows_of<Product, DType::kF32>(tokens, num_tokens, num_rows, columns, tile,
                                                stride);
    case DType::kF16:
      return pack_rows_of<Product, DType::kF16>(tokens, num_tokens, num_rows, columns, tile,
                                                stride);
    default:
      return pack_rows_of<Product, DType::kBF16>(tokens, num_tokens, num_rows, columns, tile,
                                                 stride);
  }
}

template <typename Product>
static void pack_token_units(const TokenRows& tokens, int num_tokens, int columns,
                             typename Product::Unit* tile, int stride) {
  switch (tokens.dtype) {
    case DType::kF32:
      return pack_token_units_of<Product, DType::kF32>(tokens, num_tokens, columns, tile, stride);
    case DType::kF16:
      return pack_token_units_of<Product, DType::kF16>(tokens, num_tokens, columns, tile, stride);
    default:
      return pack_token_units_of<Product, DType::kBF16>(tokens, num_tokens, columns, tile, stride);
  }
}

// Left operand of a product: unit (row, step) lies at data[row * row_stride + step * step_stride].
template <typename Unit>
struct Left {
  const Unit* data;
  int64_t row_stride;
  int64_t step_stride;
};

// The rows of `tokens` as units without a copy, or null data where they are not units already:
// another dtype, an odd number of channels, rows at odd addresses.
template <typename Product>
static Left<typename Product::Unit> rows_in_place(const TokenRows& tokens, int columns) {
  using Unit = typename Product::Unit;
  constexpr DType kUnitType = Product::kDepth == 1 ? DType::kF32 : DType::kBF16;
  const bool fits = tokens.dtype == kUnitType && columns % Product::kDepth == 0 &&
                    tokens.stride % Product::kDepth == 0 &&
                    reinterpret_cast<uintptr_t>(tokens.data) % sizeof(Unit) == 0;
  if (!fits) return {nullptr, 0, 0};
  return {static_cast<const Unit*>(tokens.data), tokens.stride / Product::kDepth, 1};
}

// Width in vectors of the strip that starts at lane `first`, of `rows` queries in all.
FLEXPREFILL_INLINE int strip_vecs(int rows, int first) {
  return min_int(kStripVecs, (rows - first + kLanes - 1) / kLanes);
}

// [rows, stride] -> strips of [units, vecs * kLanes] one after the other. The tile has a multiple
// of kLanes rows and of kLanes columns; what lies past `rows` and `units` does not matter.
template <typename Unit>
static void transpose_to_strips(const Unit* tile, int stride, int rows, int units, Unit* strips) {
  for (int first = 0; first < rows; first += kStrip) {
    const int lanes = strip_vecs(rows, first) * kLanes;
    for (int lane = 0; lane < lanes; lane += kLanes) {
      for (int u = 0; u < units; u += kLanes) {
        Vec words[kLanes];  // of 32 bits, whatever they mean
        FLEXPREFILL_UNROLL
        for (int r = 0; r < kLanes; ++r) {
          words[r] = load_f32(tile + static_cast<int64_t>(first + lane + r) * stride + u);
        }
        transpose(words);
        for (int r = 0; r < min_int(kLanes, units - u); ++r) {
          store_f32(strips + (u + r) * lanes + lane, words[r]);
        }
      }
    }
    strips += static_cast<int64_t>(units) * lanes;
  }
}

// What a product does with the sums that are already there. kFreshAndTop also raises top [lanes] to
// the largest sum of each lane, while the sums are still in registers.
enum class Sums { kFresh, kFreshAndTop, kAdd, kScaleAndAdd };

// sums[r][lane] (+)= sum over steps of left(r, step) . right[step][lane] for kRows rows and
// kVecs * kLanes lanes; right is [steps, kVecs * kLanes], sums [kRows, kStride], scale [lanes].
// beside.step() is done at every step.
template <typename Product, int kRows, int kVecs, Sums kMode, int kStride, typename Beside>
FLEXPREFILL_INLINE void multiply_panel(Left<typename Product::Unit> left,
                                       const typename Product::Unit* right, int steps,
                                       const float* scale, float* sums, float* top,
                                       Beside& beside) {
  Vec acc[kRows][kVecs];
  FLEXPREFILL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FLEXPREFILL_UNROLL
    for (int x = 0; x < kVecs; ++x) {
      acc[r][x] = kMode == Sums::kFresh || kMode == Sums::kFreshAndTop
                      ? broadcast(0.0f)
                      : load_f32(sums + r * kStride + x * kLanes);
      if (kMode == Sums::kScaleAndAdd) acc[r][x] = acc[r][x] * load_f32(scale + x * kLanes);
    }
  }
  // A pointer for every four rows, whose strides the load adds up. From one pointer, twelve rows
  // take eleven offsets, more than there are registers: reloading them cost the product 3 %.
  constexpr int kFours = (kRows + 3) / 4;
  const typename Product::Unit* fours[kFours];
  FLEXPREFILL_UNROLL
  for (int f = 0; f < kFours; ++f) {
    fours[f] = left.data + 4 * f * left.row_stride;
    asm("" : "+r"(fours[f]));  // else the compiler finds the one pointer again
  }
  for (int step = 0; step < steps; ++step) {
    Vec lanes[kVecs];
    FLEXPREFILL_UNROLL
    for (int x = 0; x < kVecs; ++x) lanes[x] = Product::load(right + x * kLanes);
    FLEXPREFILL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const Vec unit = Product::broadcast_unit(fours[r / 4] + r % 4 * left.row_stride);
      FLEXPREFILL_UNROLL
      for (int x = 0; x < kVecs; ++x) acc[r][x] = Product::dot(acc[r][x], unit, lanes[x]);
    }
    beside.step();
    FLEXPREFILL_UNROLL
    for (int f = 0; f < kFours; ++f) fours[f] += left.step_stride;
    right += kVecs * kLanes;
  }
  FLEXPREFILL_UNROLL
  for (int r = 0; r < kRows; ++r) {
    FLEXPREFILL_UNROLL
    for (int x = 0; x < kVecs; ++x) store_f32(sums + r * kStride + x * kLanes, acc[r][x]);
  }
  if constexpr (kMode == Sums::kFreshAndTop) {
    FLEXPREFILL_UNROLL
    for (int x = 0; x < kVecs; ++x) {
      Vec even = load_f32(top + x * kLanes), odd = acc[1][x];
      FLEXPREFILL_UNROLL
      for (int r = 0; r < kRows; r += 2) {
        even = max(acc[r][x], even);
        odd = max(acc[r + 1][x], odd);
      }
      store_f32(top + x * kLanes, max(even, odd));
    }
  }
}

// Rows that will be needed soon, fetched into the second-level cache a few lines at a time between
// the panels of a product: a burst would hold up the product's own loads.
class Ahead {
 public:
  // A block's tokens from `first` on, none at or past `end`; spread over `panels` panels.
  Ahead(const TokenRows& tokens, int64_t first, int64_t end, int columns, int panels) {
    const int bytes = tokens.dtype == DType::kF32 ? 4 : 2;
    next_ = static_cast<const char*>(row_of(tokens, first, bytes));
    stride_ = tokens.stride * bytes;
    row_bytes_ = columns * bytes;
    rows_ = static_cast<int>(min_int64(kTile, end - first));
    rows_per_panel_ = (rows_ + panels - 1) / (panels > 0 ? panels : 1);
  }

  FLEXPREFILL_INLINE_MEMBER void fetch_some() {
    for (int n = 0; n < rows_per_panel_ && rows_ > 0; ++n, --rows_, next_ += stride_) {
      for (int byte = 0; byte < row_bytes_; byte += 64) prefetch(next_ + byte);
    }
  }

 private:
  const char* next_ = nullptr;
  int64_t stride_ = 0;
  int row_bytes_ = 0;
  int rows_ = 0;
  int rows_per_panel_ = 0;
};

// What multiply() does beside the product: step() at every step of a panel, finish() at the end.
struct Nothing {
  FLEXPREFILL_INLINE_MEMBER void step() {}
  FLEXPREFILL_INLINE_MEMBER void finish() {}
};

// multiply_panel() for any even number of rows: panels of kPanel rows, the rest as 8, 4 and 2.
// Where a panel has 6 rows, a remainder of 2 is joined with the panel before it as 4 + 4, because 2
// rows cannot hide the latency of the sums. The panels are inlined: as functions of their own they
// spent a tenth of the product on calls and address arithmetic.
template <typename Product, int kVecs, Sums kMode, int kStride = kVecs* kLanes,
          typename Beside = Nothing>
static __attribute__((noinline)) void multiply(Left<typename Product::Unit> left,
                                               const typename Product::Unit* right, int rows,
                                               int steps, const float* scale, float* sums,
                                               float* top = nullptr, Ahead* ahead = nullptr,
                                               Beside beside = {}) {
  const auto panel = [&]<int kRows>() __attribute__((always_inline)) {
    if (ahead != nullptr) ahead->fetch_some();
    multiply_panel<Product, kRows, kVecs, kMode, kStride>(left, right, steps, scale, sums, top,
                                                          beside);
    left.data += kRows * left.row_stride;
    sums += kRows * kStride;
    rows -= kRows;
  };
  while (rows >= kPanel && !(kPanel == 6 && rows == 8)) panel.template operator()<kPanel>();
  if constexpr (kPanel > 8) {
    if (rows >= 8) panel.template operator()<8>();
  }
  while (rows >= 4) panel.template operator()<4>();
  if (rows >= 2) panel.template operator()<2>();
  beside.finish();
}

// Calls body.operator()<kVecs>() with the strip's width as a constant.
template <typename Body>
FLEXPREFILL_INLINE void with_vecs(int vecs, Body body) {
  static_assert(kStripVecs == 2);
  if (vecs == 2) return body.template operator()<2>();
  return body.template operator()<1>();
}

}  // namespace flexprefill::internal::FLEXPREFILL_ISA
