// Loss of attention mass over all rows against computed share, of both rules on q and k of real
// layers: prints the table of docs/algorithm.md, and fails if kCoverage is not the better one.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>

#include "numeric.h"
#include "tests/plan/plan_cases.h"
#include "tests/support/host_backends.h"
#include "tests/support/run.h"

namespace flexprefill::test {
namespace {

constexpr int64_t kRowStep = 8;  // one row in eight stands for all

// A head and its mass per block, summed over the rows of each query block.
struct Head {
  const PlanInstance* instance = nullptr;
  int32_t h = 0;
  std::vector<std::vector<double>> mass;  // [q_blocks][k_blocks]
};

std::vector<std::vector<double>> block_mass(const AttentionProblem& problem, int32_t h) {
  const auto head_dim = static_cast<size_t>(problem.q.head_dim);
  const int64_t keys = kv_len(problem);
  const auto blocks = static_cast<size_t>((keys + kBlock - 1) / kBlock);
  std::vector<float> k(static_cast<size_t>(keys) * head_dim), q(head_dim);
  for (int64_t n = 0; n < keys; ++n) {
    internal::load_row(problem.kv.k, n, kv_head(problem, h), &k[static_cast<size_t>(n) * head_dim]);
  }
  std::vector<std::vector<double>> mass(blocks, std::vector<double>(blocks));
  std::vector<float> logits;
  for (int64_t t = kRowStep - 1; t < keys; t += kRowStep) {
    internal::load_row(problem.q, t, h, q.data());
    logits.resize(static_cast<size_t>(t) + 1);
    for (size_t n = 0; n < logits.size(); ++n) {
      float dot = 0.0f;
      for (size_t c = 0; c < head_dim; ++c) dot += q[c] * k[n * head_dim + c];
      logits[n] = dot / std::sqrt(static_cast<float>(head_dim));
    }
    const float max = *std::max_element(logits.begin(), logits.end());
    std::vector<double> row(blocks);
    double total = 0.0;
    for (size_t n = 0; n < logits.size(); ++n) {
      const double p = std::exp(logits[n] - max);
      row[n / kBlock] += p;
      total += p;
    }
    for (size_t j = 0; j < blocks; ++j) mass[static_cast<size_t>(t / kBlock)][j] += row[j] / total;
  }
  return mass;
}

struct Point {
  double gamma = 0.0, share = 0.0, loss = 0.0, worst = 0.0;  // means over heads; worst head
};

Point measure(const std::vector<std::unique_ptr<PlanInstance>>& instances,
              const std::vector<Head>& heads, const FlexPrefill& policy) {
  Point point{double{policy.gamma}, 0, 0, 0};
  for (const auto& x : instances) {
    // Every backend selects the same blocks; the first is the fastest.
    const PlanResult result = run_plan(*host_backends().front(), x->problem, policy);
    const BlockMask& mask = result.plan.masks[0];
    for (const Head& head : heads) {
      if (head.instance != x.get()) continue;
      double kept = 0.0, total = 0.0;
      for (int32_t i = 0; i < mask.q_blocks; ++i) {
        for (int32_t j = 0; j <= i; ++j) {
          const double mass = head.mass[static_cast<size_t>(i)][static_cast<size_t>(j)];
          total += mass;
          if (mask.test(head.h, i, j)) kept += mass;
        }
      }
      const HeadReport& report = result.plan.report()[static_cast<size_t>(head.h)];
      point.share += static_cast<double>(report.kept_blocks) /
                     static_cast<double>(report.causal_blocks) / static_cast<double>(heads.size());
      point.loss += (1 - kept / total) / static_cast<double>(heads.size());
      point.worst = std::max(point.worst, 1 - kept / total);
    }
  }
  return point;
}

// Loss of a curve at a share, on the straight line between its points.
double loss_at(const std::vector<Point>& curve, double share) {
  for (size_t n = 1; n < curve.size(); ++n) {
    if (share > curve[n].share) continue;
    const Point &a = curve[n - 1], &b = curve[n];
    return a.loss + (b.loss - a.loss) * (share - a.share) / (b.share - a.share);
  }
  return 0.0;
}

TEST(Loss, CoverageRuleLosesLessThanTheOfficialOneAtTheSameShare) {
  std::vector<std::unique_ptr<PlanInstance>> instances;
  std::vector<Head> heads;
  for (const char* name : {"n2000_layer4", "n2048_layer1", "n2048_layer4", "n4096_layer4"}) {
    instances.push_back(std::make_unique<PlanInstance>(std::string(name)));
    for (int32_t h = 0; h < instances.back()->problem.q.heads; ++h) {
      heads.push_back({instances.back().get(), h, block_mass(instances.back()->problem, h)});
    }
  }
  std::cout << std::fixed << std::setprecision(3) << "rule tau gamma share loss worst\n";
  for (const float tau : {0.1f, 1.0f}) {
    std::vector<Point> curves[2];
    for (const Rule rule : {Rule::kOfficial, Rule::kCoverage}) {
      auto& curve = curves[rule == Rule::kCoverage];
      for (const float gamma : {0.5f, 0.7f, 0.8f, 0.9f, 0.95f, 0.98f, 0.99f}) {
        curve.push_back(measure(instances, heads,
                                {.gamma = gamma, .tau = tau, .min_budget = 128, .rule = rule}));
        const Point& p = curve.back();
        std::cout << (rule == Rule::kCoverage ? "coverage " : "official ") << tau << " " << p.gamma
                  << " " << p.share << " " << p.loss << " " << p.worst << "\n";
      }
    }
    for (const Point& p : curves[1]) {
      if (p.share > curves[0].back().share) continue;  // upstream does not get there
      EXPECT_LT(p.loss, loss_at(curves[0], p.share)) << "tau " << tau << " gamma " << p.gamma;
    }
  }
}

}  // namespace
}  // namespace flexprefill::test
