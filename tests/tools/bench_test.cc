// `flexprefill bench` at sizes that measure nothing: that every mode runs, counts right and refuses
// what it should.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tool.h"

namespace flexprefill::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

json bench_json(std::vector<std::string> options) {
  options.insert(options.begin(), "bench");
  options.insert(options.end(), {"--json", "-"});
  const ToolResult result = run_tool(options);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return json::parse(result.out, nullptr, /*allow_exceptions=*/false);
}

const std::vector<std::string> kTiny = {"--heads",   "2", "--kv-heads", "1", "--head-dim", "16",
                                        "--repeats", "2", "--threads",  "1"};

json tiny(const std::string& mode, const std::vector<std::string>& more) {
  std::vector<std::string> options = {mode};
  options.insert(options.end(), kTiny.begin(), kTiny.end());
  options.insert(options.end(), more.begin(), more.end());
  return bench_json(options);
}

std::vector<std::string> names(const json& rows) {
  std::vector<std::string> result;
  for (const json& row : rows) result.push_back(row["name"]);
  return result;
}

void expect_times(const json& row) {
  SCOPED_TRACE(row.dump());
  EXPECT_EQ(row["runs"], 2);
  EXPECT_GT(row["seconds_min"], 0.0);
  EXPECT_LE(row["seconds_min"], row["seconds"]);
  EXPECT_LE(row["seconds"], row["seconds_max"]);
}

TEST(BenchPeak, ListsEveryLimit) {
  const json result = bench_json({"peak", "--repeats", "1", "--threads", "1"});
  EXPECT_THAT(result["machine"]["command"].get<std::string>(), HasSubstr("bench peak"));
  EXPECT_THAT(result["machine"]["date"].get<std::string>(), ::testing::SizeIs(10));
  std::string limits;
  for (const json& limit : result["results"]) {
    limits += limit["limit"].get<std::string>() + "\n";
    EXPECT_GT(limit["min"], 0.0);
    EXPECT_LE(limit["min"], limit["median"]);
    EXPECT_LE(limit["median"], limit["max"]);
  }
  for (const char* word :
       {"multiply-add fp32", "read, memory", "copy, memory", "cache", "oneDNN product"})
    EXPECT_THAT(limits, HasSubstr(word));
}

TEST(BenchAttention, DenseCountsExactCausalOperations) {
  const json result = tiny("attention", {"--q-len", "100", "--kv-len", "200", "--dtype", "f32"});
  const json& one = result["results"][0];
  EXPECT_EQ(one["q_len"], 100);
  EXPECT_EQ(one["kv_len"], 200);
  EXPECT_EQ(one["dtype"], "f32");
  EXPECT_EQ(one["threads"], 1);
  ASSERT_EQ(names(one["rows"]), std::vector<std::string>{"dense"});
  const json& row = one["rows"][0];
  expect_times(row);
  // Query t sees the keys 0 .. 100 + t; 2 heads, 2 products, 2 operations, 16 channels.
  EXPECT_EQ(row["flops"], 2.0 * 4 * 16 * (100 * 100 + 100 * 101 / 2));
  EXPECT_EQ(row["flop_count"], "exact-causal");
  EXPECT_EQ(row["computed_share"], 1.0);
}

TEST(BenchAttention, MasksCountWholeBlocks) {
  const json result = tiny("attention", {"--q-len", "512", "--density", "0.01", "0.5", "1"});
  const json& rows = result["results"][0]["rows"];
  ASSERT_EQ(names(rows), (std::vector<std::string>{"dense", "random 1.0 %", "random 50.0 %"}));
  for (size_t n = 1; n < rows.size(); ++n) {
    expect_times(rows[n]);
    EXPECT_EQ(rows[n]["flop_count"], "whole blocks");
    const double causal_blocks = 2 * (1 + 2 + 3 + 4);
    const double blocks = rows[n]["computed_share"].get<double>() * causal_blocks;
    EXPECT_GE(blocks, 2 * 4 - 1e-9);  // the diagonal stays
    EXPECT_NEAR(rows[n]["flops"].get<double>(), blocks * 128 * 128 * 4 * 16, 1.0);
    EXPECT_NEAR(rows[n]["times_dense"].get<double>(),
                rows[n]["seconds"].get<double>() / rows[0]["seconds"].get<double>(), 1e-9);
  }
}

