#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace flexprefill::runtime {

enum class Architecture : uint8_t { kLlama, kMistral, kQwen2, kQwen3 };

/// The name config.json uses: LlamaForCausalLM, ...
std::string_view to_string(Architecture architecture);

/// Rotary embedding: type `default`, or `llama3`, which slows the low frequencies down.
struct RopeConfig {
  double theta = 10000.0;  // (0, 1e12]
  bool llama3 = false;     // the four fields below apply
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_max_positions = 0;
};

/// What config.json and generation_config.json say, validated: every size is positive and bounded,
/// so that products of two sizes and a token count fit int64_t.
struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int32_t layers = 0;
  int32_t heads = 0;  // a multiple of kv_heads
  int32_t kv_heads = 0;
  int32_t head_dim = 0;  // even, <= 256
  int64_t max_positions = 0;
  float rms_norm_eps = 0.0f;
  bool tied_embeddings = false;  // the output layer is the embedding table
  bool qkv_bias = false;         // q_proj, k_proj and v_proj have a bias
  bool output_bias = false;      // o_proj has one
  bool mlp_bias = false;         // gate_proj, up_proj and down_proj have one
  bool qk_norm = false;          // RMSNorm of every query and key head, before the rotation
  RopeConfig rope;
  /// Some layer lets a token see only this many tokens; such a model runs prompts up to it.
  std::optional<int64_t> sliding_window;
  std::vector<int32_t> eos_ids;  // any of them ends the generation; may be empty
};

/// Reads the two files of a Hugging Face model folder (`generation_config` may be null). `where`
/// starts the messages. Throws Error naming the key and its value for an architecture, a rope type,
/// an activation, a quantization or a size that is not supported.
ModelConfig parse_config(const nlohmann::json& config, const nlohmann::json& generation_config,
                         const std::string& where);

/// The same from a model folder; generation_config.json may be missing.
ModelConfig load_config(const std::filesystem::path& folder);

/// Throws Error unless `prompt_tokens` + `new_tokens` fit the model's positions and its sliding
/// window, if it has one.
void check_length(const ModelConfig& config, int64_t prompt_tokens, int64_t new_tokens);

}  // namespace flexprefill::runtime
