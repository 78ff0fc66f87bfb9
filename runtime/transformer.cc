#include "runtime/transformer.h"

#include <algorithm>

#include "runtime/ops.h"
#include "runtime/timer.h"

namespace flexprefill::runtime {
namespace {

// Rows that projections and pointwise operations take at a time. Activations wider than the
// residual stream then need memory for 512 tokens, not for a chunk, and stay in the last-level
// cache between the operations (needle-14m: 4 MB for gate and up).
constexpr int64_t kTileRows = 512;

// Logits of a loss tile: at most 64 MB.
constexpr int64_t kLossTileLogits = int64_t{1} << 24;

int64_t q_size(const ModelConfig& config) { return int64_t{config.heads} * config.head_dim; }

int64_t qkv_size(const ModelConfig& config) {
  return (int64_t{config.heads} + 2 * int64_t{config.kv_heads}) * config.head_dim;
}

// Calls visit(first row, number of rows) for the tiles of rows first .. end - 1.
template <typename Visit>
void for_each_tile(int64_t first, int64_t end, int64_t tile, Visit visit) {
  for (int64_t row = first; row < end; row += tile) visit(row, std::min(tile, end - row));
}

}  // namespace

Transformer::Transformer(const ModelConfig& config, const ModelWeights& weights)
    : config_(config), weights_(weights), rope_(config.rope, config.head_dim) {
  logits_.resize(static_cast<size_t>(config.vocab_size));
}

void Transformer::reserve(int64_t tokens) {
  if (tokens <= capacity_) return;
  const std::string purpose = "the activations of " + std::to_string(tokens) + " tokens";
  const int64_t tile = std::min(tokens, kTileRows);
  const int64_t input_bytes = dtype_bytes(matmul_dtype());
  const auto buffer = [&](int64_t rows, int64_t columns, int64_t element_bytes) {
    return Buffer(static_cast<size_t>(rows * columns * element_bytes), purpose);
  };
  hidden_ = buffer(tokens, config_.hidden_size, sizeof(float));
  q_ = buffer(tokens, q_size(config_), sizeof(float));
  attended_ = buffer(tokens, q_size(config_), input_bytes);
  input_ = buffer(tile, std::max(config_.hidden_size, config_.intermediate_size), input_bytes);
  wide_ = buffer(tile, std::max(qkv_size(config_), 2 * config_.intermediate_size), sizeof(float));
  capacity_ = tokens;
}

AttentionProblem Transformer::problem(const KvCache& cache, int32_t layer, int64_t q_len,
                                      int64_t kv_len) const {
  AttentionProblem problem;
  problem.q = head_view(q_.data(), DType::kF32, q_len, config_.heads, config_.head_dim);
  problem.kv = cache.view(layer, kv_len);
  problem.out = head_view(attended_.data(), matmul_dtype(), q_len, config_.heads, config_.head_dim);
  return problem;
}

void Transformer::forward(const Chunk& chunk, KvCache& cache, const Attend& attend,
                          PartSeconds& parts) {
  const auto tokens = static_cast<int64_t>(chunk.ids.size());
  reserve(tokens);
  {
    const ScopedTimer timer(parts.pointwise);
    embed(*weights_.embedding, chunk.ids, hidden_.as<float>());
    rope_.fill(chunk.position, tokens);
  }
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    project_qkv(chunk, layer, cache, parts);
    attend(layer, problem(cache, layer, tokens, chunk.position + tokens));
    // Nothing attends to the last layer's output: only the rows that the output layer reads count.
    const bool every_row = layer + 1 < config_.layers || !chunk.losses.empty();
    finish_layer(tokens, every_row ? 0 : tokens - (chunk.logits ? 1 : 0), layer, parts);
  }
  write_losses(chunk, parts);
  if (chunk.logits) write_logits(tokens - 1, parts);
}