TEST(BenchAttention, ValueHeadsMayDiffer) {
  const json result = tiny("attention", {"--q-len", "64", "--v-head-dim", "48", "--dtype", "f16"});
  EXPECT_EQ(result["results"][0]["rows"][0]["flops"], 2.0 * 2 * (16 + 48) * (64 * 65 / 2));
}

TEST(BenchAttention, PolicyShowsPlanAttendAndTotal) {
  const std::vector<std::string> options = {"--q-len",        "640", "--policy",      "a-shape",
                                            "--local-tokens", "128", "--sink-tokens", "128"};
  json rows = tiny("attention", options)["results"][0]["rows"];
  ASSERT_EQ(names(rows),
            (std::vector<std::string>{"dense", "plan a-shape", "attend a-shape", "total a-shape"}));
  EXPECT_LT(rows[2]["computed_share"], 1.0);
  EXPECT_GE(rows[3]["seconds_min"],
            rows[1]["seconds_min"].get<double>() + rows[2]["seconds_min"].get<double>());
  std::vector<std::string> without = options;
  without.emplace_back("--no-dense");
  rows = tiny("attention", without)["results"][0]["rows"];
  EXPECT_EQ(names(rows).front(), "plan a-shape");
  EXPECT_FALSE(rows[0].contains("times_dense"));
}

TEST(BenchAttention, BackendsWithoutAPeakAreTimed) {
  const json one = tiny("attention", {"--q-len", "64", "--backend", "ref"})["results"][0];
  EXPECT_EQ(one["backend"], "ref");
  EXPECT_FALSE(one["rows"][0].contains("peak_share"));
}

TEST(BenchPlan, BothRulesUnlessOneIsNamed) {
  const std::vector<std::string> shape = {"--q-len", "512", "--data", "structured"};
  EXPECT_EQ(names(tiny("plan", shape)["results"][0]["rows"]),
            (std::vector<std::string>{"dense", "plan coverage", "attend coverage", "total coverage",
                                      "plan official", "attend official", "total official"}));
  std::vector<std::string> official = shape;
  official.insert(official.end(), {"--rule", "official"});
  EXPECT_EQ(
      names(tiny("plan", official)["results"][0]["rows"]),
      (std::vector<std::string>{"dense", "plan official", "attend official", "total official"}));
}

TEST(BenchPlan, ARuleThatRefusesTheProblemIsLeftOut) {
  const json rows = tiny("plan", {"--q-len", "64", "--kv-len", "256"})["results"][0]["rows"];
  EXPECT_EQ(names(rows).back(), "total coverage");
  const ToolResult alone =
      run_tool({"bench", "plan", "--q-len", "64", "--kv-len", "256", "--rule", "official"});
  EXPECT_EQ(alone.exit_code, 1);
  EXPECT_THAT(alone.err, HasSubstr("FlexPrefill.rule = official"));
}

TEST(BenchAccuracy, ErrorsGrowWithTheRoundingOfTheInputs) {
  const json result = bench_json({"accuracy", "--heads", "2", "--kv-heads", "1", "--head-dim", "32",
                                  "--q-len", "40", "--kv-len", "300", "--data", "peaky"});
  ASSERT_EQ(result["results"].size(), 3u);
  const json &f32 = result["results"][0], &f16 = result["results"][1], &bf16 = result["results"][2];
  EXPECT_EQ(f32["dtype"], "f32");
  EXPECT_EQ(bf16["dtype"], "bf16");
  EXPECT_LT(f32["out_rms_exact"], 1e-4);
  EXPECT_LT(f32["p_max"], 1e-4);
  EXPECT_LT(f32["lse_max"], 1e-3);
  EXPECT_LT(f32["out_rms_exact"], f16["out_rms_exact"]);
  EXPECT_LT(f16["out_rms_exact"], bf16["out_rms_exact"]);
  EXPECT_LT(bf16["out_rms"], bf16["out_rms_exact"]);  // most of it is in the inputs
}

