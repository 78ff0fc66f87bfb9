#include "tools/bench/inputs.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "runtime/convert.h"

namespace flexprefill::tools {
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

constexpr float kPeakyScale = 6.0f;  // standard deviation of the scaled scores: +-25 over 4096 keys
constexpr size_t kPositionPairs = 6;
constexpr float kLikedScore = 12.0f;  // scaled score of every query with a liked key
constexpr float kQueryValue = 6.0f;

// Channels 0 .. 12 of q and k carry cos and sin of the position at six wavelengths, so that q . k
// falls with the distance; channel 12 is large in a few keys only, which alone hold most of the
// mass of 16K keys: 7 exp(12) beside 16384 exp(1/2).
void add_structure(std::span<float> row, int64_t position, int32_t h, bool is_key) {
  if (row.size() < 2 * kPositionPairs + 1) return;
  const float strength = 1.0f + static_cast<float>(h % 4);
  double wavelength = 64.0;
  for (size_t pair = 0; pair < kPositionPairs; ++pair, wavelength *= 4) {
    const double angle = 6.283185307179586 * static_cast<double>(position) / wavelength;
    row[2 * pair] = strength * static_cast<float>(std::cos(angle));
    row[2 * pair + 1] = strength * static_cast<float>(std::sin(angle));
  }
  const bool liked = position < 4 || position % 4099 == 5;
  const float key = kLikedScore * std::sqrt(static_cast<float>(row.size())) / kQueryValue;
  row[2 * kPositionPairs] = is_key ? (liked ? key : 0.0f) : kQueryValue;
}

std::vector<uint64_t> memory_for(const HeadView& view) {
  const int64_t bytes = view.tokens * view.token_stride * dtype_bytes(view.dtype);
  return std::vector<uint64_t>(static_cast<size_t>(bytes) / sizeof(uint64_t) + 1);
}

// Fills a dense view row by row; make(t, h, row) writes the floats.
template <typename Make>
void fill(const HeadView& view, Make make) {
  std::vector<float> row(static_cast<size_t>(view.head_dim));
  auto* out = static_cast<std::byte*>(view.data);
  for (int64_t t = 0; t < view.tokens; ++t) {
    for (int32_t h = 0; h < view.heads; ++h) {
      make(t, h, std::span<float>(row));
      runtime::convert_row(row.data(), view.head_dim, view.dtype, out);
      out += static_cast<ptrdiff_t>(view.head_dim) * dtype_bytes(view.dtype);
    }
  }
}

void copy_values(const HeadView& view, std::span<const float> values) {
  const float* next = values.data();
  fill(view, [&](int64_t, int32_t, std::span<float> row) {
    std::copy_n(next, row.size(), row.begin());
    next += row.size();
  });
}

}  // namespace

std::string Shape::text() const {
  std::string dims = std::to_string(head_dim);
  if (v_head_dim != head_dim) dims += " / " + std::to_string(v_head_dim);
  return std::string(flexprefill::to_string(dtype)) + ", heads " + std::to_string(heads) + " / " +
         std::to_string(kv_heads) + ", head_dim " + dims + ", " + std::to_string(q_len) + " x " +
         std::to_string(kv_len);
}

std::string_view to_string(Data data) {
  switch (data) {
    case Data::kNormal: return "normal";
    case Data::kStructured: return "structured";
    case Data::kPeaky: return "peaky";
  }
  return "unknown";
}

void Inputs::allocate() {
  problem.q = head_view(nullptr, shape.dtype, shape.q_len, shape.heads, shape.head_dim);
  problem.kv.k = head_view(nullptr, shape.dtype, shape.kv_len, shape.kv_heads, shape.head_dim);
  problem.kv.v = head_view(nullptr, shape.dtype, shape.kv_len, shape.kv_heads, shape.v_head_dim);
  problem.out = head_view(nullptr, shape.dtype, shape.q_len, shape.heads, shape.v_head_dim);
  const auto own = [](HeadView& view, std::vector<uint64_t>& memory) {
    memory = memory_for(view);
    view.data = memory.data();
  };
  own(problem.q, q_);
  own(problem.kv.k, k_);
  own(problem.kv.v, v_);
  own(problem.out, out_);
  lse_.resize(static_cast<size_t>(shape.heads * shape.q_len));
  problem.lse = lse_.data();
}

Inputs::Inputs(const Shape& wanted, Data data) : shape(wanted) {
  allocate();
  const auto draw = [&](const HeadView& view, uint32_t seed, int64_t first_position, bool is_key,
                        bool structured, float scale) {
    Normals normals(seed);
    fill(view, [&](int64_t t, int32_t h, std::span<float> row) {
      for (float& value : row) value = scale * normals.next();
      if (structured) add_structure(row, first_position + t, h, is_key);
    });
  };
  const bool structured = data == Data::kStructured;
  draw(problem.q, 1, shape.kv_len - shape.q_len, /*is_key=*/false, structured,
       data == Data::kPeaky ? kPeakyScale : 1.0f);
  draw(problem.kv.k, 2, 0, /*is_key=*/true, structured, 1.0f);
  draw(problem.kv.v, 3, 0, /*is_key=*/true, /*structured=*/false, 1.0f);
}

Inputs::Inputs(const Shape& wanted, std::span<const float> q, std::span<const float> k,
               std::span<const float> v)
    : shape(wanted) {
  allocate();
  copy_values(problem.q, q);
  copy_values(problem.kv.k, k);
  copy_values(problem.kv.v, v);
}

std::vector<std::byte> Inputs::results() const {
  const std::span<const std::byte> out = std::as_bytes(std::span(out_));
  const std::span<const std::byte> lse = std::as_bytes(std::span(lse_));
  std::vector<std::byte> bytes(out.begin(), out.end());
  bytes.insert(bytes.end(), lse.begin(), lse.end());
  return bytes;
}

BlockMask random_mask(const AttentionProblem& problem, double density,
                      std::vector<uint64_t>& bits) {
  BlockMask mask = block_grid(problem);
  bits.assign(static_cast<size_t>(mask.num_words()), 0);
  mask.bits = bits.data();
  std::mt19937 random(7);
  for (int32_t h = 0; h < mask.heads; ++h) {
    for (int32_t i = 0; i < mask.q_blocks; ++i) {
      const int32_t end = mask.causal_blocks(i);
      for (int32_t j = 0; j < end; ++j) {
        const bool keep = static_cast<double>(random()) < density * 4294967296.0;
        if (keep || j == end - 1) mask.set(h, i, j);
      }
    }
  }
  return mask;
}

}  // namespace flexprefill::tools
