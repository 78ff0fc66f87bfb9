// Text in, text out.

#include "runtime/generate.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>

#include "runtime/sampler.h"
#include "tests/model/needle.h"

namespace flexprefill::runtime {
namespace {

using testing::HasSubstr;

class Generate : public testing::Test {
 protected:
  GenerateResult run(std::span<const int32_t> ids, const GenerateOptions& options) {
    Session session(needle(), {.capacity = std::ssize(ids) + options.max_new_tokens});
    return generate(session, tokenizer_, ids, options);
  }

  Tokenizer tokenizer_ = Tokenizer::load(kNeedle);
  ReferenceCase text_ = reference_case("text-1000");
  ReferenceCase question_ = reference_case("niah-2048-4");
};

TEST_F(Generate, GreedyTextMatchesTransformers) {
  for (const ReferenceCase& c : reference_cases()) {
    if (c.ids.size() > 4000) continue;
    GenerateOptions options;
    options.max_new_tokens = std::ssize(c.greedy);
    const GenerateResult result = run(c.ids, options);
    Session session(needle(), {.capacity = std::ssize(c.ids) + options.max_new_tokens});
    session.prefill(c.ids, {});
    std::vector<int32_t> greedy = {argmax(session.logits())};
    while (greedy.size() < c.greedy.size()) greedy.push_back(argmax(session.decode(greedy.back())));
    EXPECT_EQ(result.ids, greedy) << c.name;
    EXPECT_GT(result.decode_tokens_per_second, 0.0);
    // Two tokens of its answer are a tie for bf16 (tie_margin).
    if (c.name == "text-1000" && matmul_dtype() == DType::kBF16) continue;
    EXPECT_EQ(result.ids, c.greedy) << c.name;
    EXPECT_EQ(result.text, c.greedy_text) << c.name;
  }
}

TEST_F(Generate, AnswersTheDemonstration) {
  std::ifstream file(kRoot / "examples/data/demo_prompt.txt");
  const std::string prompt{std::istreambuf_iterator<char>(file), {}};
  const std::vector<int32_t> ids = tokenizer_.encode(prompt, /*add_special_tokens=*/true);
  ASSERT_EQ(ids.size(), 32768u);
  GenerateOptions options;
  options.prefill.policy = FlexPrefill{};
  options.stop = {"\n"};
  const GenerateResult result = run(ids, options);
  EXPECT_EQ(result.text, "7294161\n");
  EXPECT_LT(result.prefill.computed_share, 0.2);
}

TEST_F(Generate, StopStringEndsTheAnswer) {
  GenerateOptions options;
  options.stop = {"2645", "\n"};  // across tokens, and before the newline
  const GenerateResult result = run(question_.ids, options);
  EXPECT_EQ(result.text, "1372645");
  EXPECT_EQ(result.stop_reason, StopReason::kStopString);
  options.stop = {"\n"};
  EXPECT_EQ(run(question_.ids, options).text, "1372645\n");
}

TEST_F(Generate, StreamedPiecesAreTheText) {
  GenerateOptions options;
  options.max_new_tokens = 20;
  options.sampler = {.temperature = 1.0f, .top_p = 0.9f, .seed = 5};
  std::string streamed;
  options.on_text = [&](std::string_view piece) { streamed += piece; };
  const GenerateResult result = run(text_.ids, options);
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.text, tokenizer_.decode(result.ids, /*skip_special=*/true));
  EXPECT_EQ(run(text_.ids, options).text, result.text);  // the same seed
}

TEST_F(Generate, EosEndsTheAnswerUnlessTurnedOff) {
  // A tiny model whose greedy continuation meets the eos token as its fourth.
  const Model model = Model::load(kData / "qwen3");
  const auto expected = read_data("qwen3/expected.json");
  const auto ids = expected["ids"].get<std::vector<int32_t>>();
  const auto greedy = expected["greedy"].get<std::vector<int32_t>>();
  if (matmul_dtype() != DType::kF32) GTEST_SKIP() << "bf16 may flip a random model's argmax";
  ASSERT_EQ(greedy[3], 1);
  GenerateOptions options;
  options.max_new_tokens = std::ssize(greedy);
  Session session(model, {});
  const GenerateResult stopped = generate(session, tokenizer_, ids, options);
  EXPECT_EQ(stopped.stop_reason, StopReason::kEos);
  EXPECT_EQ(stopped.ids, std::vector<int32_t>(greedy.begin(), greedy.begin() + 4));
  options.stop_at_eos = false;
  session.clear();
  const GenerateResult whole = generate(session, tokenizer_, ids, options);
  EXPECT_EQ(whole.stop_reason, StopReason::kMaxNewTokens);
  EXPECT_EQ(whole.ids, greedy);
}

TEST_F(Generate, NoNewTokensMeansPrefillAlone) {
  GenerateOptions options;
  options.max_new_tokens = 0;
  const GenerateResult result = run(text_.ids, options);
  EXPECT_TRUE(result.text.empty());
  EXPECT_TRUE(std::isnan(result.decode_tokens_per_second));
  EXPECT_EQ(result.prefill.prompt_tokens, 1000);
}

TEST_F(Generate, BadRequestsAreRefusedBeforeAnyWork) {
  Session session(needle(), {.capacity = 2048});
  GenerateOptions options;
  const auto refuse = [&](std::span<const int32_t> ids) {
    return error_of([&] { generate(session, tokenizer_, ids, options); });
  };
  EXPECT_THAT(refuse({}), HasSubstr("0 tokens"));
  options.max_new_tokens = -1;
  EXPECT_THAT(refuse(text_.ids), HasSubstr("max_new_tokens = -1"));
  options.max_new_tokens = 131073 - 1000;
  EXPECT_THAT(refuse(text_.ids), HasSubstr("max_position_embeddings = 131072"));
  options.max_new_tokens = 1100;
  EXPECT_THAT(refuse(text_.ids), HasSubstr("capacity"));
  options.max_new_tokens = 8;
  options.stop = {""};
  EXPECT_THAT(refuse(text_.ids), HasSubstr("stop"));
  options.stop = {};
  options.sampler.top_p = 2.0f;
  EXPECT_THAT(refuse(text_.ids), HasSubstr("top_p"));
  EXPECT_EQ(session.tokens(), 0);
}

}  // namespace
}  // namespace flexprefill::runtime
