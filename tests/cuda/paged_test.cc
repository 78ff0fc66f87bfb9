// Keys in pages give the bits of the same keys in one piece.

#include <numeric>
#include <random>

#include <cstring>

#include "tests/cuda/gpu.h"

namespace flexprefill::test {
namespace {

enum class PageLayout {
  kTokensOutside,
  kHeadsOutside
};  // [pages, page_size, heads, ...] or
    // [pages, heads, page_size, ...]

// The keys of a contiguous tensor in pages of a pool, in random order; everything else is NaN.
struct Pool {
  Pool(const HeadView& from, int32_t page_size, int64_t page_stride, PageLayout layout,
       std::span<const int32_t> table) {
    const auto bytes = static_cast<size_t>(dtype_bytes(from.dtype));
    const auto pages = static_cast<int64_t>(table.size()) + 5;  // some that nobody uses
    memory.assign(static_cast<size_t>(pages * page_stride) * bytes, std::byte{0xff});
    view = head_view(memory.data(), from.dtype, page_size, from.heads, from.head_dim);
    if (layout == PageLayout::kHeadsOutside) {
      view.token_stride = from.head_dim;
      view.head_stride = int64_t{page_size} * from.head_dim;
    }
    for (int64_t t = 0; t < from.tokens; ++t) {
      for (int32_t g = 0; g < from.heads; ++g) {
        const int64_t to = table[static_cast<size_t>(t / page_size)] * page_stride +
                           t % page_size * view.token_stride + g * view.head_stride;
        const auto* source =
            static_cast<const std::byte*>(from.data) +
            static_cast<size_t>(t * from.token_stride + g * from.head_stride) * bytes;
        std::memcpy(memory.data() + static_cast<size_t>(to) * bytes, source,
                    static_cast<size_t>(from.head_dim) * bytes);
      }
    }
  }

  std::vector<std::byte> memory;
  HeadView view;
};

// gap: elements between a page of the wider of k and v and the next.
void expect_pages_change_nothing(const Case& c, int32_t page_size, PageLayout layout,
                                 int64_t gap = 0) {
  SCOPED_TRACE(c.name() + " page " + std::to_string(page_size) + " gap " + std::to_string(gap));
  const Instance contiguous(c);
  run(contiguous);

  Instance paged(c);
  std::vector<int32_t> table(static_cast<size_t>((c.kv_len + page_size - 1) / page_size));
  std::iota(table.begin(), table.end(), 3);
  std::shuffle(table.begin(), table.end(), std::mt19937(11));
  const HeadView &k_rows = paged.problem.kv.k, &v_rows = paged.problem.kv.v;
  const int64_t page_stride =
      int64_t{page_size} * k_rows.heads * std::max(k_rows.head_dim, v_rows.head_dim) + gap;
  const Pool k(k_rows, page_size, page_stride, layout, table);
  const Pool v(v_rows, page_size, page_stride, layout, table);
  paged.problem.kv = {.k = k.view,
                      .v = v.view,
                      .block_table = table.data(),
                      .page_size = page_size,
                      .page_stride = page_stride,
                      .paged_kv_len = c.kv_len};
  run(paged);
  EXPECT_TRUE(same_results(contiguous, paged));
  for (const float value : paged.out.values()) ASSERT_FALSE(std::isnan(value));
}

TEST(CudaPages, OfEverySizeGiveTheBitsOfTheContiguousCall) {
  for (const int32_t page_size :
       {1, 2, 3, 7, 8, 16, 24, 32, 40, 48, 64, 100, 128, 200, 256, 528, 784, 1056}) {
    for (const auto layout : {PageLayout::kTokensOutside, PageLayout::kHeadsOutside}) {
      expect_pages_change_nothing(half_precision({.q_len = 200,
                                                  .kv_len = 1201,
                                                  .heads = 4,
                                                  .kv_heads = 2,
                                                  .k_dim = 128,
                                                  .v_dim = 128,
                                                  .mask = MaskKind::kRandom}),
                                  page_size, layout);
    }
  }
}

TEST(CudaPages, ServeEveryHeadDim) {
  for (const int32_t dim : {64, 96, 128, 192, 256}) {
    for (const int32_t page_size : {1, 16, 64, 128, 528}) {
      expect_pages_change_nothing(
          half_precision({.q_len = 150, .kv_len = 700, .k_dim = dim, .v_dim = dim}, DType::kF16),
          page_size, PageLayout::kTokensOutside);
    }
  }
}

// One page_stride for rows of 192 and of 128 channels.
TEST(CudaPages, ServeKeysWiderThanValues) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const int32_t page_size : {1, 8, 16, 48, 64, 128, 200}) {
      for (const auto layout : {PageLayout::kTokensOutside, PageLayout::kHeadsOutside}) {
        expect_pages_change_nothing(half_precision({.q_len = 150,
                                                    .kv_len = 700,
                                                    .heads = 4,
                                                    .kv_heads = 2,
                                                    .k_dim = 192,
                                                    .v_dim = 128,
                                                    .mask = MaskKind::kRandom},
                                                   dtype),
                                    page_size, layout);
      }
    }
  }
}

// Pages need not follow each other, nor begin a whole number of eight tokens apart.
TEST(CudaPages, MayHaveGapsBetween) {
  for (const int32_t dim : {64, 96, 128, 192, 256}) {
    for (const int32_t page_size : {8, 16, 64, 128, 528}) {
      for (const int64_t gap : {8, 264, 8 * 2 * dim, 24 * 2 * dim}) {
        expect_pages_change_nothing(half_precision({.q_len = 150,
                                                    .kv_len = 700,
                                                    .heads = 4,
                                                    .kv_heads = 2,
                                                    .k_dim = dim,
                                                    .v_dim = dim}),
                                    page_size, PageLayout::kTokensOutside, gap);
      }
    }
  }
}

TEST(CudaPages, MayEndAnywhere) {
  for (int64_t kv_len = 1; kv_len <= 260; kv_len += kv_len % 64 == 0 ? 1 : 7) {
    for (const int32_t page_size : {1, 16, 48, 128}) {
      expect_pages_change_nothing(half_precision({.q_len = std::min<int64_t>(kv_len, 9),
                                                  .kv_len = kv_len,
                                                  .k_dim = kv_len % 2 == 0 ? 256 : 64,
                                                  .v_dim = kv_len % 2 == 0 ? 256 : 64}),
                                  page_size, PageLayout::kTokensOutside);
    }
  }
}

// Keys wholly in the past: the last block is then full of visible keys up to kv_len. Rows that are
// gathered, and copies per page.
TEST(CudaPages, MayLieWhollyInThePast) {
  for (const int32_t dim : {64, 128, 256}) {
    for (const int32_t page_size : {1, 16}) {
      expect_pages_change_nothing(
          half_precision(
              {.q_len = 130, .kv_len = 333, .q_start = 5000, .k_dim = dim, .v_dim = dim}),
          page_size, PageLayout::kTokensOutside);
    }
  }
}

}  // namespace
}  // namespace flexprefill::test
