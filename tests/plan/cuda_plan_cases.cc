#include "tests/plan/cuda_plan_cases.h"

#include "tests/support/device.h"

namespace flexprefill::test {

void CudaPlan::SetUp() {
  const std::string why = machine_why_not(*find_backend("cuda"));
  if (!why.empty()) GTEST_SKIP() << why;
}

std::vector<PlanCase> cases() {
  std::vector<PlanCase> all;
  int n = 0;
  for (const Structure structure : kStructures) {
    for (const int32_t head_dim : {64, 96, 128, 192, 256}) {
      ++n;
      all.push_back({.structure = structure,
                     .q_len = 1500 + 37 * n,
                     .kv_len = 1500 + 37 * n,
                     .heads = 4,
                     .kv_heads = 2,
                     .head_dim = head_dim,
                     .dtype = n % 3 == 0 ? DType::kF16 : DType::kBF16});
    }
    // Chunks, all ratios, dimensions that are no multiple of anything.
    all.push_back(
        {structure, 300, 1301, std::nullopt, 4, 2, 20, DType::kBF16, HeadGrouping::kInterleaved});
    all.push_back({structure, 77, 1000, std::nullopt, 7, 1, 128, DType::kF16});
    all.push_back({structure, 128, 2048, std::nullopt, 6, 6, 80, DType::kBF16});
    all.push_back(
        {structure, 640, 4096, 3000, 8, 2, 128, DType::kBF16, HeadGrouping::kInterleaved});
    all.push_back({structure, 2049, 2049, std::nullopt, 5, 1, 256, DType::kBF16});
    all.push_back({structure, 5000, 5000, std::nullopt, 4, 2, 64, DType::kBF16});
  }
  all.push_back({Structure::kLocal, 200, 900, 1200, 4, 2, 64, DType::kBF16});  // keys in the past
  all.push_back({Structure::kSink, 900, 1100, -50, 4, 2, 64, DType::kBF16});   // rows without keys
  all.push_back({Structure::kSink, 60, 1100, -30, 4, 2, 64, DType::kBF16});
  all.push_back({Structure::kTopics, 1, 700, std::nullopt, 3, 1, 128, DType::kBF16});
  all.push_back(
      {Structure::kLocal, 300, 2000, 1000, 4, 2, 128, DType::kBF16});  // keys in the future
  return all;
}

std::string str(const Policy& policy) {
  if (const auto* p = std::get_if<FlexPrefill>(&policy)) {
    return std::string(p->rule == Rule::kOfficial ? "official" : "coverage") + " gamma " +
           std::to_string(p->gamma) + " tau " + std::to_string(p->tau) + " min " +
           std::to_string(p->min_budget) + " max " +
           (p->max_budget ? std::to_string(*p->max_budget) : "none");
  }
  return std::holds_alternative<Dense>(policy) ? "dense" : "a-shape";
}

}  // namespace flexprefill::test
