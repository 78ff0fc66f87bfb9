#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "flexprefill/tensor.h"
#include "runtime/buffer.h"
#include "runtime/config.h"
#include "runtime/kv_cache.h"
#include "runtime/matmul.h"
#include "runtime/rope.h"
#include "runtime/session.h"
#include "runtime/weights.h"

namespace flexprefill::runtime {

/// Tokens that run through the layers together, and what is wanted of them.
struct Chunk {
  std::span<const int32_t> ids;  // [tokens]
  int64_t position = 0;          // of ids[0]; the cache holds everything before it
  bool logits = false;           // of the last token
  /// The tokens that follow ids[0 .. losses.size()), and where their losses go; both empty if no
  /// losses are wanted.
  std::span<const int32_t> next_ids;  // [losses.size()]
  std::span<float> losses;            // at most [tokens]
};

/// The decoder: embedding, layers, output. Attention itself is the caller's function, so that
/// policies, plans and reports stay out of here. Owns the activations; one thread at a time.
class Transformer {
 public:
  /// Attends layer `layer` of `problem` (q, kv and out are set).
  using Attend = std::function<void(int32_t layer, const AttentionProblem& problem)>;

  /// Keeps references: both must outlive it.
  Transformer(const ModelConfig& config, const ModelWeights& weights);

  /// Runs the chunk and appends its keys and values to the cache. Adds the time of everything but
  /// `attend` to `parts`.
  void forward(const Chunk& chunk, KvCache& cache, const Attend& attend, PartSeconds& parts);

  /// Problem of a layer whose cache holds kv_len tokens, the last q_len of them queries.
  AttentionProblem problem(const KvCache& cache, int32_t layer, int64_t q_len,
                           int64_t kv_len) const;

  /// Of the last forward() with Chunk::logits, [vocab_size].
  std::span<const float> logits() const { return logits_; }

  /// Makes room for chunks of this many tokens.
  void reserve(int64_t tokens);

 private:
  // What one thread needs for its tile of rows.
  struct Worker {
    Buffer input;        // [tile, widest input of a product] of matmul_dtype()
    Buffer wide;         // [tile, widest output of a layer's product] f32
    Buffer loss_logits;  // [loss tile, vocab_size] f32, allocated when first needed
    PartSeconds parts;   // of the current stage
  };

  template <typename Visit>
  void for_each_tile(int64_t first, int64_t end, int64_t tile, PartSeconds& parts, Visit visit);

  void project_qkv(const Chunk& chunk, int32_t layer, KvCache& cache, PartSeconds& parts);
  void finish_layer(int64_t tokens, int64_t first_row, int32_t layer, PartSeconds& parts);
  void write_losses(const Chunk& chunk, PartSeconds& parts);
  void normed_output(int64_t row, int64_t rows, float* logits, Worker& worker);

  const ModelConfig& config_;
  const ModelWeights& weights_;
  Matmul matmul_;
  RopeTable rope_;
  int64_t capacity_ = 0;  // tokens of the next three
  Buffer hidden_;         // [tokens, hidden_size] f32: the residual stream
  Buffer q_;              // [tokens, heads, head_dim] f32 or bf16, as the cache asks
  Buffer attended_;       // [tokens, heads, head_dim] of matmul_dtype()
  std::vector<Worker> workers_;
  std::vector<float> logits_;  // [vocab_size]
};

}  // namespace flexprefill::runtime