TEST(Bench, TablesAreForPeople) {
  const ToolResult result = run_tool({"bench", "attention", "--q-len", "64", "--repeats", "1"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* word : {"flexprefill 0.", "bf16, heads 8 / 2, head_dim 128, 64 x 64", "dense",
                           "exact-causal", "GFLOP/s count"})
    EXPECT_THAT(result.out, HasSubstr(word));
}

void expect_usage_error(std::vector<std::string> options, const std::string& words) {
  options.insert(options.begin(), "bench");
  const ToolResult result = run_tool(options);
  SCOPED_TRACE(::testing::PrintToString(options));
  EXPECT_EQ(result.exit_code, 2) << result.out;
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, StartsWith("flexprefill: "));
  EXPECT_THAT(result.err, HasSubstr(words));
  EXPECT_THAT(result.err, HasSubstr("--help` lists the options"));
}

TEST(BenchUsage, ValuesOutsideTheirRangeNameOptionAndRule) {
  for (const char* mode : {"attention", "plan", "accuracy"}) {
    expect_usage_error({mode, "--q-len", "0"}, "--q-len: 0, expected [1, 16777216]");
    expect_usage_error({mode, "--q-len", "many"}, "--q-len: many is not a whole number");
    expect_usage_error({mode, "--head-dim", "257"}, "--head-dim: 257, expected [1, 256]");
    expect_usage_error({mode, "--heads", "3"}, "--heads 3, expected a multiple of --kv-heads 2");
    expect_usage_error({mode, "--q-len", "9", "--kv-len", "8"}, "--kv-len 8, expected --q-len");
    expect_usage_error({mode, "--data", "odd"}, "--data");
    expect_usage_error({mode, "--threads", "-1"}, "--threads");
    expect_usage_error({mode, "--backend", "cuda"}, "--backend cuda");
  }
  expect_usage_error({"attention", "--dtype", "i8"}, "--dtype");
  expect_usage_error({"attention", "--repeats", "0"}, "--repeats: 0, expected [1, 1000]");
  expect_usage_error({"attention", "--density", "0"}, "--density 0, expected (0, 1]");
  expect_usage_error({"attention", "--density", "nan"}, "--density nan, expected (0, 1]");
  expect_usage_error({"attention", "--gamma", "2"}, "--gamma 2");
  expect_usage_error({"--suite", "/tmp/x", "--shrink", "0"}, "--shrink: 0, expected [1, 1024]");
}

TEST(BenchUsage, ContradictionsAreNamed) {
  expect_usage_error({}, "name what: peak, attention, plan, accuracy or model");
  expect_usage_error({"attention", "--density", "0.5", "--policy", "flex"},
                     "--density and --policy");
  expect_usage_error({"attention", "--no-dense"}, "--no-dense leaves nothing");
  expect_usage_error({"attention", "--layer", "1"}, "--layer belongs to --model");
  expect_usage_error({"attention", "--model", "m"}, "--model needs --prompt-file");
  expect_usage_error({"attention", "--model", "m", "--prompt-file", "p", "--head-dim", "64"},
                     "--head-dim: --model brings its own");
  expect_usage_error({"--suite", "/tmp/x", "peak"}, "--suite runs every command");
  expect_usage_error({"--shrink", "2"}, "--suite");
}

TEST(BenchUsage, UnwritableFilesFailBeforeTheWork) {
  const ToolResult result =
      run_tool({"bench", "attention", "--q-len", "64", "--json", "/no/such/folder/x.json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("--json /no/such/folder/x.json"));
}

TEST(BenchUsage, EveryModeExplainsItsOptions) {
  for (const char* mode : {"peak", "attention", "plan", "accuracy", "model"}) {
    const ToolResult result = run_tool({"bench", mode, "--help"});
    EXPECT_EQ(result.exit_code, 0);
    for (const char* word : {"--backend", "--threads", "--json"})
      EXPECT_THAT(result.out, HasSubstr(word)) << mode;
  }
  const ToolResult result = run_tool({"bench", "--help"});
  for (const char* word : {"--suite", "--shrink", "peak", "attention", "plan", "accuracy", "model"})
    EXPECT_THAT(result.out, HasSubstr(word));
}

}  // namespace
}  // namespace flexprefill::testing
