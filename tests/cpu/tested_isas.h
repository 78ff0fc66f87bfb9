#pragma once

#include <span>
#include <vector>

#include "cpu/backend.h"

namespace flexprefill::test {

// The instruction sets that this machine can run; the others are counted and printed as skipped.
std::vector<internal::Isa> tested_isas();

// One problem on one instruction set, through the backend itself: backends() has the best one only.
// The scratch is exactly scratch_bytes() long and starts at an odd address.
void run_attend_on(internal::Isa isa, const AttentionProblem& problem, const BlockMask& mask,
                   int threads = 0);

struct IsaPlan {
  std::vector<uint64_t> bits;
  std::vector<HeadReport> reports;
  BlockMask mask;
};
IsaPlan run_plan_on(internal::Isa isa, const AttentionProblem& problem, const Policy& policy,
                    int threads = 0);

}  // namespace flexprefill::test
