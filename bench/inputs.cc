#include "bench/inputs.h"

#include <cmath>
#include <random>

#include "numeric.h"

namespace flexprefill::bench {
namespace {

// Draws from one table of normal values, which is much quicker than the distribution.
class Normals {
 public:
  explicit Normals(uint32_t seed) : random_(seed), table_(1 << 16) {
    std::normal_distribution<float> normal;
    for (float& value : table_) value = normal(random_);
  }
  float next() { return table_[random_() & (table_.size() - 1)]; }

 private:
  std::mt19937 random_;
  std::vector<float> table_;
};

constexpr int kPositionPairs = 6;

// Channels 0 .. 12 of q and k carry cos and sin of the position at six wavelengths, so that q . k
// falls with the distance; channel 12 is large in a few keys only.
void add_structure(std::vector<float>& row, int64_t position, int64_t h, bool is_key) {
  if (row.size() < 2 * kPositionPairs + 1) return;
  const float strength = 1.0f + static_cast<float>(h % 4);
  double wavelength = 64.0;
  for (size_t pair = 0; pair < kPositionPairs; ++pair, wavelength *= 4) {
    const double angle = 6.283185307179586 * static_cast<double>(position) / wavelength;
    row[2 * pair] = strength * static_cast<float>(std::cos(angle));
    row[2 * pair + 1] = strength * static_cast<float>(std::sin(angle));
  }
  const bool liked = position < 4 || position % 1777 == 5;
  row[2 * kPositionPairs] = is_key ? (liked ? 12.0f : 0.0f) : 6.0f;
}

std::vector<uint8_t> make_tensor(DType dtype, int64_t tokens, int32_t heads, int32_t head_dim,
                                 int64_t first_position, bool structured, bool is_key,
                                 uint32_t seed) {
  Normals normals(seed);
  std::vector<uint8_t> bytes(static_cast<size_t>(tokens * heads * head_dim * dtype_bytes(dtype)));
  std::vector<float> row(static_cast<size_t>(head_dim));
  int64_t index = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int32_t h = 0; h < heads; ++h) {
      for (float& value : row) value = normals.next();
      if (structured) add_structure(row, first_position + t, h, is_key);
      for (const float value : row) {
        if (dtype == DType::kF32) {
          reinterpret_cast<float*>(bytes.data())[index++] = value;
        } else {
          reinterpret_cast<uint16_t*>(bytes.data())[index++] =
              dtype == DType::kF16 ? internal::float_to_f16(value) : internal::float_to_bf16(value);
        }
      }
    }
  }
  return bytes;
}

}  // namespace

Inputs::Inputs(const Shape& shape, bool structured)
    : q_(make_tensor(shape.dtype, shape.q_len, shape.heads, shape.head_dim,
                     shape.kv_len - shape.q_len, structured, /*is_key=*/false, 1)),
      k_(make_tensor(shape.dtype, shape.kv_len, shape.kv_heads, shape.head_dim, 0, structured,
                     /*is_key=*/true, 2)),
      v_(make_tensor(shape.dtype, shape.kv_len, shape.kv_heads, shape.head_dim, 0,
                     /*structured=*/false, /*is_key=*/true, 3)),
      out_(q_.size()) {
  problem.q = head_view(q_.data(), shape.dtype, shape.q_len, shape.heads, shape.head_dim);
  problem.kv.k = head_view(k_.data(), shape.dtype, shape.kv_len, shape.kv_heads, shape.head_dim);
  problem.kv.v = head_view(v_.data(), shape.dtype, shape.kv_len, shape.kv_heads, shape.head_dim);
  problem.out = head_view(out_.data(), shape.dtype, shape.q_len, shape.heads, shape.head_dim);
}

}  // namespace flexprefill::bench
