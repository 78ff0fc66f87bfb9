#include "tests/support/tensor.h"

#include <algorithm>
#include <limits>

#include "numeric.h"

namespace flexprefill::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

bool is_nan(const void* data, DType dtype, int64_t index) {
  const float value = internal::load_element(data, dtype, index);
  return value != value;
}

}  // namespace

Tensor::Tensor(DType dtype, int64_t tokens, int32_t heads, int32_t head_dim, Layout layout,
               int64_t spare)
    : view_(head_view(nullptr, dtype, tokens, heads, head_dim)) {
  const int64_t all_tokens = tokens + spare;
  if (layout == Layout::kHeadMajor) {
    view_.token_stride = head_dim;
    view_.head_stride = all_tokens * head_dim;
  } else if (layout == Layout::kWideGaps) {
    view_.head_stride = head_dim + 8;
    view_.token_stride = heads * view_.head_stride + 24;
  } else if (layout == Layout::kGaps) {
    view_.head_stride = head_dim + 3;
    view_.token_stride = heads * view_.head_stride + 5;
  }
  const int64_t elements =
      layout == Layout::kHeadMajor ? heads * view_.head_stride : all_tokens * view_.token_stride;
  data_.resize(static_cast<size_t>(elements) * static_cast<size_t>(dtype_bytes(dtype)));
  for (int64_t n = 0; n < elements; ++n) internal::store_element(data_.data(), dtype, n, kNan);
}

HeadView Tensor::view() const {
  HeadView view = view_;
  // The library never writes through inputs; outputs are tensors of the test itself.
  view.data = const_cast<std::byte*>(data_.data());
  return view;
}

float Tensor::get(int64_t t, int32_t h, int32_t c) const {
  return internal::load_element(data_.data(), view_.dtype, internal::row_offset(view_, t, h) + c);
}

void Tensor::set(int64_t t, int32_t h, int32_t c, float value) {
  internal::store_element(data_.data(), view_.dtype, internal::row_offset(view_, t, h) + c, value);
}

std::vector<float> Tensor::values() const {
  std::vector<float> values;
  for (int64_t t = 0; t < view_.tokens; ++t) {
    for (int32_t h = 0; h < view_.heads; ++h) {
      for (int32_t c = 0; c < view_.head_dim; ++c) values.push_back(get(t, h, c));
    }
  }
  return values;
}

void Tensor::fill(const std::function<float()>& next) {
  for (int64_t t = 0; t < view_.tokens; ++t) {
    for (int32_t h = 0; h < view_.heads; ++h) {
      for (int32_t c = 0; c < view_.head_dim; ++c) set(t, h, c, next());
    }
  }
}

void Tensor::fill(std::span<const float> values) {
  size_t n = 0;
  fill([&] { return values[n++]; });
}

void Tensor::poison(int64_t begin, int64_t end, int32_t h) {
  constexpr float kPoison[] = {kNan, kInf, -kInf};
  for (int64_t t = begin; t < std::min(end, view_.tokens); ++t) {
    for (int32_t c = 0; c < view_.head_dim; ++c) set(t, h, c, kPoison[(t + c) % 3]);
  }
}

bool Tensor::gaps_untouched() const {
  const auto elements = static_cast<int64_t>(data_.size()) / dtype_bytes(view_.dtype);
  std::vector<bool> covered(static_cast<size_t>(elements));
  for (int64_t t = 0; t < view_.tokens; ++t) {
    for (int32_t h = 0; h < view_.heads; ++h) {
      const auto row = covered.begin() + internal::row_offset(view_, t, h);
      std::fill(row, row + view_.head_dim, true);
    }
  }
  for (int64_t n = 0; n < elements; ++n) {
    if (!covered[static_cast<size_t>(n)] && !is_nan(data_.data(), view_.dtype, n)) return false;
  }
  return true;
}

HeadView slice(HeadView view, int64_t begin, int64_t end) {
  view.data = static_cast<std::byte*>(view.data) +
              begin * view.token_stride * static_cast<int64_t>(dtype_bytes(view.dtype));
  view.tokens = end - begin;
  return view;
}

}  // namespace flexprefill::test
