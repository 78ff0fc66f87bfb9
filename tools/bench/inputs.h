#pragma once

// Problems to measure: q, k, v of a shape, and memory for the result.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flexprefill/flexprefill.h"

namespace flexprefill::tools {

struct Shape {
  int32_t heads = 8;
  int32_t kv_heads = 2;
  int32_t head_dim = 128;
  int32_t v_head_dim = 128;
  int64_t q_len = 4096;
  int64_t kv_len = 4096;
  DType dtype = DType::kBF16;

  std::string text() const;  // "bf16, heads 8 / 2, head_dim 128, 4096 x 4096"
};

enum class Data : uint8_t {
  kNormal,      // standard normal: nothing to be sparse about
  kStructured,  // what trained heads show: a few keys that every query likes, decay with distance
  kPeaky,       // normal, queries scaled so that scores reach +-25
};
std::string_view to_string(Data data);

// Owns the tensors of one problem, dense [tokens, heads, head_dim].
class Inputs {
 public:
  Inputs(const Shape& shape, Data data);
  // The values given, q [q_len, heads, head_dim] and so on, rounded to shape.dtype.
  Inputs(const Shape& shape, std::span<const float> q, std::span<const float> k,
         std::span<const float> v);
  Inputs(Inputs&&) = default;
  Inputs& operator=(Inputs&&) = default;

  // A copy of what attend() wrote: the output, then the log-sum-exps.
  std::vector<std::byte> results() const;

  Shape shape;
  AttentionProblem problem;

 private:
  void allocate();

  std::vector<uint64_t> q_, k_, v_, out_;  // uint64_t: aligned to every dtype
  std::vector<float> lse_;
};

// A random mask of this computed share, the diagonal kept; the bits are in `bits`.
BlockMask random_mask(const AttentionProblem& problem, double density, std::vector<uint64_t>& bits);

}  // namespace flexprefill::tools
