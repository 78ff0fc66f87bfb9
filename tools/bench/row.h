#pragma once

// What one measurement says, as a line of a table and as JSON.

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench/measure.h"
#include "tools/format.h"

namespace flexprefill::tools {

struct Row {
  std::string name;  // "dense", "plan coverage", ...
  Samples seconds;
  double flops = std::numeric_limits<double>::quiet_NaN();
  std::string flop_count;  // how they are counted: "exact-causal" or "whole blocks"
  std::string peak_name;   // "bf16 avx512bf16"
  Samples peak;            // FLOP/s; the highest sample counts, as a disturbance only lowers one
  double bytes = std::numeric_limits<double>::quiet_NaN();
  double computed_share = std::numeric_limits<double>::quiet_NaN();
  double times_dense = std::numeric_limits<double>::quiet_NaN();  // seconds / dense attend's

  double gflops() const { return flops / seconds.median / 1e9; }
  double peak_share() const { return flops / seconds.median / peak.max; }
  double gigabytes_per_second() const { return bytes / seconds.median / 1e9; }
};

// One problem and everything measured on it.
struct CaseResult {
  std::string title;              // the case in words
  nlohmann::ordered_json fields;  // the same for programs
  std::vector<Row> rows;
};

// "12.3 (12.1 .. 14.0)", milliseconds.
std::string milliseconds(const Samples& seconds);

// One line per row; with `titles` the first column is the case. Columns without content are left
// out.
Table table_of(const std::vector<CaseResult>& results, bool titles);
nlohmann::ordered_json json_of(const CaseResult& result);
CaseResult case_of(const nlohmann::ordered_json& json);  // what json_of() made

// How the columns of table_of() are to be read.
std::string column_notes();

}  // namespace flexprefill::tools
