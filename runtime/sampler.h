#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace flexprefill::runtime {

struct SamplerOptions {
  float temperature = 0.0f;  // >= 0; 0 = greedy: the largest logit, the lowest id of equals
  float top_p = 1.0f;        // (0, 1]; sample from the fewest tokens that hold this probability
  uint64_t seed = 0;         // the same seed gives the same tokens on every machine
};

/// Chooses tokens from logits.
class Sampler {
 public:
  /// Throws Error if an option is outside its range.
  explicit Sampler(const SamplerOptions& options);

  /// `logits` is [vocab_size]; NaN is never chosen.
  int32_t sample(std::span<const float> logits);

 private:
  int32_t sample_top_p(std::span<const float> logits);

  SamplerOptions options_;
  std::mt19937_64 random_;
  std::vector<float> weights_;  // [vocab_size] of the current token
  std::vector<int32_t> order_;  // [vocab_size] ids by falling weight
};

/// The largest logit's id; the lowest of equals. NaN is never chosen.
int32_t argmax(std::span<const float> logits);

}  // namespace flexprefill::runtime
