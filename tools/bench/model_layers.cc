#include "tools/bench/model_layers.h"

#include <algorithm>

#include "runtime/kv_cache.h"
#include "runtime/tokenizer.h"
#include "runtime/transformer.h"
#include "src/numeric.h"

namespace flexprefill::tools {
namespace {

std::vector<float> values_of(const HeadView& view) {
  const auto row_size = static_cast<size_t>(view.head_dim);
  std::vector<float> values(static_cast<size_t>(view.tokens * view.heads) * row_size);
  float* row = values.data();
  for (int64_t t = 0; t < view.tokens; ++t)
    for (int32_t h = 0; h < view.heads; ++h, row += row_size) internal::load_row(view, t, h, row);
  return values;
}

// Copies one head [tokens, channels] out of and into tensors [tokens, heads, channels].
void copy_head(std::span<const float> from, int32_t from_heads, int32_t from_head,
               std::span<float> to, int32_t to_heads, int32_t to_head, int32_t channels) {
  const auto row = static_cast<size_t>(channels);
  const size_t from_stride = static_cast<size_t>(from_heads) * row;
  const size_t to_stride = static_cast<size_t>(to_heads) * row;
  const float* source = from.data() + static_cast<size_t>(from_head) * row;
  float* target = to.data() + static_cast<size_t>(to_head) * row;
  for (size_t done = 0; done < to.size(); done += to_stride) {
    std::copy_n(source, row, target);
    source += from_stride;
    target += to_stride;
  }
}

std::span<const float> tokens_of(const std::vector<float>& values, int64_t first, int64_t count,
                                 int64_t row_size) {
  return std::span(values).subspan(static_cast<size_t>(first * row_size),
                                   static_cast<size_t>(count * row_size));
}

}  // namespace

std::vector<int32_t> fitted(const std::vector<int32_t>& ids, int64_t tokens) {
  std::vector<int32_t> result(static_cast<size_t>(tokens));
  for (size_t n = 0; n < result.size(); ++n) result[n] = ids[n % ids.size()];
  return result;
}

std::vector<int32_t> ids_of_text(const std::string& folder, const std::string& text,
                                 int64_t tokens) {
  std::vector<int32_t> ids =
      runtime::Tokenizer::load(folder).encode(text, /*add_special_tokens=*/true);
  if (ids.empty()) throw Error("the prompt is empty; name a file with text");
  return tokens == 0 ? ids : fitted(ids, tokens);
}

ModelLayers::ModelLayers(const runtime::Model& model, std::span<const int32_t> ids,
                         const Context& context) {
  const runtime::ModelConfig& config = model.config();
  const auto tokens = static_cast<int64_t>(ids.size());
  runtime::check_length(config, tokens, 0);
  shape_ = {config.heads, config.kv_heads, config.head_dim, config.head_dim,
            tokens,       tokens,          DType::kF32};
  runtime::KvCache cache(config, tokens, DType::kF32);
  runtime::Transformer transformer(config, model.weights());
  std::vector<std::byte> workspace;
  const auto attend_layer = [&](int32_t, const AttentionProblem& problem) {
    layers_.push_back({values_of(problem.q), values_of(problem.kv.k), values_of(problem.kv.v)});
    Context own = context;
    workspace.resize(workspace_bytes(problem, Dense{}, own));
    own.workspace = workspace.data();
    own.workspace_bytes = workspace.size();
    attend(problem, block_grid(problem), {}, own);
  };
  runtime::Chunk chunk;
  chunk.ids = ids;
  runtime::PartSeconds unused;
  transformer.forward(chunk, cache, attend_layer, unused);
}

Inputs ModelLayers::inputs(int32_t layer, int64_t q_len, int64_t kv_len, DType dtype) const {
  const Layer& tensors = layers_[static_cast<size_t>(layer)];
  Shape shape = shape_;
  shape.q_len = q_len;
  shape.kv_len = kv_len;
  shape.dtype = dtype;
  const int64_t q_row = int64_t{shape.heads} * shape.head_dim;
  const int64_t kv_row = int64_t{shape.kv_heads} * shape.head_dim;
  return Inputs(shape, tokens_of(tensors.q, kv_len - q_len, q_len, q_row),
                tokens_of(tensors.k, 0, kv_len, kv_row), tokens_of(tensors.v, 0, kv_len, kv_row));
}

Inputs ModelLayers::stacked(const Shape& wanted, std::optional<int32_t> layer) const {
  Shape shape = wanted;
  shape.head_dim = shape.v_head_dim = shape_.head_dim;
  const auto row = static_cast<size_t>(shape.head_dim);
  std::vector<float> q(static_cast<size_t>(shape.q_len * shape.heads) * row);
  std::vector<float> k(static_cast<size_t>(shape.kv_len * shape.kv_heads) * row);
  std::vector<float> v(k.size());
  const int32_t sources = (layer ? 1 : count()) * shape_.kv_heads;
  const int32_t group = shape.heads / shape.kv_heads, own = shape_.heads / shape_.kv_heads;
  for (int32_t g = 0; g < shape.kv_heads; ++g) {
    const int32_t source = g * sources / shape.kv_heads;
    const Layer& from = layers_[static_cast<size_t>(layer.value_or(source / shape_.kv_heads))];
    const int32_t kv_head = source % shape_.kv_heads;
    copy_head(from.k, shape_.kv_heads, kv_head, k, shape.kv_heads, g, shape.head_dim);
    copy_head(from.v, shape_.kv_heads, kv_head, v, shape.kv_heads, g, shape.head_dim);
    const int64_t q_row = int64_t{shape_.heads} * shape.head_dim;
    for (int32_t n = 0; n < group; ++n)
      copy_head(tokens_of(from.q, shape.kv_len - shape.q_len, shape.q_len, q_row), shape_.heads,
                kv_head * own + n % own, q, shape.heads, g * group + n, shape.head_dim);
  }
  return Inputs(shape, q, k, v);
}

}  // namespace flexprefill::tools
