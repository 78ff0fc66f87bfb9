#pragma once

#include <cstdint>
#include <vector>

#include "flexprefill/tensor.h"

namespace flexprefill::bench {

struct Shape {
  int32_t heads = 8;
  int32_t kv_heads = 2;
  int32_t head_dim = 128;
  int64_t q_len = 4096;
  int64_t kv_len = 4096;
  DType dtype = DType::kBF16;
};

// Owns q, k, v and out of one problem.
class Inputs {
 public:
  // Normal values; `structured` adds what trained heads show: a few keys that every query likes,
  // and a score that falls with the distance.
  Inputs(const Shape& shape, bool structured);

  AttentionProblem problem;

 private:
  std::vector<uint8_t> q_, k_, v_, out_;
};

}  // namespace flexprefill::bench
