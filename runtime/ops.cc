#include "runtime/ops.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

#include "runtime/convert.h"
#include "runtime/widest_vectors.h"

namespace flexprefill::runtime {
namespace {

// e^x without branches, so that loops over it vectorise; relative error below 3e-7, clamped to
// [e^-87, e^88], which silu's result cannot tell from the limits.
FLEXPREFILL_INLINE inline float exp_clamped(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float n = (x * kLog2E + kRound) - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln 2 / 2
  float p = 1.0f / 5040.0f;                          // Taylor: the first term left out is 6e-9
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

// Sixteen partial sums: a fixed order that still vectorises.
FLEXPREFILL_INLINE inline float sum_of_squares(const float* x, int64_t count) {
  constexpr int64_t kLanes = 16;
  float lanes[kLanes] = {};
  int64_t c = 0;
  for (; c + kLanes <= count; c += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[c + lane] * x[c + lane];
  }
  float sum = 0.0f;
  for (; c < count; ++c) sum += x[c] * x[c];
  for (const float lane : lanes) sum += lane;
  return sum;
}

// Outputs are arrays of float or of bf16 bits.
FLEXPREFILL_INLINE inline void put(float* out, float value) { *out = value; }
FLEXPREFILL_INLINE inline void put(uint16_t* out, float value) {
  *out = internal::float_to_bf16(value);
}

template <typename Out>
FLEXPREFILL_INLINE inline void norm_row(const float* in, std::span<const float> weight, float eps,
                                        Out* out) {
  const auto columns = static_cast<int64_t>(weight.size());
  const float scale =
      1.0f / std::sqrt(sum_of_squares(in, columns) / static_cast<float>(columns) + eps);
  for (int64_t c = 0; c < columns; ++c) put(out + c, in[c] * scale * weight[c]);
}

template <typename Out>
FLEXPREFILL_INLINE inline void silu_mul_row(const float* gate, const float* up, int64_t count,
                                            Out* out) {
  for (int64_t c = 0; c < count; ++c) {
    put(out + c, gate[c] / (1.0f + exp_clamped(-gate[c])) * up[c]);
  }
}

// Calls loops(out as the array that it is) for the widest vectors.
template <typename Loops>
void write_as(DType dtype, void* out, const Loops& loops) {
  assert(dtype == DType::kF32 || dtype == DType::kBF16);
  if (dtype == DType::kBF16) {
    with_widest_vectors([&]() FLEXPREFILL_INLINE { loops(static_cast<uint16_t*>(out)); });
  } else {
    with_widest_vectors([&]() FLEXPREFILL_INLINE { loops(static_cast<float*>(out)); });
  }
}

}  // namespace

void embed(const TensorInfo& table, std::span<const int32_t> ids, float* out) {
  const int64_t hidden = table.shape[1];
#pragma omp parallel for schedule(static)
  for (size_t t = 0; t < ids.size(); ++t) {
    read_elements(table, ids[t] * hidden, hidden, out + static_cast<int64_t>(t) * hidden);
  }
}

void rms_norm(const float* in, int64_t rows, std::span<const float> weight, float eps,
              DType out_dtype, void* out) {
  const auto columns = static_cast<int64_t>(weight.size());
  write_as(out_dtype, out, [&](auto* values) FLEXPREFILL_INLINE {
    for (int64_t r = 0; r < rows; ++r) {
      norm_row(in + r * columns, weight, eps, values + r * columns);
    }
  });
}

void silu_mul(const float* in, int64_t rows, int64_t inner, DType out_dtype, void* out) {
  write_as(out_dtype, out, [&](auto* values) FLEXPREFILL_INLINE {
    for (int64_t r = 0; r < rows; ++r) {
      const float* gate = in + r * 2 * inner;
      silu_mul_row(gate, gate + inner, inner, values + r * inner);
    }
  });
}

void split_heads(float* qkv, int64_t rows, const ModelConfig& config, const LayerWeights& weights,
                 const RopeTable& rope, int64_t rope_row, DType q_dtype, void* q, KvCache& cache,
                 int32_t layer, int64_t t) {
  const int64_t head_dim = config.head_dim;
  const int64_t q_size = config.heads * head_dim;
  const int64_t kv_size = config.kv_heads * head_dim;
  const int64_t q_row_bytes = q_size * dtype_bytes(q_dtype);
  with_widest_vectors([&]() FLEXPREFILL_INLINE {
    for (int64_t r = 0; r < rows; ++r) {
      float* row = qkv + r * (q_size + 2 * kv_size);
      const float* cos = rope.cos(rope_row + r);
      const float* sin = rope.sin(rope_row + r);
      for (int32_t h = 0; h < config.heads + config.kv_heads; ++h) {
        float* head = row + h * head_dim;
        if (config.qk_norm) {
          norm_row(head, h < config.heads ? weights.q_norm : weights.k_norm, config.rms_norm_eps,
                   head);
        }
        rotate(head, config.head_dim, cos, sin);
      }
      convert_row(row, q_size, q_dtype, static_cast<std::byte*>(q) + r * q_row_bytes);
      for (int32_t g = 0; g < config.kv_heads; ++g) {
        const float* k = row + q_size + g * head_dim;
        convert_row(k, head_dim, cache.dtype(), cache.k_row(layer, g, t + r));
        convert_row(k + kv_size, head_dim, cache.dtype(), cache.v_row(layer, g, t + r));
      }
    }
  });
}

void cross_entropy(const float* logits, int64_t rows, int64_t vocab_size, const int32_t* targets,
                   float* losses) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = logits + r * vocab_size;
    const float largest = *std::max_element(row, row + vocab_size);
    double sum = 0.0;
    for (int64_t n = 0; n < vocab_size; ++n) sum += std::exp(row[n] - largest);
    losses[r] = static_cast<float>(std::log(sum) + largest - row[targets[r]]);
  }
}

}  // namespace flexprefill::runtime
