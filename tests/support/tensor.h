#pragma once

// Owning tensors for tests. Whatever a view does not cover (gaps between rows, tokens past the end)
// is poisoned with NaN, so that a backend that reads it shows.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "flexprefill/tensor.h"

namespace flexprefill::test {

enum class Layout : uint8_t {
  kPacked,     // [tokens, heads, head_dim]
  kHeadMajor,  // [heads, tokens, head_dim]
  kGaps,       // packed, with gaps after every row and token
  kWideGaps,   // the same, with gaps that keep rows aligned to 16 bytes
};

class Tensor {
 public:
  Tensor() = default;

  // All poison. `spare` tokens more than the view shows lie behind it.
  Tensor(DType dtype, int64_t tokens, int32_t heads, int32_t head_dim,
         Layout layout = Layout::kPacked, int64_t spare = 0);

  // Valid while the tensor lives where it is.
  HeadView view() const;

  float get(int64_t t, int32_t h, int32_t c) const;
  void set(int64_t t, int32_t h, int32_t c, float value);

  // Every element of the view, [tokens, heads, head_dim].
  std::vector<float> values() const;
  void fill(const std::function<float()>& next);
  void fill(std::span<const float> values);

  // Overwrites tokens [begin, end) of head h with alternating NaN, +inf and -inf.
  void poison(int64_t begin, int64_t end, int32_t h);

  // Whether everything that the view does not cover still is poison.
  bool gaps_untouched() const;

  std::span<const std::byte> bytes() const { return data_; }

 private:
  HeadView view_;
  std::vector<std::byte> data_;
};

// Tokens [begin, end) of a view.
HeadView slice(HeadView view, int64_t begin, int64_t end);

}  // namespace flexprefill::test
