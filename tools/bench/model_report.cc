// What `bench model` measured, as a table and as JSON.

#include "tools/bench/model_prefill.h"

namespace flexprefill::tools {

using Json = nlohmann::ordered_json;

namespace {

std::string range(const Samples& samples) {
  return seconds(samples.median) +
         (samples.count > 1 ? " (" + fixed(samples.min, 3) + " .. " + fixed(samples.max, 3) + ")"
                            : "");
}

std::string rate(double flops_per_second, const Samples& peak) {
  return fixed(flops_per_second / 1e9, 0) + " GFLOP/s, " + percent(flops_per_second / peak.max) +
         " of peak";
}

}  // namespace

Table table_of(const ModelResult& result) {
  Table table;
  const auto add = [&](const std::string& title, auto cell) {
    std::vector<std::string> cells = {title};
    for (const PrefillTimes& run : result.runs) cells.push_back(cell(run));
    table.add_row(cells);
  };
  add("policy", [](const PrefillTimes& run) { return run.policy; });
  add("prefill", [](const PrefillTimes& run) { return range(run.prefill); });
  add("- plan", [](const PrefillTimes& run) { return range(run.plan); });
  add("- attend", [](const PrefillTimes& run) { return range(run.attend); });
  add("- matrix products", [](const PrefillTimes& run) { return range(run.matmul); });
  add("- pointwise", [](const PrefillTimes& run) { return range(run.pointwise); });
  add("- rest", [](const PrefillTimes& run) { return range(run.rest); });
  add("computed share", [](const PrefillTimes& run) { return percent(run.computed_share); });
  add("lowest coverage", [](const PrefillTimes& run) { return fixed(run.coverage_min, 4); });
  add("outside attention", [&](const PrefillTimes& run) {
    return rate(result.outside_flops_per_second(run), result.peak);
  });
  add("- share of oneDNN's rate", [&](const PrefillTimes& run) {
    return percent(result.outside_flops_per_second(run) / result.onednn_flops_per_second);
  });
  return table;
}

std::string notes_of(const ModelResult& result) {
  const PrefillTimes& dense = result.runs.front();
  return "Dense attend: " + rate(result.attend_flops / dense.attend.median, result.peak) +
         " (exact-causal). oneDNN alone on the shapes of a layer: " +
         rate(result.onednn_flops_per_second, result.peak) + ".\nSpeed-up " +
         fixed(result.speedup(), 2) + "x; the limit, attention shrunk to the computed share, is " +
         fixed(result.amdahl_limit(), 2) +
         "x: " + percent(result.speedup() / result.amdahl_limit()) + " of it.\n";
}

Json json_of(const ModelResult& result) {
  Json runs = Json::array();
  for (const PrefillTimes& run : result.runs) {
    const auto samples = [](const Samples& s) {
      return Json{{"seconds", s.median}, {"min", s.min}, {"max", s.max}};
    };
    runs.push_back({{"policy", run.policy},
                    {"runs", run.prefill.count},
                    {"prefill", samples(run.prefill)},
                    {"plan", samples(run.plan)},
                    {"attend", samples(run.attend)},
                    {"matmul", samples(run.matmul)},
                    {"pointwise", samples(run.pointwise)},
                    {"rest", samples(run.rest)},
                    {"computed_share", run.computed_share},
                    {"coverage_min", as_double(run.coverage_min)},
                    {"outside_gflops", result.outside_flops_per_second(run) / 1e9}});
  }
  return {{"tokens", result.tokens},
          {"chunk", result.chunk},
          {"dtypes", result.dtypes},
          {"runs", runs},
          {"dense_attend_gflops", result.attend_flops / result.runs.front().attend.median / 1e9},
          {"onednn_gflops", result.onednn_flops_per_second / 1e9},
          {"peak", result.peak_name},
          {"peak_gflops", result.peak.max / 1e9},
          {"speedup", result.speedup()},
          {"amdahl_limit", result.amdahl_limit()}};
}

}  // namespace flexprefill::tools
