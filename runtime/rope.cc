#include "runtime/rope.h"

#include <algorithm>
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

// cos and sin of a sum take four products: a sixtieth of the time of the functions themselves.
// Errors stay near 1e-16, and steps are counted from multiples of 64, so that a position's values
// do not depend on the chunk that asks.
constexpr int64_t kStep = 64;

RopeTable::RopeTable(const RopeConfig& rope, int32_t head_dim)
    : speeds_(rope_speeds(rope, head_dim)), half_(head_dim / 2) {
  for (int64_t step = 0; step < kStep; ++step) {
    for (const double speed : speeds_) {
      step_cos_.push_back(std::cos(static_cast<double>(step) * speed));
      step_sin_.push_back(std::sin(static_cast<double>(step) * speed));
    }
  }
}

void RopeTable::fill(int64_t first, int64_t count) {
  cos_.resize(static_cast<size_t>(count * half_));
  sin_.resize(static_cast<size_t>(count * half_));
  const int64_t end = first + count;
#pragma omp parallel for schedule(static)
  for (int64_t base = first / kStep; base < (end + kStep - 1) / kStep; ++base) {
    for (int64_t c = 0; c < half_; ++c) {
      const double angle = static_cast<double>(base * kStep) * speeds_[static_cast<size_t>(c)];
      const double base_cos = std::cos(angle);
      const double base_sin = std::sin(angle);
      for (int64_t t = std::max(base * kStep, first); t < std::min((base + 1) * kStep, end); ++t) {
        const auto step = static_cast<size_t>((t - base * kStep) * half_ + c);
        const auto row = static_cast<size_t>((t - first) * half_ + c);
        cos_[row] = static_cast<float>(base_cos * step_cos_[step] - base_sin * step_sin_[step]);
        sin_[row] = static_cast<float>(base_sin * step_cos_[step] + base_cos * step_sin_[step]);
      }
    }
  }
}

}  // namespace flexprefill::runtime
