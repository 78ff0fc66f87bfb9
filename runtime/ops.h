#pragma once

// The row-wise operations of a decoder layer, on the calling thread: the transformer gives every
// thread rows of its own. Inputs are f32, outputs f32 or bf16.

#include <cstdint>
#include <span>

#include "flexprefill/tensor.h"
#include "runtime/config.h"
#include "runtime/kv_cache.h"
#include "runtime/rope.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"

namespace flexprefill::runtime {

/// out [ids, hidden_size] = rows of the table [vocab_size, hidden_size]. On all threads.
void embed(const TensorInfo& table, std::span<const int32_t> ids, float* out);

/// out [rows, columns] = in / sqrt(mean(in^2) + eps) * weight.
void rms_norm(const float* in, int64_t rows, std::span<const float> weight, float eps,
              DType out_dtype, void* out);

/// out [rows, inner] = silu(gate) * up, with in [rows, 2 inner] = gate, up.
void silu_mul(const float* in, int64_t rows, int64_t inner, DType out_dtype, void* out);

/// Takes qkv [rows, (heads + 2 kv_heads) * head_dim] apart: normalises (where the layer has q and k
/// norms) and rotates queries and keys by rows rope_row, rope_row + 1, ... of the table, writes the
/// queries to q [rows, heads, head_dim] of q_dtype and the keys and values to tokens t, t + 1, ...
/// of the cache. Overwrites qkv.
void split_heads(float* qkv, int64_t rows, const ModelConfig& config, const LayerWeights& weights,
                 const RopeTable& rope, int64_t rope_row, DType q_dtype, void* q, KvCache& cache,
                 int32_t layer, int64_t t);

/// losses[r] = -ln softmax(logits[r])[targets[r]], logits [rows, vocab_size].
void cross_entropy(const float* logits, int64_t rows, int64_t vocab_size, const int32_t* targets,
                   float* losses);

}  // namespace flexprefill::runtime
