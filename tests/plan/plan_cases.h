#pragma once

// Problems that plan() is tested on: random ones with the structures that attention has, and q and
// k of real layers (tests/data/official).

#include <memory>
#include <string>
#include <vector>

#include "flexprefill/flexprefill.h"
#include "tests/support/tensor.h"

namespace flexprefill::test {

enum class Structure : uint8_t {
  kNoise,   // nothing to find: normal q and k
  kSink,    // every query looks at the first keys and at a few others
  kLocal,   // queries look at keys near them
  kTopics,  // tokens of a block are alike: block means predict attention
};

struct PlanCase {
  Structure structure = Structure::kNoise;
  int64_t q_len = 1500, kv_len = 1500;
  std::optional<int64_t> q_start = std::nullopt;
  int32_t heads = 4, kv_heads = 2, head_dim = 32;
  DType dtype = DType::kF32;
  HeadGrouping grouping = HeadGrouping::kBlocked;

  std::string name() const;
};

// A problem and its tensors; v has one channel and holds NaN, as plan() must not read it. NaN also
// lies behind the last key.
struct PlanInstance {
  explicit PlanInstance(const PlanCase& c);
  explicit PlanInstance(const std::string& fixture);  // for example "n2000_layer4"
  PlanInstance(const PlanInstance&) = delete;
  PlanInstance& operator=(const PlanInstance&) = delete;

  std::string name;
  Tensor q, k, v;
  AttentionProblem problem;
};

// Random problems of every structure, and the real ones; without the largest under sanitizers.
std::vector<std::unique_ptr<PlanInstance>> plan_instances();

// The last q_len queries of a problem, or those from `begin`, with keys [0, kv_len).
AttentionProblem chunk(const AttentionProblem& problem, int64_t begin, int64_t end, int64_t kv_len);

// Softmax mass of every key block in the probe rows of head h, in fp64 from the definition:
// [probe rows][k_blocks]. Rows that see no key are empty.
using Mass = std::vector<std::vector<double>>;
Mass true_mass(const AttentionProblem& problem, int32_t h);

// Mean and lowest kept share of the probe rows' mass under the mask; 1 without rows that see keys.
struct KeptMass {
  double mean = 1.0, min_row = 1.0;
};
KeptMass kept_mass(const AttentionProblem& problem, const Mass& mass, const BlockMask& mask,
                   int32_t h);

// The words of head h of a mask.
std::vector<uint64_t> head_bits(const BlockMask& mask, int32_t h);

// Every field, NaN included; the padding between fields has no value.
bool same_bits(const HeadReport& a, const HeadReport& b);

}  // namespace flexprefill::test
