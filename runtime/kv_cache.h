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

  /// Write rows for all kv heads of token t: `k` and `v` are [kv_heads, head_dim] f32.
  void store(int32_t layer, int64_t t, const float* k, const float* v);

  /// The first kv_len tokens.
  KvView view(int32_t layer, int64_t kv_len) const;

  DType dtype() const { return dtype_; }
  int64_t capacity() const { return capacity_; }
  /// Keys and values of all layers for this many tokens.
  int64_t bytes(int64_t tokens) const;

 private:
  HeadView head_view(const Buffer& buffer, int64_t kv_len) const;

  int32_t kv_heads_;
  int32_t head_dim_;
  int64_t capacity_;
  DType dtype_;
  std::vector<Buffer> k_, v_;  // [layers], each [kv_heads, capacity, head_dim]
};

}  // namespace flexprefill::runtime
