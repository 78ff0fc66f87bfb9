#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "flexprefill/flexprefill.h"
#include "runtime/config.h"

namespace flexprefill::runtime {

struct ModelWeights;

/// Tokens of a prefill chunk unless the caller says otherwise; the reason and the measurements are
/// in session.cc.
int64_t default_chunk();

/// Configuration and weights of a model folder. Immutable: any number of sessions and threads may
/// share one; copies share the weights.
class Model {
 public:
  /// Reads config.json, generation_config.json and the safetensors files. Throws Error naming the
  /// file, key or tensor that is missing, has the wrong shape or is not supported.
  static Model load(const std::filesystem::path& folder);

  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return *weights_; }
  /// Bytes of weights held in memory (not counting the mapped embedding table).
  int64_t weight_bytes() const;

 private:
  ModelConfig config_;
  std::shared_ptr<const ModelWeights> weights_;
};

struct SessionOptions {
  int64_t capacity = 0;              // tokens, prompt and answer together; 0 = max_positions
  int threads = 0;                   // 0 = as many as OpenMP gives
  const Backend* backend = nullptr;  // attention backend; null = the first that accepts
  /// Type of the stored keys and values: f32, f16 or bf16. Unset: session.cc says which and why.
  std::optional<DType> cache_dtype = {};
};

/// Where a prefill is; called after every layer of every chunk.
struct Progress {
  int64_t tokens_done = 0;  // tokens of finished chunks
  int64_t tokens = 0;       // tokens of the prompt
  int64_t chunk_tokens = 0;
  int32_t layer = 0;  // finished layers of the current chunk, 1 .. layers
  int32_t layers = 0;

  /// Share of the work that is finished, [0, 1], counting every token of every layer alike.
  double fraction() const;
};

/// What plan() decided for one layer of one chunk. The mask and the reports are valid during the
/// callback only; PromptMasks (prompt_masks.h) keeps copies.
struct ChunkPlan {
  int64_t q_start = 0;  // position of the chunk's first token
  int64_t q_len = 0;
  int32_t layer = 0;
  const BlockMask& mask;                // rows of this chunk
  std::span<const HeadReport> reports;  // [heads]
};

struct PrefillOptions {
  Policy policy = Dense{};  // for every head of every layer
  /// Tokens per chunk, >= 1, the last one may be shorter; 0 = default_chunk(), or the whole prompt
  /// for Rule::kOfficial, which is defined for one chunk only.
  int64_t chunk = 0;
  bool losses = false;  // also compute PrefillResult::losses (runs the output layer on every token)
  std::function<void(const Progress&)> on_progress = {};
  std::function<void(const ChunkPlan&)> on_plan = {};
};

/// Wall-clock seconds by part; they add up to the whole.
struct PartSeconds {
  double matmul = 0.0;     // projections and the output layer
  double plan = 0.0;       // plan()
  double attend = 0.0;     // attend()
  double pointwise = 0.0;  // norms, rotation, activation, embedding, losses
  double rest = 0.0;       // workspace, callbacks, everything else
};

struct PrefillResult {
  int64_t prompt_tokens = 0;
  double prefill_seconds = 0.0;
  PartSeconds parts;  // plan_seconds and attend_seconds of the reports are parts.plan and .attend
  double computed_share = 1.0;  // kept / causal blocks over layers, heads and chunks
  /// Lowest HeadReport::coverage over layers, heads and chunks; NaN when none was measured.
  float coverage_min = std::numeric_limits<float>::quiet_NaN();
  std::string backend;                           // name of the backend that ran the attention
  std::string dtypes;                            // for people: "matmul f32, kv cache f16"
  int64_t chunk = 0;                             // tokens per chunk used
  int64_t cache_bytes = 0;                       // keys and values of these tokens
  int64_t workspace_bytes = 0;                   // plan() and attend()
  std::vector<std::vector<HeadReport>> reports;  // [chunks * layers][heads], chunk by chunk
  /// losses[t] = -ln p(ids[t + 1] | ids[0 .. t]), [prompt_tokens - 1]; empty unless asked for.
  std::vector<float> losses;
};

/// One sequence: a KV cache that grows by prefill() and decode(). One thread at a time.
class Session {
 public:
  /// Reserves the cache (address space; memory is taken as tokens arrive). Keeps a copy of `model`.
  Session(const Model& model, const SessionOptions& options);
  ~Session();
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;

  /// Appends the tokens. Throws Error if they do not fit, an id is outside the vocabulary, or no
  /// backend accepts the policy; the session is then as it was before.
  PrefillResult prefill(std::span<const int32_t> ids, const PrefillOptions& options);

  /// Appends one token with dense attention and returns logits().
  std::span<const float> decode(int32_t id);

  /// Logits after the last token, [vocab_size], valid until the next call.
  std::span<const float> logits() const;

  int64_t tokens() const;    // in the cache
  int64_t capacity() const;  // most tokens the cache can hold
  void clear();              // forgets every token; keeps the memory
  const ModelConfig& config() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flexprefill::runtime