void Transformer::project_qkv(const Chunk& chunk, int32_t layer, KvCache& cache,
                              PartSeconds& parts) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const auto tokens = static_cast<int64_t>(chunk.ids.size());
  for_each_tile(0, tokens, kTileRows, [&](int64_t row, int64_t rows) {
    {
      const ScopedTimer timer(parts.pointwise);
      rms_norm(hidden_.as<float>() + row * config_.hidden_size, rows, weights.attention_norm,
               config_.rms_norm_eps, matmul_dtype(), input_.data());
    }
    {
      const ScopedTimer timer(parts.matmul);
      matmul_.run(weights.qkv, input_.data(), rows, wide_.as<float>(), /*accumulate=*/false);
    }
    const ScopedTimer timer(parts.pointwise);
    split_heads(wide_.as<float>(), rows, config_, weights, rope_, row,
                q_.as<float>() + row * q_size(config_), cache, layer, chunk.position + row);
  });
}

void Transformer::finish_layer(int64_t tokens, int64_t first_row, int32_t layer,
                               PartSeconds& parts) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t attended_row_bytes = q_size(config_) * dtype_bytes(matmul_dtype());
  for_each_tile(first_row, tokens, kTileRows, [&](int64_t row, int64_t rows) {
    float* hidden = hidden_.as<float>() + row * config_.hidden_size;
    {
      const ScopedTimer timer(parts.matmul);
      matmul_.run(weights.attention_out, attended_.as<std::byte>() + row * attended_row_bytes, rows,
                  hidden, /*accumulate=*/true);
    }
    {
      const ScopedTimer timer(parts.pointwise);
      rms_norm(hidden, rows, weights.mlp_norm, config_.rms_norm_eps, matmul_dtype(), input_.data());
    }
    {
      const ScopedTimer timer(parts.matmul);
      matmul_.run(weights.gate_up, input_.data(), rows, wide_.as<float>(), /*accumulate=*/false);
    }
    {
      const ScopedTimer timer(parts.pointwise);
      silu_mul(wide_.as<float>(), rows, config_.intermediate_size, matmul_dtype(), input_.data());
    }
    const ScopedTimer timer(parts.matmul);
    matmul_.run(weights.down, input_.data(), rows, hidden, /*accumulate=*/true);
  });
}

void Transformer::write_losses(const Chunk& chunk, PartSeconds& parts) {
  if (chunk.losses.empty()) return;
  const int64_t tile = std::clamp<int64_t>(kLossTileLogits / config_.vocab_size, 1, kTileRows);
  const auto bytes = static_cast<size_t>(tile * config_.vocab_size) * sizeof(float);
  if (loss_logits_.bytes() < bytes) loss_logits_ = Buffer(bytes, "the logits of the losses");
  const auto end = static_cast<int64_t>(chunk.losses.size());
  for_each_tile(0, end, tile, [&](int64_t row, int64_t rows) {
    {
      const ScopedTimer timer(parts.pointwise);
      rms_norm(hidden_.as<float>() + row * config_.hidden_size, rows, weights_.final_norm,
               config_.rms_norm_eps, matmul_dtype(), input_.data());
    }
    {
      const ScopedTimer timer(parts.matmul);
      matmul_.run(weights_.output, input_.data(), rows, loss_logits_.as<float>(),
                  /*accumulate=*/false);
    }
    const ScopedTimer timer(parts.pointwise);
    cross_entropy(loss_logits_.as<float>(), rows, config_.vocab_size, chunk.next_ids.data() + row,
                  chunk.losses.data() + row);
  });
}

void Transformer::write_logits(int64_t row, PartSeconds& parts) {
  {
    const ScopedTimer timer(parts.pointwise);
    rms_norm(hidden_.as<float>() + row * config_.hidden_size, 1, weights_.final_norm,
             config_.rms_norm_eps, matmul_dtype(), input_.data());
  }
  const ScopedTimer timer(parts.matmul);
  matmul_.run(weights_.output, input_.data(), 1, logits_.data(), /*accumulate=*/false);
}

}  // namespace flexprefill::runtime
