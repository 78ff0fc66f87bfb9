#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

#include "runtime/config.h"
#include "runtime/matmul.h"
#include "runtime/safetensors.h"

namespace flexprefill::runtime {

/// Weights of one decoder layer. Projections that read the same input are one matrix.
struct LayerWeights {
  std::vector<float> attention_norm;  // [hidden_size]
  Linear qkv;                         // [(heads + 2 kv_heads) * head_dim, hidden_size]: q, k, v
  std::vector<float> q_norm;          // [head_dim], empty without qk_norm
  std::vector<float> k_norm;          // [head_dim], empty without qk_norm
  Linear attention_out;               // [hidden_size, heads * head_dim]
  std::vector<float> mlp_norm;        // [hidden_size]
  Linear gate_up;                     // [2 intermediate_size, hidden_size]: gate, up
  Linear down;                        // [hidden_size, intermediate_size]
};

/// All weights, converted once to what the operations read.
struct ModelWeights {
  SafetensorsModel file;                  // keeps the embedding table mapped
  const TensorInfo* embedding = nullptr;  // [vocab_size, hidden_size], read in place
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;  // [hidden_size]
  Linear output;                  // [vocab_size, hidden_size]
};

/// Opens the tensors of a model folder under their Hugging Face names (model.layers.0.self_attn.
/// q_proj.weight ...). Throws Error naming the tensor for one that is missing, has another shape
/// than the config says, or is not f32, f16 or bf16.
std::shared_ptr<const ModelWeights> load_weights(const std::filesystem::path& folder,
                                                 const ModelConfig& config);

/// `count` elements of a floating-point tensor, from element `first` on, as float.
void read_elements(const TensorInfo& tensor, int64_t first, int64_t count, float* out);

}  // namespace flexprefill::runtime
