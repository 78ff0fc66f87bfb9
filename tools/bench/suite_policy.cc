// The sections of the suite about plan(), FlexPrefill as a whole, accuracy and the model.

#include <algorithm>

#include "tools/bench/model_prefill.h"
#include "tools/bench/suite.h"

namespace flexprefill::tools {
namespace {

constexpr int64_t k1K = 1024;

AttentionWork with_rules(std::initializer_list<Rule> rules) {
  AttentionWork work;
  for (const Rule rule : rules) {
    FlexPrefill flex;
    flex.rule = rule;
    work.policies.emplace_back(rule == Rule::kOfficial ? "official" : "coverage", flex);
  }
  return work;
}

// FlexPrefill of all layers of the model together; the rows are dense, plan, attend and total.
struct LayerSums {
  double seconds[4] = {};
  double worst = 0.0;  // the layer whose total is worst, in times its dense attention
  double share = 0.0;  // mean computed share
};

LayerSums sum_layers(SuiteRun& run, int64_t q_len, int64_t kv_len) {
  LayerSums sums;
  AttentionWork work = with_rules({Rule::kCoverage});
  work.peak = false;
  const int32_t layers = run.layers().count();
  for (int32_t layer = 0; layer < layers; ++layer) {
    const CaseResult result = run.measure_layer(layer, q_len, kv_len, work);
    for (size_t n = 0; n < result.rows.size(); ++n)
      sums.seconds[n] += result.rows[n].seconds.median;
    sums.worst = std::max(sums.worst, result.rows.back().times_dense);
    sums.share += result.rows[2].computed_share / layers;
  }
  return sums;
}

std::vector<std::string> layer_head() {
  return {"case",     "dense ms",     "plan ms", "attend ms",
          "total ms", "plan x dense", "x dense", "x dense, worst layer",
          "computed"};
}

void add_layers(Section& section, const std::string& title, const LayerSums& sums) {
  const double dense = sums.seconds[0];
  const auto ms = [](double value) { return fixed(1e3 * value, value < 0.1 ? 2 : 1); };
  section.table.add_row({title, ms(dense), ms(sums.seconds[1]), ms(sums.seconds[2]),
                         ms(sums.seconds[3]), fixed(sums.seconds[1] / dense, 3),
                         fixed(sums.seconds[3] / dense, 3), fixed(sums.worst, 3),
                         percent(sums.share)});
  section.results.push_back({{"case", title},
                             {"dense_seconds", dense},
                             {"plan_seconds", sums.seconds[1]},
                             {"attend_seconds", sums.seconds[2]},
                             {"total_seconds", sums.seconds[3]},
                             {"times_dense", sums.seconds[3] / dense},
                             {"times_dense_worst_layer", sums.worst},
                             {"computed_share", sums.share}});
}

}  // namespace

Section plan_section(SuiteRun& run) {
  Section section{
      "plan, one shot",
      "Both rules with their defaults (gamma 0.9), on q, k, v with structure: a few "
      "liked keys, decay with distance. Targets:\nplan takes 6 % of dense at 8K, 3 % at "
      "32K, or less.",
      {}};
  std::vector<CaseResult> cases;
  for (const int64_t tokens : {8 * k1K, 32 * k1K})
    cases.push_back(run.measure(run.shape(tokens, tokens, 128, DType::kBF16), Data::kStructured,
                                with_rules({Rule::kCoverage, Rule::kOfficial})));
  for (const CaseResult& result : cases) section.results.push_back(json_of(result));
  section.table = table_of(cases, /*titles=*/true);
  return section;
}

Section chunk_section(SuiteRun& run) {
  Section section{"FlexPrefill by chunks against 16K",
                  "The last tokens of a 16K prompt as one chunk: first all layers of needle-14m "
                  "(real q, k, v, bf16), then head_dim 128\nwith structured and with normal data, "
                  "whose attention is spread evenly. Target: never above 1.05x dense.\nThe scores "
                  "of the probe rows alone cost 64 / chunk of dense attention.",
                  {}};
  section.table.add_row(layer_head());
  for (const int64_t chunk : {int64_t{512}, k1K, 2 * k1K, 4 * k1K})
    add_layers(section, "needle-14m, chunk " + std::to_string(run.length(chunk)),
               sum_layers(run, chunk, 16 * k1K));
  for (const Data data : {Data::kStructured, Data::kNormal}) {
    for (const int64_t chunk : {int64_t{512}, k1K, 2 * k1K, 4 * k1K}) {
      const CaseResult result = run.measure(run.shape(chunk, 16 * k1K, 128, DType::kBF16), data,
                                            with_rules({Rule::kCoverage}));
      LayerSums sums;
      for (size_t n = 0; n < result.rows.size(); ++n)
        sums.seconds[n] = result.rows[n].seconds.median;
      sums.worst = result.rows.back().times_dense;
      sums.share = result.rows[2].computed_share;
      add_layers(section,
                 std::string(to_string(data)) + ", chunk " + std::to_string(run.length(chunk)),
                 sums);
    }
  }
  return section;
}

Section short_section(SuiteRun& run) {
  Section section{
      "FlexPrefill in one shot, short prompts",
      "Real q, k, v of needle-14m (bf16), the times of all layers together. Target: the "
      "total is at most 1.03x dense.",
      {}};
  section.table.add_row(layer_head());
  for (const int64_t tokens : {int64_t{256}, int64_t{512}, k1K, 2 * k1K, 4 * k1K, 8 * k1K})
    add_layers(section, std::to_string(run.length(tokens)) + " tokens",
               sum_layers(run, tokens, tokens));
  return section;
}

Section accuracy_section(SuiteRun& run) {
  Section section{"Accuracy",
                  "Dense attend() on 256 queries against 4096 keys, 2 heads, head_dim 128; peaky: "
                  "scores with a standard deviation\nof 6, up to +-25; needle-14m: its layers, "
                  "head_dim 64.",
                  {}};
  std::vector<Accuracy> rows;
  const auto measure = [&](const std::string& data, const Inputs& exact) {
    run.tell("accuracy, " + data);
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
      rows.push_back(measure_accuracy(data, exact, dtype, run.setup().context));
  };
  Shape shape = run.shape(256, 4 * k1K, 128, DType::kF32);
  shape.heads = 2;
  shape.kv_heads = 1;
  for (const Data data : {Data::kNormal, Data::kPeaky})
    measure(std::string(to_string(data)), Inputs(shape, data));
  for (const int32_t layer : {0, run.layers().count() / 2, run.layers().count() - 1})
    measure("needle-14m, layer " + std::to_string(layer),
            run.layers().inputs(layer, shape.q_len, shape.kv_len, DType::kF32));
  for (const Accuracy& row : rows) section.results.push_back(json_of(row));
  section.table = table_of(rows);
  section.notes = accuracy_notes();
  return section;
}

Section model_section(SuiteRun& run) {
  const std::vector<int32_t> ids = run.ids(run.length(32 * k1K));
  ModelWork work;
  work.policy_name = "flex";
  run.tell("the model, " + std::to_string(ids.size()) + " tokens, dense and FlexPrefill");
  Setup setup = run.setup();
  setup.repeats.seconds = 40.0;
  const ModelResult result = measure_model(run.model(), ids, work, setup);
  Section section{"needle-14m, end to end",
                  "The prefill of " + std::to_string(result.tokens) + " tokens in chunks of " +
                      std::to_string(result.chunk) + ", " + result.dtypes +
                      ", FlexPrefill with gamma 0.9. Targets: 2.4x faster than\ndense, 90 % of the "
                      "limit; everything outside attention at 70 % of oneDNN's rate on these "
                      "shapes.",
                  table_of(result)};
  section.notes = notes_of(result);
  section.results.push_back(json_of(result));
  return section;
}

}  // namespace flexprefill::tools
