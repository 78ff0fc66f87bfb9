#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "flexprefill/error.h"

namespace flexprefill::runtime {
namespace {

// A number in [0, 1) of 53 random bits. Written out because the standard library's distributions
// differ between implementations.
double uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

}  // namespace

int32_t argmax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t n = 1; n < logits.size(); ++n) {
    if (logits[n] > logits[best] || std::isnan(logits[best])) best = n;
  }
  return static_cast<int32_t>(best);
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  if (!(options.temperature >= 0.0f && options.temperature <= 100.0f)) {
    throw Error("temperature = " + std::to_string(options.temperature) +
                ", expected [0, 100]; 0 is greedy");
  }
  if (!(options.top_p > 0.0f && options.top_p <= 1.0f)) {
    throw Error("top_p = " + std::to_string(options.top_p) + ", expected (0, 1]");
  }
}

int32_t Sampler::sample(std::span<const float> logits) {
  return options_.temperature == 0.0f ? argmax(logits) : sample_top_p(logits);
}

int32_t Sampler::sample_top_p(std::span<const float> logits) {
  const float largest = logits[static_cast<size_t>(argmax(logits))];
  weights_.resize(logits.size());
  for (size_t n = 0; n < logits.size(); ++n) {
    const float weight = std::exp((logits[n] - largest) / options_.temperature);
    weights_[n] = std::isnan(weight) ? 0.0f : weight;
  }
  order_.resize(logits.size());
  std::iota(order_.begin(), order_.end(), 0);
  const auto weight = [&](int32_t id) { return weights_[static_cast<size_t>(id)]; };
  std::sort(order_.begin(), order_.end(), [&](int32_t a, int32_t b) {
    return weight(a) != weight(b) ? weight(a) > weight(b) : a < b;
  });

  const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  double kept = 0.0;
  size_t count = 0;
  while (count < order_.size() && (count == 0 || kept < options_.top_p * total)) {
    kept += weight(order_[count++]);
  }
  double left = uniform(random_) * kept;
  for (size_t n = 0; n < count; ++n) {
    left -= weight(order_[n]);
    if (left < 0.0) return order_[n];
  }
  return order_[count - 1];  // rounding kept the sum below the target
}

}  // namespace flexprefill::runtime
