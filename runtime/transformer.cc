#include "runtime/transformer.h"

#include <omp.h>

#include <algorithm>
#include <exception>

#include "runtime/ops.h"
#include "runtime/timer.h"

namespace flexprefill::runtime {
namespace {

// Rows that one thread takes through projections and pointwise operations at a time. Threads work
// on tiles of their own: two parallel regions per layer instead of one per operation, activations
// wider than the residual stream need memory for threads * 256 rows, not for a chunk, and they stay
// in the cache between the operations (needle-14m: 2 MB for gate and up). Fewer rows would make the
// weights' trip through the cache count.
constexpr int64_t kTileRows = 256;

// Logits of a loss tile: at most 64 MB.
constexpr int64_t kLossTileLogits = int64_t{1} << 24;

int64_t q_size(const ModelConfig& config) { return int64_t{config.heads} * config.head_dim; }

int64_t qkv_size(const ModelConfig& config) {
  return (int64_t{config.heads} + 2 * int64_t{config.kv_heads}) * config.head_dim;
}

// bf16 queries where keys and values are bf16: attention then computes with the processor's bf16
// products, twice as fast as f32. f16 products do not exist, so f16 caches keep f32 queries.
DType query_dtype(const KvCache& cache) {
  return cache.dtype() == DType::kBF16 ? DType::kBF16 : DType::kF32;
}

void add(PartSeconds& sum, const PartSeconds& parts, double weight) {
  sum.matmul += weight * parts.matmul;
  sum.pointwise += weight * parts.pointwise;
}

}  // namespace

Transformer::Transformer(const ModelConfig& config, const ModelWeights& weights)
    : config_(config), weights_(weights), rope_(config.rope, config.head_dim) {
  logits_.resize(static_cast<size_t>(config.vocab_size));
}

void Transformer::reserve(int64_t tokens) {
  if (tokens <= capacity_ && std::ssize(workers_) >= omp_get_max_threads()) return;
  tokens = std::max(tokens, capacity_);
  const std::string purpose = "the activations of " + std::to_string(tokens) + " tokens";
  const int64_t tile = std::min(tokens, kTileRows);
  const int64_t input_bytes = dtype_bytes(matmul_dtype());
  const auto buffer = [&](int64_t rows, int64_t columns, int64_t element_bytes) {
    return Buffer(static_cast<size_t>(rows * columns * element_bytes), purpose);
  };
  hidden_ = buffer(tokens, config_.hidden_size, sizeof(float));
  q_ = buffer(tokens, q_size(config_), sizeof(float));
  attended_ = buffer(tokens, q_size(config_), input_bytes);
  workers_.resize(static_cast<size_t>(omp_get_max_threads()));
  for (Worker& worker : workers_) {
    worker.input =
        buffer(tile, std::max(config_.hidden_size, config_.intermediate_size), input_bytes);
    worker.wide =
        buffer(tile, std::max(qkv_size(config_), 2 * config_.intermediate_size), sizeof(float));
  }
  capacity_ = tokens;
}

AttentionProblem Transformer::problem(const KvCache& cache, int32_t layer, int64_t q_len,
                                      int64_t kv_len) const {
  AttentionProblem problem;
  problem.q = head_view(q_.data(), query_dtype(cache), q_len, config_.heads, config_.head_dim);
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
  if (chunk.logits) {
    for_each_tile(tokens - 1, tokens, 1, parts, [&](int64_t row, int64_t rows, Worker& worker) {
      normed_output(row, rows, logits_.data(), worker);
    });
  }
}

// Calls visit(first row, number of rows, worker) for the tiles of rows first .. end - 1, each on
// one thread; a single tile runs outside a parallel region, so that its products use all threads.
template <typename Visit>
void Transformer::for_each_tile(int64_t first, int64_t end, int64_t tile, PartSeconds& parts,
                                Visit visit) {
  const int64_t num_tiles = (end - first + tile - 1) / tile;
  const auto run = [&](int64_t index, Worker& worker) {
    const int64_t row = first + index * tile;
    visit(row, std::min(tile, end - row), worker);
  };
  for (Worker& worker : workers_) worker.parts = {};
  if (num_tiles <= 1) {
    if (num_tiles == 1) run(0, workers_[0]);
    add(parts, workers_[0].parts, 1.0);
    return;
  }
  std::exception_ptr failure;  // one must not leave a parallel region
  double seconds = 0.0;
  {
    const ScopedTimer timer(seconds);
#pragma omp parallel for schedule(dynamic) num_threads(static_cast <int>(workers_.size()))
    for (int64_t index = 0; index < num_tiles; ++index) {
      try {
        run(index, workers_[static_cast<size_t>(omp_get_thread_num())]);
      } catch (...) {
#pragma omp critical(flexprefill_tile_failure)
        failure = std::current_exception();
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
  // Wall-clock time is divided as the threads' own times are.
  PartSeconds sum;
  for (const Worker& worker : workers_) add(sum, worker.parts, 1.0);
  add(parts, sum, seconds / (sum.matmul + sum.pointwise));
}

void Transformer::project_qkv(const Chunk& chunk, int32_t layer, KvCache& cache,
                              PartSeconds& parts) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const auto tokens = static_cast<int64_t>(chunk.ids.size());
  for_each_tile(0, tokens, kTileRows, parts, [&](int64_t row, int64_t rows, Worker& worker) {
    float* qkv = worker.wide.as<float>();
    {
      const ScopedTimer timer(worker.parts.pointwise);
      rms_norm(hidden_.as<float>() + row * config_.hidden_size, rows, weights.attention_norm,
               config_.rms_norm_eps, matmul_dtype(), worker.input.data());
    }
    {
      const ScopedTimer timer(worker.parts.matmul);
      matmul_.run(weights.qkv, worker.input.data(), rows, qkv, /*accumulate=*/false);
    }
    const ScopedTimer timer(worker.parts.pointwise);
    std::byte* q = q_.as<std::byte>() + row * q_size(config_) * dtype_bytes(query_dtype(cache));
    split_heads(qkv, rows, config_, weights, rope_, row, query_dtype(cache), q, cache, layer,
                chunk.position + row);
  });
}

void Transformer::finish_layer(int64_t tokens, int64_t first_row, int32_t layer,
                               PartSeconds& parts) {
  const LayerWeights& weights = weights_.layers[static_cast<size_t>(layer)];
  const int64_t attended_row_bytes = q_size(config_) * dtype_bytes(matmul_dtype());
  for_each_tile(
      first_row, tokens, kTileRows, parts, [&](int64_t row, int64_t rows, Worker& worker) {
        float* hidden = hidden_.as<float>() + row * config_.hidden_size;
        void* input = worker.input.data();
        float* gate_up = worker.wide.as<float>();
        {
          const ScopedTimer timer(worker.parts.matmul);
          matmul_.run(weights.attention_out, attended_.as<std::byte>() + row * attended_row_bytes,
                      rows, hidden, /*accumulate=*/true);
        }
        {
          const ScopedTimer timer(worker.parts.pointwise);
          rms_norm(hidden, rows, weights.mlp_norm, config_.rms_norm_eps, matmul_dtype(), input);
        }
        {
          const ScopedTimer timer(worker.parts.matmul);
          matmul_.run(weights.gate_up, input, rows, gate_up, /*accumulate=*/false);
        }
        {
          const ScopedTimer timer(worker.parts.pointwise);
          silu_mul(gate_up, rows, config_.intermediate_size, matmul_dtype(), input);
        }
        const ScopedTimer timer(worker.parts.matmul);
        matmul_.run(weights.down, input, rows, hidden, /*accumulate=*/true);
      });
}

void Transformer::write_losses(const Chunk& chunk, PartSeconds& parts) {
  if (chunk.losses.empty()) return;
  const auto threads = static_cast<int64_t>(workers_.size());
  const int64_t tile =
      std::clamp<int64_t>(kLossTileLogits / config_.vocab_size / threads, 1, kTileRows);
  const auto bytes = static_cast<size_t>(tile * config_.vocab_size) * sizeof(float);
  for (Worker& worker : workers_) {
    if (worker.loss_logits.bytes() < bytes) worker.loss_logits = Buffer(bytes, "the logits");
  }
  const auto end = static_cast<int64_t>(chunk.losses.size());
  for_each_tile(0, end, tile, parts, [&](int64_t row, int64_t rows, Worker& worker) {
    float* logits = worker.loss_logits.as<float>();
    normed_output(row, rows, logits, worker);
    const ScopedTimer timer(worker.parts.pointwise);
    cross_entropy(logits, rows, config_.vocab_size, chunk.next_ids.data() + row,
                  chunk.losses.data() + row);
  });
}

// Final norm and output layer: logits [rows, vocab_size].
void Transformer::normed_output(int64_t row, int64_t rows, float* logits, Worker& worker) {
  {
    const ScopedTimer timer(worker.parts.pointwise);
    rms_norm(hidden_.as<float>() + row * config_.hidden_size, rows, weights_.final_norm,
             config_.rms_norm_eps, matmul_dtype(), worker.input.data());
  }
  const ScopedTimer timer(worker.parts.matmul);
  matmul_.run(weights_.output, worker.input.data(), rows, logits, /*accumulate=*/false);
}

}  // namespace flexprefill::runtime
