#pragma once

// Real problems: the q, k, v that a model computes for a text.

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/session.h"
#include "tools/bench/inputs.h"

namespace flexprefill::tools {

// Exactly `tokens` of these ids: cut, or repeated where they are fewer.
std::vector<int32_t> fitted(const std::vector<int32_t>& ids, int64_t tokens);

// The fitted token ids of a text. 0 = as it is.
std::vector<int32_t> ids_of_text(const std::string& folder, const std::string& text,
                                 int64_t tokens);

// Queries, keys and values of every layer, read once with dense attention and kept in fp32.
class ModelLayers {
 public:
  ModelLayers(const runtime::Model& model, std::span<const int32_t> ids, const Context& context);

  int32_t count() const { return static_cast<int32_t>(layers_.size()); }

  // Of a layer: the first kv_len tokens as keys, the last q_len of them as queries. As attention is
  // causal, these are the tensors of the shorter prompt, too.
  Inputs inputs(int32_t layer, int64_t q_len, int64_t kv_len, DType dtype) const;

  // The same of shape.heads and shape.kv_heads taken evenly from all layers, or from one: a problem
  // of a larger model's shape with heads of this one. A kv head keeps its own query heads; they
  // come again where the model has fewer, and so do kv heads.
  Inputs stacked(const Shape& shape, std::optional<int32_t> layer) const;

 private:
  struct Layer {
    std::vector<float> q, k, v;  // [tokens, heads or kv_heads, head_dim]
  };
  Shape shape_;  // of the whole text
  std::vector<Layer> layers_;
};

}  // namespace flexprefill::tools
