#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/session.h"

namespace flexprefill::runtime {

/// Copies of every layer's masks over a whole prompt, collected chunk by chunk. A block row that
/// two chunks share is their OR.
///
///   PromptMasks masks(config, ids.size());
///   options.on_plan = [&](const ChunkPlan& plan) { masks.add(plan); };
class PromptMasks {
 public:
  /// Memory: layers * heads * blocks^2 / 8 bytes, blocks = ceil(prompt_tokens / 128).
  PromptMasks(const ModelConfig& config, int64_t prompt_tokens);

  void add(const ChunkPlan& plan);

  /// [heads, blocks, blocks]; the bits live as long as this object.
  BlockMask layer(int32_t layer) const;

  struct Chunk {
    int64_t q_start = 0;
    int64_t q_len = 0;
    std::vector<HeadReport> reports;  // [heads]
  };
  /// Chunks of a layer in order.
  std::span<const Chunk> chunks(int32_t layer) const { return chunks_[layer]; }

 private:
  BlockMask grid_;                           // of one layer, bits null
  std::vector<std::vector<uint64_t>> bits_;  // [layers][grid_.num_words()]
  std::vector<std::vector<Chunk>> chunks_;   // [layers][chunks]
};

}  // namespace flexprefill::runtime
