#include "runtime/kv_cache.h"

#include <string>

namespace flexprefill::runtime {

KvCache::KvCache(const ModelConfig& config, int64_t capacity, DType dtype)
    : kv_heads_(config.kv_heads), head_dim_(config.head_dim), capacity_(capacity), dtype_(dtype) {
  const std::string purpose = "the keys and values of " + std::to_string(capacity) + " tokens";
  const auto layer_bytes =
      static_cast<size_t>(capacity * kv_heads_ * head_dim_ * dtype_bytes(dtype_));
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    k_.emplace_back(layer_bytes, purpose);
    v_.emplace_back(layer_bytes, purpose);
  }
}

KvView KvCache::view(int32_t layer, int64_t kv_len) const {
  KvView view;
  view.k = head_view(k_[static_cast<size_t>(layer)], kv_len);
  view.v = head_view(v_[static_cast<size_t>(layer)], kv_len);
  return view;
}

HeadView KvCache::head_view(const Buffer& buffer, int64_t kv_len) const {
  HeadView view;
  view.data = buffer.data();
  view.dtype = dtype_;
  view.tokens = kv_len;
  view.heads = kv_heads_;
  view.head_dim = head_dim_;
  view.token_stride = head_dim_;
  view.head_stride = capacity_ * head_dim_;
  return view;
}

int64_t KvCache::bytes(int64_t tokens) const {
  return tokens * 2 * static_cast<int64_t>(k_.size()) * kv_heads_ * head_dim_ * dtype_bytes(dtype_);
}

}  // namespace flexprefill::runtime
