#pragma once

#include <cstdint>
#include <vector>

#include "flexprefill/tensor.h"
#include "runtime/buffer.h"
#include "runtime/config.h"

namespace flexprefill::runtime {

/// Keys and values of every layer, [layers][kv_heads, capacity, head_dim] each: the keys of one
/// head are contiguous, which is how attention reads them.
class KvCache {
 public:
  /// `dtype` is f32, f16 or bf16. Memory is taken as rows are written.
  KvCache(const ModelConfig& config, int64_t capacity, DType dtype);

  /// Where the key and the value of one head and token go, [head_dim] of dtype().
  void* k_row(int32_t layer, int32_t g, int64_t t) const { return row(k_, layer, g, t); }
  void* v_row(int32_t layer, int32_t g, int64_t t) const { return row(v_, layer, g, t); }

  /// The first kv_len tokens.
  KvView view(int32_t layer, int64_t kv_len) const;

  DType dtype() const { return dtype_; }
  int64_t capacity() const { return capacity_; }
  /// Keys and values of all layers for this many tokens.
  int64_t bytes(int64_t tokens) const;

 private:
  HeadView head_view(const Buffer& buffer, int64_t kv_len) const;

  void* row(const std::vector<Buffer>& layers, int32_t layer, int32_t g, int64_t t) const {
    return layers[static_cast<size_t>(layer)].as<std::byte>() +
           (g * capacity_ + t) * head_dim_ * dtype_bytes(dtype_);
  }

  int32_t kv_heads_;
  int32_t head_dim_;
  int64_t capacity_;
  DType dtype_;
  std::vector<Buffer> k_, v_;  // [layers], each [kv_heads, capacity, head_dim]
};

}  // namespace flexprefill::runtime
