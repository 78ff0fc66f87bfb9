#pragma once

// What `flexprefill attend` found out, and how it tells: as a table and as JSON.

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flexprefill/flexprefill.h"

namespace flexprefill::tools {

// The true kept attention mass over all rows of one head: exp(lse of the mask - lse of dense). NaN
// if the attention of some row is.
struct KeptMass {
  double mean = std::numeric_limits<double>::quiet_NaN();
  double lowest = std::numeric_limits<double>::quiet_NaN();
  int64_t lowest_row = -1;  // the first NaN, if any; -1: no row sees a key
};

// The memory that one attend() call fills.
struct Output {
  std::vector<uint64_t> storage;  // out [q_len, heads, v.head_dim], in the dtype of q
  std::vector<float> lse;         // [heads, q_len]
};

struct AttendResult {
  const Backend* backend = nullptr;
  std::vector<HeadReport> reports;  // [heads]
  std::vector<uint64_t> bits;       // of the mask
  BlockMask mask;                   // in host memory
  Output output;
  std::vector<KeptMass> kept;  // [heads], with --check
  double plan_seconds = 0.0;
  double attend_seconds = 0.0;
};

// The lowest coverage of the heads; NaN if none was measured.
double lowest_coverage(std::span<const HeadReport> reports);

// Fraction of a head's causal blocks that are computed.
double computed_share(const HeadReport& report);

std::string report_text(const AttendResult& result, const Policy& policy, int64_t q_len);
nlohmann::ordered_json report_json(const AttendResult& result, const std::string& policy_name,
                                   const AttentionProblem& problem);

}  // namespace flexprefill::tools
