#include "tools/bench/row.h"

#include <cmath>

namespace flexprefill::tools {

using Json = nlohmann::ordered_json;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

}  // namespace

std::string milliseconds(const Samples& seconds) {
  const double scale = 1e3;
  const int digits = seconds.median < 0.1 ? 2 : seconds.median < 1.0 ? 1 : 0;
  return fixed(scale * seconds.median, digits) + " (" + fixed(scale * seconds.min, digits) +
         " .. " + fixed(scale * seconds.max, digits) + ")";
}

Table table_of(const std::vector<CaseResult>& results, bool titles) {
  Table table;
  table.add_row({"case", "", "ms (min .. max)", "runs", "GFLOP/s", "counted", "of peak", "peak",
                 "GB/s", "computed", "x dense"});
  for (const CaseResult& result : results) {
    for (const Row& row : result.rows) {
      const bool first = &row == &result.rows.front(), has_peak = !std::isnan(row.peak_share());
      const std::string peak = row.peak_name + " " + fixed(row.peak.max / 1e9, 0);
      table.add_row({titles && first ? result.title : "", row.name, milliseconds(row.seconds),
                     std::to_string(row.seconds.count), fixed(row.gflops(), 0), row.flop_count,
                     percent(row.peak_share()), has_peak ? peak : "",
                     fixed(row.gigabytes_per_second(), 1), percent(row.computed_share),
                     fixed(row.times_dense, 3)});
    }
  }
  table.drop_empty_columns();
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
    add("peak_gflops", row.peak.max / 1e9);
    add("peak_gflops_median", row.peak.median / 1e9);
    add("peak_gflops_min", row.peak.min / 1e9);
    add("peak_share", row.peak_share());
    add("bytes", row.bytes);
    add("gigabytes_per_second", row.gigabytes_per_second());
    add("computed_share", row.computed_share);
    add("times_dense", row.times_dense);
    rows.push_back(std::move(json));
  }
  Json json = {{"case", result.title}};
  json.update(result.fields);
  json["rows"] = std::move(rows);
  return json;
}

CaseResult case_of(const Json& json) {
  CaseResult result{json.at("case"), json, {}};
  result.fields.erase("case");
  result.fields.erase("rows");
  for (const Json& fields : json.at("rows")) {
    const auto number = [&](const char* key) { return fields.value(key, kNaN); };
    Row row;
    row.name = fields.at("name");
    row.seconds = {number("seconds"), number("seconds_min"), number("seconds_max"),
                   fields.at("runs")};
    row.flops = number("flops");
    row.flop_count = fields.value("flop_count", "");
    row.peak_name = fields.value("peak", "");
    row.peak = {1e9 * number("peak_gflops_median"), 1e9 * number("peak_gflops_min"),
                1e9 * number("peak_gflops"), row.seconds.count};
    row.bytes = number("bytes");
    row.computed_share = number("computed_share");
    row.times_dense = number("times_dense");
    result.rows.push_back(row);
  }
  return result;
}

std::string column_notes() {
  return "GFLOP/s count exact-causal operations for dense and whole 128 x 128 blocks for sparse\n"
         "masks, 2 (head_dim + v_head_dim) per pair of query and key. The peak is the highest "
         "sample\nof those taken before and after each run. GB/s are keys and values of the blocks "
         "read, once\nper head and query block, and for plan the keys once.\n";
}

}  // namespace flexprefill::tools
