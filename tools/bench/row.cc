#include "tools/bench/row.h"

#include <cmath>

namespace flexprefill::tools {

using Json = nlohmann::ordered_json;

std::string milliseconds(const Samples& seconds) {
  const double scale = 1e3;
  const int digits = seconds.median < 0.1 ? 2 : seconds.median < 1.0 ? 1 : 0;
  return fixed(scale * seconds.median, digits) + " (" + fixed(scale * seconds.min, digits) +
         " .. " + fixed(scale * seconds.max, digits) + ")";
}

Table table_of(const std::vector<CaseResult>& results) {
  Table table;
  table.add_row({"case", "what", "ms (min .. max)", "runs", "GFLOP/s", "counted", "of peak", "peak",
                 "GB/s", "computed", "x dense"});
  for (const CaseResult& result : results) {
    for (const Row& row : result.rows) {
      const bool first = &row == &result.rows.front();
      table.add_row({first ? result.title : "", row.name, milliseconds(row.seconds),
                     std::to_string(row.seconds.count), fixed(row.gflops(), 0),
                     row.flop_count.empty() ? "-" : row.flop_count, percent(row.peak_share()),
                     row.peak_name.empty() || std::isnan(row.flops)
                         ? "-"
                         : row.peak_name + " " + fixed(row.peak.median / 1e9, 0),
                     fixed(row.gigabytes_per_second(), 1), percent(row.computed_share),
                     fixed(row.times_dense, 3)});
    }
  }
  return table;
}

Json json_of(const CaseResult& result) {
  Json rows = Json::array();
  for (const Row& row : result.rows) {
    Json json = {{"name", row.name},
                 {"seconds", row.seconds.median},
                 {"seconds_min", row.seconds.min},
                 {"seconds_max", row.seconds.max},
                 {"runs", row.seconds.count}};
    const auto add = [&](const char* key, double value) {
      if (!std::isnan(value)) json[key] = value;
    };
    if (!row.flop_count.empty()) json["flop_count"] = row.flop_count;
    add("flops", row.flops);
    add("gflops", row.gflops());
    if (!std::isnan(row.flops) && !row.peak_name.empty()) json["peak"] = row.peak_name;
    add("peak_gflops", row.peak.median / 1e9);
    add("peak_gflops_min", row.peak.min / 1e9);
    add("peak_gflops_max", row.peak.max / 1e9);
    add("peak_share", row.peak_share());
    add("bytes", row.bytes);
    add("gigabytes_per_second", row.gigabytes_per_second());
    add("computed_share", row.computed_share);
    add("times_dense", row.times_dense);
    rows.push_back(std::move(json));
  }
  Json json = result.fields;
  json["rows"] = std::move(rows);
  return json;
}

std::string column_notes() {
  return "GFLOP/s count exact-causal operations for dense and whole 128 x 128 blocks for sparse\n"
         "masks, 2 (head_dim + v_head_dim) per pair of query and key. The peak is sampled before "
         "and\nafter each run. GB/s are keys and values of the blocks read, once per head and "
         "query block,\nand for plan the keys once.\n";
}

}  // namespace flexprefill::tools
