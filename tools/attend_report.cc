#include "tools/attend_report.h"

#include "tools/format.h"
#include "tools/options.h"

namespace flexprefill::tools {

using Json = nlohmann::ordered_json;

double computed_share(const HeadReport& report) {
  return report.causal_blocks == 0
             ? 1.0
             : static_cast<double>(report.kept_blocks) / static_cast<double>(report.causal_blocks);
}

double lowest_coverage(std::span<const HeadReport> reports) {
  double lowest = std::numeric_limits<double>::quiet_NaN();
  for (const HeadReport& report : reports)
    if (!(lowest <= report.coverage)) lowest = as_double(report.coverage);
  return lowest;
}

std::string report_text(const AttendResult& result, const Policy& policy, int64_t q_len) {
  const std::span<const HeadReport> reports = result.reports;
  Table table;
  std::vector<std::string> head_line = {"head",     "pattern",  "kept",       "causal",
                                        "computed", "coverage", "lowest row", "divergence"};
  if (!result.kept.empty())
    head_line.insert(head_line.end(), {"all rows: kept", "lowest", "at row"});
  table.add_row(head_line);
  std::string limited;
  for (size_t h = 0; h < reports.size(); ++h) {
    const HeadReport& report = reports[h];
    std::vector<std::string> cells = {std::to_string(h),
                                      std::string(to_string(report.pattern)),
                                      std::to_string(report.kept_blocks),
                                      std::to_string(report.causal_blocks),
                                      percent(computed_share(report)),
                                      fixed(report.coverage, 4),
                                      fixed(report.coverage_min_row, 4),
                                      fixed(report.divergence, 4)};
    if (!result.kept.empty()) {
      const KeptMass& kept = result.kept[h];
      cells.insert(cells.end(), {fixed(kept.mean, 4), fixed(kept.lowest, 4),
                                 kept.lowest_row < 0 ? "-" : std::to_string(kept.lowest_row)});
    }
    table.add_row(cells);
    if (report.budget_limited) limited += " " + std::to_string(h);
  }
  std::string text = std::to_string(q_len) + " query tokens, " + describe(policy) + ", backend " +
                     std::string(result.backend->name()) + "\n\n" + table.text() + "\n";
  if (!limited.empty())
    text += "--max-budget ended the selection below gamma in heads" + limited + "\n";
  text += "computed " + percent(computed_share(result.mask)) + ", lowest coverage " +
          fixed(lowest_coverage(reports), 4) + ", plan " + seconds(result.plan_seconds) +
          ", attend " + seconds(result.attend_seconds) + "\n";
  return text;
}

Json report_json(const AttendResult& result, const std::string& policy_name,
                 const AttentionProblem& problem) {
  const std::span<const HeadReport> reports = result.reports;
  Json heads = Json::array();
  for (size_t h = 0; h < reports.size(); ++h) {
    const HeadReport& report = reports[h];
    Json head = {{"head", h},
                 {"pattern", to_string(report.pattern)},
                 {"kept_blocks", report.kept_blocks},
                 {"causal_blocks", report.causal_blocks},
                 {"computed_share", computed_share(report)},
                 {"coverage", as_double(report.coverage)},
                 {"coverage_min_row", as_double(report.coverage_min_row)},
                 {"divergence", as_double(report.divergence)},
                 {"budget_limited", report.budget_limited}};
    if (!result.kept.empty()) {
      const KeptMass& kept = result.kept[h];
      head["kept_mass_mean"] = kept.mean;
      head["kept_mass_min"] = kept.lowest;
      head["kept_mass_min_row"] = kept.lowest_row < 0 ? Json(nullptr) : Json(kept.lowest_row);
    }
    heads.push_back(head);
  }
  return {{"q_len", problem.q.tokens},
          {"kv_len", kv_len(problem)},
          {"q_start", q_start(problem)},
          {"plan_seconds", result.plan_seconds},
          {"attend_seconds", result.attend_seconds},
          {"computed_share", computed_share(result.mask)},
          {"coverage_min", lowest_coverage(reports)},
          {"backend", result.backend->name()},
          {"policy", policy_name},
          {"heads", heads}};
}

}  // namespace flexprefill::tools
