// `flexprefill inspect` with the embedded model: the page is complete, alone and honest.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model_folder.h"
#include "tool.h"

namespace flexprefill::testing {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string data_text(const std::string& page) {
  const std::string open = "<script type=\"application/json\" id=\"data\">";
  const size_t begin = page.find(open) + open.size();
  return page.substr(begin, page.find("</script>", begin) - begin);
}

std::vector<bool> bits_of(const std::string& base64) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<bool> bytes_high_first;
  for (const char c : base64)
    if (c != '=')
      for (int b = 5; b >= 0; --b) bytes_high_first.push_back((digits.find(c) >> b & 1) != 0);
  std::vector<bool> bits;  // the lowest bit of each byte first
  for (size_t n = 0; n + 8 <= bytes_high_first.size(); n += 8)
    for (size_t b = 0; b < 8; ++b) bits.push_back(bytes_high_first[n + 7 - b]);
  return bits;
}

class Inspect : public ::testing::Test {
 protected:
  ToolResult inspect(const std::string& prompt, std::vector<std::string> options = {}) {
    write_file(folder_ / "prompt.txt", prompt);
    options.insert(options.begin(), {"inspect", "--model", kModel, "--prompt-file",
                                     folder_ / "prompt.txt", "--html", folder_ / "masks.html"});
    return run_tool(options);
  }
  json data() { return json::parse(data_text(read_file(folder_ / "masks.html"))); }

  TemporaryFolder folder_;
};

TEST_F(Inspect, PageHoldsEveryHeadsReportAndMask) {
  const ToolResult result = inspect(needle_prompt(50), {"--min-budget", "0", "--gamma", "0.8"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("masks.html"));
  const json page = data();
  const int64_t tokens = page["prompt_tokens"];
  const size_t blocks = static_cast<size_t>(tokens + 127) / 128;
  ASSERT_GT(blocks, 6u);
  EXPECT_EQ(page["texts"].size(), blocks);
  EXPECT_EQ(page["backend"], "cpu");
  EXPECT_THAT(page["policy"].get<std::string>(), HasSubstr("gamma 0.8"));
  ASSERT_EQ(page["layers"].size(), 8u);
  int64_t kept = 0;
  for (const json& layer : page["layers"]) {
    ASSERT_EQ(layer.size(), 6u);
    for (const json& head : layer) {
      ASSERT_EQ(head["chunks"].size(), 1u);
      const std::vector<bool> bits = bits_of(head["bits"]);
      ASSERT_GE(bits.size(), blocks * (blocks + 1) / 2);
      const auto in_mask = std::count(bits.begin(), bits.end(), true);
      EXPECT_EQ(head["chunks"][0]["kept"], in_mask);
      for (size_t i = 0; i < blocks; ++i)
        EXPECT_TRUE(bits[i * (i + 1) / 2 + i]) << "diagonal " << i;
      kept += in_mask;
    }
  }
  const size_t causal_of_head = blocks * (blocks + 1) / 2;
  const double causal = 8.0 * 6.0 * static_cast<double>(causal_of_head);
  EXPECT_NEAR(page["computed_share"].get<double>(), static_cast<double>(kept) / causal, 1e-9);
  EXPECT_LT(page["computed_share"].get<double>(), 1.0);
}

TEST_F(Inspect, ChunksAddUpToTheWholeMask) {
  ASSERT_EQ(inspect(needle_prompt(40), {"--policy", "dense", "--chunk", "300"}).exit_code, 0);
  const json page = data();
  const size_t blocks = page["texts"].size();
  const json& head = page["layers"][7][5];
  EXPECT_GT(head["chunks"].size(), 2u);
  EXPECT_EQ(head["chunks"][1]["first"], 300);
  const std::vector<bool> bits = bits_of(head["bits"]);
  EXPECT_EQ(std::count(bits.begin(), bits.end(), true),
            static_cast<int64_t>(blocks * (blocks + 1) / 2));
}

TEST_F(Inspect, PageNeedsNothingElseAndEscapesTheText) {
  const std::string hostile = "</script><script>alert(1)</script><!-- <b>&amp; {{data}} \"'";
  const ToolResult result = inspect(hostile + needle_prompt(3) + hostile);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const std::string page = read_file(folder_ / "masks.html");
  EXPECT_THAT(page, Not(HasSubstr("alert(1)</script>")));
  EXPECT_THAT(page, Not(HasSubstr("<b>&amp;")));
  for (const char* reference : {"http://", "https://", " src=", "url(", "@import", "<link"})
    EXPECT_THAT(page, Not(HasSubstr(reference)));
  const std::string text = data()["texts"][0];
  EXPECT_THAT(text, HasSubstr("</script><script>alert(1)</script><!-- <b>&amp; {{data}} \"'"));
}

TEST_F(Inspect, ErrorsLeaveNoPage) {
  EXPECT_EQ(inspect("x", {"--gamma", "7"}).exit_code, 2);
  EXPECT_THAT(folder_.names(), ElementsAre("prompt.txt"));
  const ToolResult result = run_tool({"inspect", "--model", kModel, "--prompt-file",
                                      folder_ / "missing.txt", "--html", folder_ / "masks.html"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(folder_.names(), ElementsAre("prompt.txt"));
  const ToolResult unwritable =
      run_tool({"inspect", "--model", kModel, "--prompt-file", folder_ / "prompt.txt", "--html",
                folder_ / "none/masks.html"});
  EXPECT_EQ(unwritable.exit_code, 1);
  EXPECT_THAT(unwritable.err, HasSubstr("--html"));
}

}  // namespace
}  // namespace flexprefill::testing
