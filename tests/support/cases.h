#pragma once

// The attention problems that every backend is tested on. A Case is plain data with a printable
// name; an Instance holds its tensors.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "flexprefill/flexprefill.h"
#include "tests/support/compare.h"
#include "tests/support/tensor.h"

namespace flexprefill::test {

enum class MaskKind : uint8_t {
  kNullBits,  // bits = null: every causal block
  kAllOnes,   // every bit, future blocks too
  kEmpty,     // no block at all
  kDiagonal,
  kOneBlock,  // one block per row
  kRandom,    // a third of the blocks, future bits set at random
  kRandomNoDiagonal,
};

enum class DataKind : uint8_t {
  kNormal,     // standard normal q, k, v
  kLogits20,   // scaled scores reach +-20
  kLogits1e4,  // scaled scores reach +-1e4
};

struct Case {
  int64_t q_len = 129;
  int64_t kv_len = 129;
  std::optional<int64_t> q_start = std::nullopt;
  int32_t heads = 2, kv_heads = 1;
  int32_t k_dim = 64, v_dim = 64;
  DType q_dtype = DType::kF32, kv_dtype = DType::kF32, out_dtype = DType::kF32;
  HeadGrouping grouping = HeadGrouping::kBlocked;
  std::optional<float> softmax_scale = std::nullopt;
  Layout layout = Layout::kPacked;
  MaskKind mask = MaskKind::kNullBits;
  DataKind data = DataKind::kNormal;
  bool lse = true;
  bool bf16_values = false;  // q, k, v rounded to bf16 before they are stored in their own types

  std::string name() const;
  DType coarsest() const;  // the type that sets the tolerance
  double max_logit() const;
};

// The case whose exact result an implementation approximates that multiplies 16-bit inputs in bf16:
// f16 inputs count as rounded to bf16 where every input has 16 bits.
Case as_multiplied_in_bf16(const Case& c);

// Small odd sizes first, then every feature.
std::vector<Case> attend_cases();

// The nearest case that 16-bit matrix units take: every dtype q's or bf16, head dims rounded up to
// 64, 96, 128, 192 or 256 (or 192 with 128), rows aligned to 16 bytes.
Case for_tensor_cores(Case c);

// Tensors, mask and problem of a case. Values depend on the case alone. Keys and values that no
// query reads (past kv_len, in blocks of nobody's mask) are NaN and infinities; so is the output.
struct Instance {
  explicit Instance(const Case& c);
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  Tensor q, k, v, out;
  std::vector<float> lse;  // [heads, q_len]
  std::vector<uint64_t> bits;
  BlockMask mask;
  AttentionProblem problem;
};

}  // namespace flexprefill::test
