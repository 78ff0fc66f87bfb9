#include "runtime/prompt_masks.h"

namespace flexprefill::runtime {

PromptMasks::PromptMasks(const ModelConfig& config, int64_t prompt_tokens) {
  const auto blocks = static_cast<int32_t>((prompt_tokens + kBlock - 1) / kBlock);
  grid_.heads = config.heads;
  grid_.q_blocks = blocks;
  grid_.k_blocks = blocks;
  const auto words = static_cast<size_t>(grid_.num_words());
  bits_.assign(static_cast<size_t>(config.layers), std::vector<uint64_t>(words));
  chunks_.resize(static_cast<size_t>(config.layers));
}

void PromptMasks::add(const ChunkPlan& plan) {
  const BlockMask whole = layer(plan.layer);
  for (int32_t h = 0; h < plan.mask.heads; ++h) {
    for (int32_t i = 0; i < plan.mask.q_blocks; ++i) {
      const auto row = static_cast<int32_t>(plan.mask.first_q_block + i);
      plan.mask.for_each_block(h, i, [&](int32_t j) { whole.set(h, row, j); });
    }
  }
  chunks_[static_cast<size_t>(plan.layer)].push_back(
      {plan.q_start, plan.q_len, {plan.reports.begin(), plan.reports.end()}});
}

BlockMask PromptMasks::layer(int32_t layer) const {
  BlockMask mask = grid_;
  // BlockMask has no const form; the caller's view of our bits is read-only by agreement.
  mask.bits = const_cast<uint64_t*>(bits_[static_cast<size_t>(layer)].data());
  return mask;
}

}  // namespace flexprefill::runtime
