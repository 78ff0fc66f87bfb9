#pragma once

// What the authors' code selected for real layers (tests/data/official), and how to compare with
// it.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/plan/official_trace.h"
#include "tests/support/run.h"
#include "tests/support/safetensors.h"

namespace flexprefill::test {

// The shortest alone under sanitizers.
inline std::vector<std::string> fixtures() {
  if (kSanitized) return {"n2000_layer4"};
  return {"n2000_layer4", "n2048_layer1", "n2048_layer4", "n4096_layer4"};
}

// A recorded setting: its name in the file, "g<gamma>_t<tau>_b<min_budget>", and the policy.
struct Setting {
  std::string name;
  FlexPrefill policy;
};

inline std::vector<Setting> settings(const Fixture& fixture) {
  std::vector<Setting> all;
  for (const std::string& name : fixture.names()) {
    const size_t end = name.find(".out_sum");
    if (end == std::string::npos) continue;
    Setting setting{name.substr(0, end), {}};
    float gamma = 0, tau = 0;
    long min_budget = 0;
    EXPECT_EQ(std::sscanf(name.c_str(), "g%f_t%f_b%ld", &gamma, &tau, &min_budget), 3) << name;
    setting.policy = {
        .gamma = gamma, .tau = tau, .min_budget = min_budget, .rule = Rule::kOfficial};
    all.push_back(setting);
  }
  return all;
}

struct Recorded {
  explicit Recorded(const std::string& name)
      : fixture("official/official_" + name + ".safetensors"),
        q(fixture.tensor("q")),
        k(fixture.tensor("k")),
        v(fixture.tensor("v")) {
    problem.q = q.view();
    problem.kv.k = k.view();
    problem.kv.v = v.view();
  }

  std::vector<int32_t> blocks(const Setting& setting, int32_t h) const {
    return fixture.ints(setting.name + ".head" + std::to_string(h));
  }

  Fixture fixture;
  Tensor q, k, v;
  AttentionProblem problem;
};

inline std::vector<int32_t> blocks_of(const BlockMask& mask, int32_t h) {
  std::vector<int32_t> blocks;
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    mask.for_each_block(h, i, [&](int32_t j) { blocks.push_back(i * mask.k_blocks + j); });
  }
  return blocks;
}

inline size_t differing(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int32_t> difference;
  std::ranges::set_symmetric_difference(a, b, std::back_inserter(difference));
  return difference.size();
}

struct OfficialTally {
  int heads = 0, identical_heads = 0;
  size_t blocks = 0, different_blocks = 0;
};

// Prints the decision by which these blocks differ from the reference's; fails without one, or with
// one that rounding cannot turn.
inline void expect_explained(const OfficialTrace& trace, const std::vector<int32_t>& blocks,
                             const std::string& whose) {
  const auto explanation = trace.explain(blocks);
  ASSERT_TRUE(explanation.has_value()) << whose << ": no single decision explains the blocks";
  std::cout << "  " << whose << ": " << explanation->decision << ", margin " << explanation->margin
            << ", bound " << explanation->bound << "\n";
  EXPECT_LE(explanation->margin, explanation->bound) << whose << ": " << explanation->decision;
}

}  // namespace flexprefill::test
