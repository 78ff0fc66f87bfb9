#pragma once

// Runs plan() and attend() on a named backend, and keeps the workspace alive.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flexprefill/flexprefill.h"
#include "tests/support/cases.h"
#include "tests/support/device.h"

namespace flexprefill::test {

// Under sanitizers, ten times slower, suites leave out their largest inputs.
#ifdef FLEXPREFILL_SANITIZED
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// The backends under test: those of backends() that the machine can run. Where FLEXPREFILL_BACKEND
// forces one, exactly that one must be there: anything else fails the test.
std::vector<const Backend*> tested_backends();

// The case as the backend can take it: for_tensor_cores() on the GPU.
Case adapted(const Backend& backend, const Case& c);

// Counts and prints what a backend was not tested on; the total is printed when the program ends.
void skip(const Backend& backend, const std::string& what, const std::string& why);

// A plan together with the memory it lies in.
struct PlanResult {
  std::vector<std::byte> workspace;
  Plan plan;
};

// Whether the backend multiplies 16-bit inputs in bf16: see as_multiplied_in_bf16().
bool multiplies_in_bf16(const Backend& backend);

// Through the public calls; fails the test if another backend planned. For a backend on the GPU the
// problems are copied there and the results back; the plan then points into the copied workspace.
PlanResult run_plan(const Backend& backend, std::span<const AttentionProblem> problems,
                    std::span<const Policy> policies, int threads = 0);
PlanResult run_plan(const Backend& backend, const AttentionProblem& problem, const Policy& policy,
                    int threads = 0);
void run_attend(const Backend& backend, std::span<const AttentionProblem> problems,
                std::span<const BlockMask> masks, int threads = 0);
void run_attend(const Backend& backend, const Instance& x, int threads = 0);

// NaN included, and -0 is not 0.
bool same_bits(std::span<const float> a, std::span<const float> b);
// Output and log-sum-exp.
bool same_results(const Instance& a, const Instance& b);

// Attends the cases in one call, and expects the bits of each alone.
std::vector<std::unique_ptr<Instance>> attend_together(const Backend& backend,
                                                       std::span<const Case> cases);

// The reference directly, also when FLEXPREFILL_BACKEND hides it: fp64 arithmetic.
void run_reference(const AttentionProblem& problem, const BlockMask& mask);

// The reference's plan of one problem, directly.
struct ReferencePlan {
  std::vector<uint64_t> bits;
  BlockMask mask;
  std::vector<HeadReport> reports;  // [heads]
};
ReferencePlan reference_plan(const AttentionProblem& problem, const Policy& policy);

struct Expected {
  std::vector<float> out;  // [q_len, heads, v.head_dim]
  std::vector<float> lse;  // [heads, q_len]
};

// What attend() of the problem should give, in fp64 and with no rounding to a 16-bit output.
Expected expected_attention(const AttentionProblem& problem, const BlockMask& mask);

}  // namespace flexprefill::test
