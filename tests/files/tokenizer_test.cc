// Exact equality with Hugging Face's tokenizers library, in both directions, on the cases that
// tests/data/tokenizer/make_tokenizers.py wrote.
#include "runtime/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <thread>

#include "runtime/json_file.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

const fs::path kRoot = FLEXPREFILL_ROOT;
const fs::path kData = kRoot / "tests/data/tokenizer";

std::string stream(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

TEST(NeedleTokenizer, GivesTheIdsOfTokenizersInBothDirections) {
  const Tokenizer tokenizer = Tokenizer::load(kRoot / "models/needle-14m");
  const json cases = read_json_file(kData / "needle_cases.json");
  ASSERT_EQ(cases.size(), 21u);
  for (const json& c : cases) {
    const auto text = c["text"].get<std::string>();
    const auto ids = c["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.encode(text, /*add_special_tokens=*/false), ids) << text;
    EXPECT_EQ(tokenizer.decode(ids, /*skip_special=*/false), text);
    EXPECT_EQ(stream(tokenizer, ids, /*skip_special=*/false), text);
  }
}

TEST(NeedleTokenizer, KnowsItsSpecialTokens) {
  const Tokenizer tokenizer = Tokenizer::load(kRoot / "models/needle-14m/tokenizer.json");
  EXPECT_EQ(tokenizer.vocab_size(), 4096);
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_EQ(tokenizer.token_id("<|end_of_text|>"), 1);
  EXPECT_EQ(tokenizer.token(0), "<|begin_of_text|>");
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(2));
  EXPECT_EQ(tokenizer.token_id("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.token(4096), "");
  EXPECT_EQ(tokenizer.encode("", /*add_special_tokens=*/true), Ids{0});
  EXPECT_EQ(tokenizer.decode(Ids{0, 41, 1}, /*skip_special=*/true), "H");
  EXPECT_EQ(tokenizer.decode(Ids{0, 41, 1}, /*skip_special=*/false),
            "<|begin_of_text|>H<|end_of_text|>");
}

class FamilyTest : public testing::TestWithParam<const char*> {
 protected:
  const Tokenizer tokenizer = Tokenizer::load(kData / (std::string(GetParam()) + ".json"));
  const json cases = read_json_file(kData / (std::string(GetParam()) + "_cases.json"));
};

TEST_P(FamilyTest, EncodesLikeTokenizers) {
  ASSERT_GT(cases["encode"].size(), 300u);
  for (const json& c : cases["encode"])
    EXPECT_EQ(tokenizer.encode(c["text"].get<std::string>(), /*add_special_tokens=*/false),
              c["ids"].get<Ids>())
        << c["text"].dump(-1, ' ', /*ensure_ascii=*/true);
}

TEST_P(FamilyTest, DecodesLikeTokenizersAtOnceAndStreamed) {
  for (const json& c : cases["encode"]) {
    const auto ids = c["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.decode(ids, /*skip_special=*/false), c["decoded"].get<std::string>());
    EXPECT_EQ(stream(tokenizer, ids, /*skip_special=*/false), c["decoded"].get<std::string>());
  }
  ASSERT_EQ(cases["decode"].size(), 80u);
  for (const json& c : cases["decode"]) {
    const auto ids = c["ids"].get<Ids>();
    EXPECT_EQ(tokenizer.decode(ids, /*skip_special=*/false), c["text"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(ids, /*skip_special=*/true), c["skipped"].get<std::string>());
    EXPECT_EQ(stream(tokenizer, ids, /*skip_special=*/true), c["skipped"].get<std::string>());
  }
}

TEST_P(FamilyTest, AddsTheTokensOfThePostProcessor) {
  EXPECT_EQ(tokenizer.vocab_size(), cases["vocab_size"].get<int32_t>());
  for (const json& c : cases["with_special_tokens"])
    EXPECT_EQ(tokenizer.encode(c["text"].get<std::string>(), /*add_special_tokens=*/true),
              c["ids"].get<Ids>())
        << c["text"];
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyTest,
                         testing::Values("gpt2", "llama3", "qwen2", "o200k", "digits", "options"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Tokenizer, ReadsInvalidUtf8AsReplacementCharacters) {
  const Tokenizer tokenizer = Tokenizer::load(kData / "qwen2.json");
  // One U+FFFD for each bad part, as Python's and Rust's lossy decoders put them.
  EXPECT_EQ(tokenizer.encode("a\xF0\x9F\x98z\xFF\xC3", false),
            tokenizer.encode("a\uFFFDz\uFFFD\uFFFD", false));
}

TEST(Tokenizer, StreamsOnlyWholeCharacters) {
  const Tokenizer tokenizer = Tokenizer::load(kRoot / "models/needle-14m");
  const Ids ids = tokenizer.encode("x\U0001F600y", /*add_special_tokens=*/false);
  StreamDecoder decoder(tokenizer, /*skip_special=*/true);
  std::vector<std::string> pieces;
  for (const int32_t id : ids)
    if (std::string piece = decoder.push(id); !piece.empty()) pieces.push_back(piece);
  EXPECT_EQ(pieces, (std::vector<std::string>{"x", "\U0001F600", "y"}));
  EXPECT_EQ(decoder.finish(), "");
  decoder.push(ids[1]);  // the first byte of the emoji, never completed
  EXPECT_EQ(decoder.finish(), "\uFFFD");
}

TEST(Tokenizer, AddBosTokenCountsOnlyWithoutAPostProcessorThatAdds) {
  const json qwen2 = read_json_file(kData / "qwen2.json");
  const json config = {{"bos_token", {{"content", "<|im_start|>"}}},
                       {"eos_token", "<|im_end|>"},
                       {"add_bos_token", true},
                       {"add_eos_token", false}};
  const Tokenizer with = Tokenizer::from_json(qwen2, config, "qwen2");
  EXPECT_EQ(with.encode("", true), Ids{*with.token_id("<|im_start|>")});
  EXPECT_EQ(with.eos_id(), with.token_id("<|im_end|>"));
  EXPECT_EQ(Tokenizer::from_json(qwen2, json(), "qwen2").encode("", true), Ids{});

  const json llama3 = read_json_file(kData / "llama3.json");
  const json other = {{"bos_token", "<|eot_id|>"}, {"add_bos_token", true}};
  const Tokenizer llama = Tokenizer::from_json(llama3, other, "llama3");
  EXPECT_EQ(llama.encode("", true), Ids{*llama.token_id("<|begin_of_text|>")});
}

TEST(Tokenizer, ThreadsShareOne) {
  const Tokenizer tokenizer = Tokenizer::load(kData / "llama3.json");
  const std::string text = "Threads share one tokenizer, it's immutable. 1234567\n";
  const Ids expected = tokenizer.encode(text, true);
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  threads.reserve(equal.size());
  for (int& count : equal)
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) count += tokenizer.encode(text, true) == expected;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 100));
}

}  // namespace
}  // namespace flexprefill::runtime
