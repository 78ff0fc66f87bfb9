#pragma once

// What `flexprefill run` measured, as a table and as JSON.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/generate.h"

namespace flexprefill::tools {

struct PolicyRun {
  std::string policy;  // dense, flex or a-shape
  runtime::GenerateResult result;
};

// One column per run; of two runs the first is the baseline.
std::string run_table(const std::vector<PolicyRun>& runs);

// One run: its fields. Two: an object per policy and "speedup" (prefill time, first / second).
nlohmann::ordered_json run_json(const std::vector<PolicyRun>& runs);

}  // namespace flexprefill::tools
