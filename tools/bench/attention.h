#pragma once

// Measures attend() and plan() of one problem.

#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "tools/bench/inputs.h"
#include "tools/bench/row.h"

namespace flexprefill::tools {

struct Setup {
  Context context;  // backend and threads; the workspace is the measurement's own
  Repeats repeats;
};

struct AttentionWork {
  bool dense = true;              // attend() of every causal block, the baseline of the others
  bool peak = true;               // sample the peak between the runs
  std::vector<double> densities;  // attend() of random masks, each in (0, 1)
  std::vector<std::pair<std::string, Policy>> policies;  // plan(), attend() and both
};

// The backend that runs this problem. Throws Error if none does.
const Backend& backend_of(const AttentionProblem& problem, const Policy& policy,
                          const Context& context);

// Everything interleaved round by round. Of several policies those that the backend refuses are
// left out; a lone one throws Error.
CaseResult measure_attention(const Inputs& inputs, const AttentionWork& work, const Setup& setup);

// Dense attend() with one thread and with all of the context's, interleaved.
struct ThreadComparison {
  Samples one, all;  // seconds
  int threads = 0;
  bool same_bits = false;  // of the outputs and log-sum-exps
};
ThreadComparison compare_threads(const Inputs& inputs, const Setup& setup);

}  // namespace flexprefill::tools
