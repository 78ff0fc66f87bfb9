// Help, versions, wrong usage, and the manners of a command in a pipe.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "flexprefill/flexprefill.h"
#include "tool.h"

namespace flexprefill::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Required options that name nothing that exists: usage is checked first.
const std::vector<std::string> kRun = {"run", "--model", "/nowhere", "--prompt", "x"};
const std::vector<std::string> kAttend = {"attend", "--input", "/nowhere", "--output",
                                          "/nowhere/o"};

void expect_usage_error(std::vector<std::string> command, const std::vector<std::string>& options,
                        const std::string& words) {
  command.insert(command.end(), options.begin(), options.end());
  const ToolResult result = run_tool(command);
  SCOPED_TRACE(::testing::PrintToString(command));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, StartsWith("flexprefill: "));
  EXPECT_THAT(result.err, HasSubstr(words));
  EXPECT_THAT(result.err, HasSubstr("--help` lists the options"));
}

TEST(Usage, VersionAndHelpSucceed) {
  ToolResult result = run_tool({"--version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.out, std::string("flexprefill ") + version() + "\n");
  result = run_tool({"--help"});
  EXPECT_EQ(result.exit_code, 0);
  for (const char* word : {"run", "attend", "inspect", "backends", "Exit codes"})
    EXPECT_THAT(result.out, HasSubstr(word));
  EXPECT_EQ(result.err, "");
}

TEST(Usage, EveryCommandExplainsItsOptions) {
  for (const char* command : {"run", "attend", "inspect"}) {
    const ToolResult result = run_tool({command, "--help"});
    EXPECT_EQ(result.exit_code, 0);
    for (const char* word : {"--policy", "--gamma", "(0, 1]", "0.9", "--tau", "0.1", "--min-budget",
                             "1024", "--max-budget", "--backend", "--threads", "Example"})
      EXPECT_THAT(result.out, HasSubstr(word)) << command;
  }
}

TEST(Usage, BackendsAreListedWithDescriptions) {
  const ToolResult result = run_tool({"backends"});
  EXPECT_EQ(result.exit_code, 0);
  for (const Backend* backend : backends())
    EXPECT_THAT(result.out,
                HasSubstr(std::string(backend->name()) + "  " + backend->description()));
}

TEST(Usage, NoCommandAndUnknownWords) {
  const ToolResult nothing = run_tool({});
  EXPECT_EQ(nothing.exit_code, 2);
  EXPECT_THAT(nothing.err, HasSubstr("name a command"));
  expect_usage_error({"dance"}, {}, "dance");
  expect_usage_error(kRun, {"--speed", "9"}, "--speed");
  expect_usage_error({"run", "--prompt", "x"}, {}, "--model");
  expect_usage_error({"attend", "--input", "x"}, {}, "--output");
}

TEST(Usage, ValuesOutsideTheirRangeNameOptionAndRule) {
  for (const std::vector<std::string>& command : {kRun, kAttend}) {
    expect_usage_error(command, {"--gamma", "1.5"}, "--gamma 1.5: FlexPrefill.gamma = 1.5");
    expect_usage_error(command, {"--gamma", "0"}, "(0, 1]");
    expect_usage_error(command, {"--gamma", "nan"}, "--gamma nan");
    expect_usage_error(command, {"--gamma", "much"}, "--gamma");
    expect_usage_error(command, {"--tau", "-0.5"}, "--tau -0.5");
    expect_usage_error(command, {"--min-budget", "-1"}, "--min-budget -1");
    expect_usage_error(command, {"--max-budget", "0"}, "--max-budget 0");
    expect_usage_error(command, {"--policy", "a-shape", "--local-tokens", "0"}, "--local-tokens 0");
    expect_usage_error(command, {"--policy", "sparse"}, "--policy");
    expect_usage_error(command, {"--rule", "mine"}, "--rule");
    expect_usage_error(command, {"--threads", "-2"}, "--threads");
    expect_usage_error(command, {"--threads", "two"}, "--threads");
    expect_usage_error(command, {"--threads", "1000000"}, "--threads");
    expect_usage_error(command, {"--backend", "abacus"}, "--backend abacus");
  }
  expect_usage_error(kRun, {"--chunk", "0"}, "--chunk");
  expect_usage_error(kRun, {"--max-new-tokens", "-1"}, "--max-new-tokens");
  expect_usage_error(kRun, {"--temperature", "-1"}, "--temperature");
  expect_usage_error(kRun, {"--top-p", "0"}, "--top-p");
}

// An unset variable of a script must not turn into a 0.
TEST(Usage, EmptyValuesAreRefused) {
  for (const std::vector<std::string>& command : {kRun, kAttend})
    for (const char* option : {"--tau", "--min-budget", "--json", "--threads", "--backend"})
      expect_usage_error(command, {option, ""}, option);
  expect_usage_error(kAttend, {"--q-start", ""}, "--q-start has an empty value");
  expect_usage_error(kRun, {"--stop", ""}, "--stop has an empty value");
  expect_usage_error(kRun, {"--seed", ""}, "--seed has an empty value");
}

TEST(Usage, OptionsOfAnotherPolicyAreRefused) {
  expect_usage_error(kRun, {"--policy", "dense", "--gamma", "0.5"},
                     "--gamma belongs to --policy flex");
  expect_usage_error(kAttend, {"--sink-tokens", "5"}, "--sink-tokens belongs to --policy a-shape");
  expect_usage_error(kRun, {"--policy", "dense", "--compare"}, "--compare");
}

TEST(Usage, ExactlyOnePrompt) {
  expect_usage_error({"run", "--model", "/nowhere"}, {}, "prompt");
  expect_usage_error(kRun, {"--prompt-file", "x"}, "prompt");
  expect_usage_error(kRun, {"-"}, "prompt");
  expect_usage_error({"run", "--model", "/nowhere"}, {"file.txt"}, "file.txt");
}

TEST(Usage, ForcedBackendLimitsTheChoice) {
  const ToolResult result =
      run_tool({"attend", "--input", "x", "--output", "y", "--backend", "cpu"}, "",
               {"FLEXPREFILL_BACKEND=ref"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--backend cpu: this program has auto ref"));
}

TEST(Usage, MissingModelFolderIsAnErrorThatNamesIt) {
  const ToolResult result = run_tool(kRun);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, HasSubstr("/nowhere"));
  EXPECT_THAT(result.err, HasSubstr("expected the folder of a Hugging Face model"));
}

TEST(Usage, MissingPromptFileIsAnErrorThatNamesIt) {
  const ToolResult result =
      run_tool({"run", "--model", "/nowhere", "--prompt-file", "/no/such/prompt"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("--prompt-file /no/such/prompt"));
}

TEST(Usage, ClosedPipeEndsTheProgramQuietly) {
  // The reader is gone long before the first byte is written.
  const ToolResult result =
      run_shell("{ sleep 0.5; \"$TOOL\" run --help; echo $? >&2; } | true; exit 0");
  EXPECT_EQ(result.err, "141\n");  // 128 + SIGPIPE, and not a word
}

TEST(Usage, FullDiskIsAnError) {
  const ToolResult result = run_shell("\"$TOOL\" --help > /dev/full");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("standard output"));
}

}  // namespace
}  // namespace flexprefill::testing
