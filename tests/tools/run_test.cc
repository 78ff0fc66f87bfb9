// `flexprefill run` with the embedded model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model_folder.h"
#include "tool.h"

namespace flexprefill::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

ToolResult run(std::vector<std::string> options, const std::string& input = "") {
  options.insert(options.begin(), {"run", "--model", kModel});
  return run_tool(options, input);
}

std::vector<std::string> keys(const json& object) {
  std::vector<std::string> names;
  for (const auto& [name, value] : object.items()) names.push_back(name);
  return names;
}

void expect_fields(const json& fields) {
  EXPECT_THAT(keys(fields),
              UnorderedElementsAre("text", "prompt_tokens", "prefill_seconds", "plan_seconds",
                                   "attend_seconds", "matmul_seconds", "pointwise_seconds",
                                   "rest_seconds", "decode_tokens_per_second", "computed_share",
                                   "coverage_min", "backend", "policy"));
  EXPECT_TRUE(fields["text"].is_string());
  EXPECT_TRUE(fields["prompt_tokens"].is_number_integer());
  for (const char* name : {"prefill_seconds", "plan_seconds", "attend_seconds",
                           "decode_tokens_per_second", "computed_share", "coverage_min"})
    EXPECT_TRUE(fields[name].is_number()) << name;
  double parts = 0.0;
  for (const char* part : {"matmul", "pointwise", "plan", "attend", "rest"})
    parts += fields[std::string(part) + "_seconds"].get<double>();
  const double whole = fields["prefill_seconds"].get<double>();
  EXPECT_NEAR(parts, whole, 0.02 * whole + 1e-4);
  EXPECT_GT(fields["computed_share"].get<double>(), 0.0);
  EXPECT_LE(fields["computed_share"].get<double>(), 1.0);
}

