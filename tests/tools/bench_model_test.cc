// The modes of `flexprefill bench` that read a model, at sizes that measure nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model_folder.h"
#include "tool.h"

namespace flexprefill::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class BenchModel : public ::testing::Test {
 protected:
  void SetUp() override { write_file(prompt_, needle_prompt(10)); }

  ToolResult bench(std::vector<std::string> options) {
    options.insert(options.begin(), "bench");
    options.insert(options.end(), {"--model", kModel, "--prompt-file", prompt_});
    return run_tool(options);
  }

  TemporaryFolder folder_;
  std::string prompt_ = folder_ / "prompt.txt";
};

TEST_F(BenchModel, PrefillIsTakenApart) {
  const ToolResult result =
      bench({"model", "--tokens", "300", "--chunk", "128", "--repeats", "2", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json one = json::parse(result.out)["results"][0];
  EXPECT_EQ(one["tokens"], 300);
  EXPECT_EQ(one["chunk"], 128);
  ASSERT_EQ(one["runs"].size(), 2u);
  for (const json& run : one["runs"]) {
    EXPECT_EQ(run["runs"], 2);
    double parts = 0.0;
    for (const char* part : {"plan", "attend", "matmul", "pointwise", "rest"})
      parts += run[part]["min"].get<double>();
    EXPECT_GT(parts, 0.0);
    EXPECT_LE(parts, run["prefill"]["max"].get<double>() * 1.000001);
  }
  EXPECT_EQ(one["runs"][0]["policy"], "dense");
  EXPECT_EQ(one["runs"][0]["computed_share"], 1.0);
  EXPECT_GE(one["amdahl_limit"], 1.0);
  EXPECT_GT(one["onednn_gflops"], 0.0);
  EXPECT_THAT(result.err, HasSubstr("share of oneDNN's rate"));
}

TEST_F(BenchModel, LayersAreProblems) {
  const auto count = [&](const std::vector<std::string>& more) {
    std::vector<std::string> options = {"plan",      "--q-len", "256",    "--kv-len", "384",
                                        "--repeats", "1",       "--json", "-"};
    options.insert(options.end(), more.begin(), more.end());
    const ToolResult result = bench(options);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const json cases = json::parse(result.out)["results"];
    EXPECT_EQ(cases[0]["heads"], 6);
    EXPECT_EQ(cases[0]["kv_len"], 384);
    return cases.size();
  };
  EXPECT_EQ(count({}), 8u);
  EXPECT_EQ(count({"--layer", "7"}), 1u);
  const ToolResult result = bench({"plan", "--layer", "8", "--q-len", "64"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--layer 8, expected a layer of the model, [0, 7]"));
}

TEST_F(BenchModel, LayersSideBySideAreOneProblem) {
  const ToolResult result = bench({"plan", "--q-len", "64", "--kv-len", "3000", "--heads", "32",
                                   "--kv-heads", "8", "--repeats", "1", "--json", "-"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json cases = json::parse(result.out)["results"];
  ASSERT_EQ(cases.size(), 1u);
  EXPECT_EQ(cases[0]["heads"], 32);
  EXPECT_EQ(cases[0]["kv_heads"], 8);
  EXPECT_EQ(cases[0]["head_dim"], 64);
  EXPECT_THAT(cases[0]["case"].get<std::string>(), HasSubstr("heads of all layers, text repeated"));
}

TEST_F(BenchModel, SuiteWritesEveryTable) {
  const std::string file = folder_ / "performance.md";
  const ToolResult result =
      bench({"--suite", file, "--shrink", "128", "--json", folder_ / "performance.json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string text = read_file(file);
  for (const char* word :
       {"# Performance", "bench --suite", "## The machine", "## Dense, bf16",
        "## Random block masks, bf16", "## fp32 with every instruction set",
        "## f16 and f32 beside bf16", "## Threads", "## plan, one shot",
        "## FlexPrefill by chunks against 16K", "## FlexPrefill in one shot, short prompts",
        "## Accuracy", "## needle-14m, end to end", "portable: f32", "head_dim 192 / 128"})
    EXPECT_THAT(text, HasSubstr(word));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("| NO |")));  // the bits of one thread and of many
  EXPECT_EQ(json::parse(read_file(folder_ / "performance.json"))["results"].size(), 11u);
  EXPECT_THAT(result.err, HasSubstr("section 11 of 11"));
}

}  // namespace
}  // namespace flexprefill::testing
