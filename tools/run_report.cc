#include "tools/run_report.h"

#include "tools/format.h"

namespace flexprefill::tools {
namespace {

using Json = nlohmann::ordered_json;

double speedup(const std::vector<PolicyRun>& runs) {
  return runs[0].result.prefill.prefill_seconds / runs[1].result.prefill.prefill_seconds;
}

template <typename Cell>
void add_row(Table& table, const std::string& title, const std::vector<PolicyRun>& runs,
             Cell cell) {
  std::vector<std::string> cells = {title};
  for (const PolicyRun& run : runs) cells.push_back(cell(run.result));
  table.add_row(cells);
}

Json fields(const PolicyRun& run) {
  const runtime::GenerateResult& result = run.result;
  return {{"text", result.text},
          {"prompt_tokens", result.prefill.prompt_tokens},
          {"prefill_seconds", result.prefill.prefill_seconds},
          {"plan_seconds", result.prefill.parts.plan},
          {"attend_seconds", result.prefill.parts.attend},
          {"matmul_seconds", result.prefill.parts.matmul},
          {"pointwise_seconds", result.prefill.parts.pointwise},
          {"rest_seconds", result.prefill.parts.rest},
          {"decode_tokens_per_second", result.decode_tokens_per_second},
          {"computed_share", result.prefill.computed_share},
          {"coverage_min", as_double(result.prefill.coverage_min)},
          {"backend", result.prefill.backend},
          {"policy", run.policy}};
}

}  // namespace

std::string run_table(const std::vector<PolicyRun>& runs) {
  using runtime::GenerateResult;
  Table table;
  std::vector<std::string> title = {"policy"};
  for (const PolicyRun& run : runs) title.push_back(run.policy);
  table.add_row(title);
  add_row(table, "prompt tokens", runs,
          [](const GenerateResult& r) { return std::to_string(r.prefill.prompt_tokens); });
  add_row(table, "prefill", runs,
          [](const GenerateResult& r) { return seconds(r.prefill.prefill_seconds); });
  add_row(table, "  plan", runs,
          [](const GenerateResult& r) { return seconds(r.prefill.parts.plan); });
  add_row(table, "  attend", runs,
          [](const GenerateResult& r) { return seconds(r.prefill.parts.attend); });
  add_row(table, "computed share", runs,
          [](const GenerateResult& r) { return percent(r.prefill.computed_share); });
  add_row(table, "lowest coverage", runs,
          [](const GenerateResult& r) { return fixed(r.prefill.coverage_min, 4); });
  add_row(table, "decode, tokens/s", runs,
          [](const GenerateResult& r) { return fixed(r.decode_tokens_per_second, 1); });
  add_row(table, "backend", runs, [](const GenerateResult& r) { return r.prefill.backend; });
  if (runs.size() == 2) {
    table.add_row({"same answer", "", runs[0].result.text == runs[1].result.text ? "yes" : "no"});
    table.add_row({"prefill speed-up", "", fixed(speedup(runs), 2) + "x"});
  }
  return table.text();
}

Json run_json(const std::vector<PolicyRun>& runs) {
  if (runs.size() == 1) return fields(runs[0]);
  Json json;
  for (const PolicyRun& run : runs) json[run.policy] = fields(run);
  json["speedup"] = speedup(runs);
  return json;
}

}  // namespace flexprefill::tools