TEST(Run, AnswersOnStdoutAndReportsOnStderr) {
  const ToolResult result = run({"--prompt", needle_prompt(30), "--stop", "\\n"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "7294161\n");
  for (const char* word : {"prefill", "plan", "attend", "computed share", "lowest coverage"})
    EXPECT_THAT(result.err, HasSubstr(word));
}

TEST(Run, PromptFromFileOrStdinIsTheSamePrompt) {
  const TemporaryFolder folder;
  const std::string prompt = needle_prompt(20);
  write_file(folder / "prompt.txt", prompt);
  const std::vector<std::string> options = {"--max-new-tokens", "9", "--json", "-"};
  const auto answer = [&](std::vector<std::string> source, const std::string& input = "") {
    source.insert(source.end(), options.begin(), options.end());
    const ToolResult result = run(source, input);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const json fields = json::parse(result.out);
    return std::pair(fields["text"].get<std::string>(), fields["prompt_tokens"].get<int>());
  };
  const auto expected = answer({"--prompt", prompt});
  EXPECT_EQ(answer({"--prompt-file", folder / "prompt.txt"}), expected);
  EXPECT_EQ(answer({"--prompt-file", "-"}, prompt), expected);
  EXPECT_EQ(answer({"-"}, prompt), expected);
  EXPECT_NE(answer({"-"}, "Another."), expected);
}

TEST(Run, JsonOnStdoutIsAloneAndHasTheFields) {
  const ToolResult result =
      run({"--prompt", needle_prompt(20), "--max-new-tokens", "12", "--json", "-"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const json fields = json::parse(result.out);
  expect_fields(fields);
  EXPECT_THAT(fields["text"].get<std::string>(), ::testing::StartsWith("7294161"));
  EXPECT_EQ(fields["policy"], "flex");
  EXPECT_THAT(result.err, HasSubstr("computed share"));
}

TEST(Run, JsonInAFileLeavesTheTextOnStdout) {
  const TemporaryFolder folder;
  const ToolResult result = run({"--prompt", needle_prompt(20), "--stop", "\\n", "--json",
                                 folder / "run.json", "--policy", "a-shape", "--backend", "ref"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "7294161\n");
  const json fields = json::parse(read_file(folder / "run.json"));
  EXPECT_EQ(fields["text"], "7294161\n");
  EXPECT_EQ(fields["policy"], "a-shape");
  EXPECT_EQ(fields["backend"], "ref");
  EXPECT_THAT(folder.names(), ElementsAre("run.json"));
}

TEST(Run, CompareRunsDenseAndThePolicySideBySide) {
  const ToolResult result =
      run({"--prompt", needle_prompt(80), "--stop", "\\n", "--compare", "--json", "-", "--gamma",
           "0.95", "--min-budget", "128", "--backend", "cpu"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const json both = json::parse(result.out);
  EXPECT_THAT(keys(both), UnorderedElementsAre("dense", "flex", "speedup"));
  expect_fields(both["dense"]);
  expect_fields(both["flex"]);
  EXPECT_EQ(both["dense"]["policy"], "dense");
  EXPECT_EQ(both["dense"]["text"], "7294161\n");
  EXPECT_EQ(both["flex"]["text"], "7294161\n");
  EXPECT_EQ(both["dense"]["computed_share"], 1.0);
  EXPECT_LT(both["flex"]["computed_share"].get<double>(), 1.0);
  EXPECT_GE(both["flex"]["coverage_min"].get<double>(), 0.95 - 1e-6);
  EXPECT_NEAR(both["speedup"].get<double>(),
              both["dense"]["prefill_seconds"].get<double>() /
                  both["flex"]["prefill_seconds"].get<double>(),
              1e-9);
}

TEST(Run, CompareShowsBothAnswersAndTheSpeedUp) {
  const ToolResult result = run({"--prompt", needle_prompt(20), "--stop", "\\n", "--compare"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("dense: 7294161\n"));
  EXPECT_THAT(result.out, HasSubstr("flex: 7294161\n"));
  EXPECT_THAT(result.out, HasSubstr("same answer"));
  EXPECT_THAT(result.out, HasSubstr("prefill speed-up"));
}

TEST(Run, SamplingRepeatsWithItsSeed) {
  const auto text = [](const std::string& seed) {
    const ToolResult result = run({"--prompt", "The function", "--temperature", "1", "--top-p",
                                   "0.9", "--seed", seed, "--max-new-tokens", "8"});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  };
  const std::string first = text("7");
  EXPECT_EQ(text("7"), first);
  EXPECT_NE(text("8"), first);
}

TEST(Run, ThreadsAndChunksAreTakenOver) {
  const ToolResult result = run({"--prompt", needle_prompt(20), "--stop", "\\n", "--threads", "2",
                                 "--chunk", "100", "--rule", "coverage"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "7294161\n");
}

TEST(Run, OfficialRuleTakesTheWholePromptAtOnce) {
  ToolResult result = run({"--prompt", needle_prompt(20), "--stop", "\\n", "--rule", "official"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "7294161\n");
  result = run({"--prompt", needle_prompt(20), "--rule", "official", "--chunk", "100"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--chunk 100: --rule official"));
}

TEST(Run, ZeroNewTokensReadsThePromptOnly) {
  const ToolResult result = run({"--prompt", "A list.", "--max-new-tokens", "0", "--json", "-"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const json fields = json::parse(result.out);
  EXPECT_EQ(fields["text"], "");
  EXPECT_TRUE(fields["decode_tokens_per_second"].is_null()) << "nothing was decoded";
}

TEST(Run, BytesThatAreNoUtf8AreReplacedAndReported) {
  const ToolResult result =
      run({"-", "--max-new-tokens", "3", "--json", "-"}, "A list \xff\xfe of \xc3 bytes");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("not valid UTF-8"));
  EXPECT_TRUE(json::parse(result.out)["text"].is_string());
}

TEST(Run, PromptBeyondTheModelsPositionsIsRefused) {
  const TemporaryFolder folder;
  const ToolResult result =
      run({"--prompt", "A list.", "--max-new-tokens", "200000", "--json", folder / "run.json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("131072"));
  EXPECT_TRUE(folder.names().empty());
}

TEST(Run, UnwritableJsonFailsBeforeTheWork) {
  const ToolResult result = run({"--prompt", "A list.", "--json", "/no/such/folder/run.json"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("--json /no/such/folder/run.json"));
}

// A copy of the model folder that a test may damage.
class DamagedModel : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const fs::directory_entry& entry : fs::directory_iterator(kModel))
      if (entry.is_regular_file())
        fs::copy_file(entry.path(), folder_ / entry.path().filename().string());
  }

  void expect_error(const std::string& words) {
    const ToolResult result =
        run_tool({"run", "--model", folder_ / "", "--prompt", "A list.", "--max-new-tokens", "1"});
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.out, "");
    EXPECT_THAT(result.err, HasSubstr(words));
  }

  TemporaryFolder folder_;
};

TEST_F(DamagedModel, TruncatedWeightsAreNamed) {
  const std::string file = folder_ / "model-00002-of-00002.safetensors";
  fs::resize_file(file, fs::file_size(file) / 2);
  expect_error("model-00002-of-00002.safetensors");
}

TEST_F(DamagedModel, MissingFilesAreNamed) {
  fs::remove(folder_ / "model-00001-of-00002.safetensors");
  expect_error("model-00001-of-00002.safetensors");
  fs::remove(folder_ / "tokenizer.json");
  expect_error("tokenizer.json");
  fs::remove(folder_ / "config.json");
  expect_error("config.json");
}

TEST_F(DamagedModel, UnknownArchitectureIsNamed) {
  json config = json::parse(read_file(folder_ / "config.json"));
  config["architectures"] = {"DreamForCausalLM"};
  config["model_type"] = "dream";
  write_file(folder_ / "config.json", config.dump());
  expect_error("ream");
}

}  // namespace
}  // namespace flexprefill::testing
