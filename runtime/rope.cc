#include "runtime/rope.h"

#include <cmath>
#include <numbers>

namespace flexprefill::runtime {

std::vector<double> rope_speeds(const RopeConfig& rope, int32_t head_dim) {
  std::vector<double> speeds(static_cast<size_t>(head_dim) / 2);
  for (size_t c = 0; c < speeds.size(); ++c) {
    speeds[c] = std::pow(rope.theta, -2.0 * static_cast<double>(c) / head_dim);
    if (!rope.llama3) continue;
    const auto trained = static_cast<double>(rope.original_max_positions);
    const double turns = trained * speeds[c] / (2.0 * std::numbers::pi);  // within the training
    if (turns < rope.low_freq_factor) {
      speeds[c] /= rope.factor;
    } else if (turns <= rope.high_freq_factor) {
      const double smooth =
          (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      speeds[c] *= (1.0 - smooth) / rope.factor + smooth;
    }
  }
  return speeds;
}

RopeTable::RopeTable(const RopeConfig& rope, int32_t head_dim)
    : speeds_(rope_speeds(rope, head_dim)), half_(head_dim / 2) {}

void RopeTable::fill(int64_t first, int64_t count) {
  cos_.resize(static_cast<size_t>(count * half_));
  sin_.resize(static_cast<size_t>(count * half_));
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t c = 0; c < half_; ++c) {
      const double angle = static_cast<double>(first + t) * speeds_[static_cast<size_t>(c)];
      cos_[static_cast<size_t>(t * half_ + c)] = static_cast<float>(std::cos(angle));
      sin_[static_cast<size_t>(t * half_ + c)] = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace flexprefill::runtime
