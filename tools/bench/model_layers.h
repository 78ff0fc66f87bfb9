#pragma once

// Real problems: the q, k, v that a model computes for a text.

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "runtime/session.h"
#include "tools/bench/inputs.h"

namespace flexprefill::tools {

// Exactly `tokens` token ids of a text: cut, or repeated where it is shorter. 0 = as it is.
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

 private:
  struct Layer {
    std::vector<float> q, k, v;  // [tokens, heads or kv_heads, head_dim]
  };
  Shape shape_;  // of the whole text
  std::vector<Layer> layers_;
};

}  // namespace flexprefill::tools
