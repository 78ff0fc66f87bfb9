#pragma once

#include <cstdint>
#include <vector>

#include "runtime/config.h"
#include "runtime/widest_vectors.h"

namespace flexprefill::runtime {

/// Rotation speeds in radians per token, [head_dim / 2]:
///   speed[c] = theta^(-2 c / head_dim),
/// and for `llama3` divided by `factor` where a full turn takes longer than
/// original_max_positions / low_freq_factor tokens, unchanged where it takes less than
/// original_max_positions / high_freq_factor, interpolated in between.
std::vector<double> rope_speeds(const RopeConfig& rope, int32_t head_dim);

/// Cosines and sines for a range of positions. Angles are computed in double: at position 131,071
/// a float angle is already off by up to 0.004 rad.
class RopeTable {
 public:
  RopeTable(const RopeConfig& rope, int32_t head_dim);

  /// Positions first .. first + count - 1, replacing what was there.
  void fill(int64_t first, int64_t count);

  const float* cos(int64_t row) const { return cos_.data() + row * half_; }  // [head_dim / 2]
  const float* sin(int64_t row) const { return sin_.data() + row * half_; }  // [head_dim / 2]

 private:
  std::vector<double> speeds_;  // [half_]
  int64_t half_ = 0;
  std::vector<double> step_cos_, step_sin_;  // of 0 .. 63 tokens, [64, half_]
  std::vector<float> cos_, sin_;             // [count, half_]
};

/// Rotates one head in place: channel c with channel c + head_dim / 2, as Hugging Face lays them
/// out.
FLEXPREFILL_INLINE inline void rotate(float* head, int32_t head_dim, const float* cos,
                                      const float* sin) {
  const int32_t half = head_dim / 2;
#pragma omp simd
  for (int32_t c = 0; c < half; ++c) {
    const float a = head[c];
    const float b = head[c + half];
    head[c] = a * cos[c] - b * sin[c];
    head[c + half] = b * cos[c] + a * sin[c];
  }
}

}  // namespace flexprefill::runtime
