// The small parts below the tokenizer: UTF-8, the byte alphabet, NFC, regular expressions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/byte_level.h"
#include "runtime/normalizer.h"
#include "runtime/regex.h"
#include "runtime/utf8.h"
#include "tests/files/scratch_folder.h"

namespace flexprefill::runtime {
namespace {

using testing::HasSubstr;

TEST(Utf8, CharactersSurviveARoundTrip) {
  for (char32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 13) {  // every length of a character
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(c, text);
    const Utf8Step step = utf8_step(text);
    ASSERT_EQ(step.kind, Utf8Step::kCharacter);
    ASSERT_EQ(step.codepoint, c);
    ASSERT_EQ(step.bytes, text.size());
  }
}

TEST(Utf8, ReplacesBadPartsAsPythonDoes) {
  const struct {
    std::string_view bytes, text;
  } cases[] = {{"a\x80z", "a\uFFFDz"},
               {"\xC0\xAF", "\uFFFD\uFFFD"},                      // overlong
               {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},            // a surrogate
               {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // past U+10FFFF
               {"\xF0\x9F\x98", "\uFFFD"},                        // cut short
               {"\xF0\x9F\x98z", "\uFFFDz"},
               {"\xE2\x82\xE2\x82\xAC", "\uFFFD\u20AC"},
               {"\xFF\xFE", "\uFFFD\uFFFD"}};
  for (const auto& c : cases) EXPECT_EQ(to_valid_utf8(c.bytes), c.text);
}

TEST(ByteLevel, IsABijectionOfBytes) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  EXPECT_EQ(from_byte_level(to_byte_level(bytes)), bytes);
  EXPECT_EQ(to_byte_level(" \n"), "ĠĊ");
  EXPECT_EQ(from_byte_level("a b"), std::nullopt);
  EXPECT_EQ(from_byte_level("▁a"), std::nullopt);
}

TEST(Nfc, ComposesAndOrdersMarks) {
  EXPECT_EQ(to_nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(to_nfc("s\u0307\u0323"), "\u1E69");
  EXPECT_EQ(to_nfc("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(to_nfc("\u212B\u0958"), "\u00C5\u0915\u093C");
  EXPECT_EQ(to_nfc("plain"), "plain");
}

TEST(Nfc, OrdersAHundredThousandMarks) {
  std::string text = "a";
  while (text.size() < 200'000) text += "\u0301\u0323";
  const std::string normal = to_nfc(text);
  EXPECT_EQ(normal.substr(0, 3), "\u1EA1");  // a with the dot below; the acutes come after all dots
  EXPECT_EQ(to_nfc(normal), normal);
}

std::vector<std::string> words(const Regex& regex, const std::string& text) {
  std::vector<std::string> out;
  for (const Regex::Span& span : regex.find_all(text))
    out.push_back(text.substr(span.begin, span.end - span.begin));
  return out;
}

TEST(RegexTest, ReadsSpaceAsUnicodeDoes) {
  const Regex space(R"(\s)", "test");
  const Regex in_class(R"([^\S])", "test");
  EXPECT_EQ(words(space, "a \u0085\u00A0\u3000b"),
            (std::vector<std::string>{" ", "\u0085", "\u00A0", "\u3000"}));
  EXPECT_TRUE(words(space, "\u180E\u200B\uFEFF").empty());
  for (char32_t c = 0; c < 0x3100; ++c) {
    std::string text;
    append_utf8(c, text);
    ASSERT_EQ(words(space, text).size(), is_white_space(c) ? 1u : 0u) << static_cast<uint32_t>(c);
    ASSERT_EQ(words(in_class, text).size(), is_white_space(c) ? 1u : 0u)
        << static_cast<uint32_t>(c);
  }
}

TEST(RegexTest, TranslatesWhatOnigurumaReadsDifferently) {
  EXPECT_EQ(to_pcre2(R"(\v\d\D\u00e9\p{L}\P{^Nd}\.\x{41}a{2,3})", ""),
            R"(\x{b}\p{Nd}\P{Nd}\x{00e9}\p{L}\P{^Nd}\.\x{41}a{2,3})");
  EXPECT_EQ(words(Regex("a*", "test"), "baac"), (std::vector<std::string>{"", "aa", ""}));
}

TEST(RegexTest, RefusesByNameWhatItDoesNotKnow) {
  const struct {
    const char *pattern, *message;
  } cases[] = {{R"(\w+)", R"(the escape \w)"},
               {R"(\bx)", R"(the escape \b)"},
               {R"((a)\1)", R"(the escape \1)"},
               {R"(\p{Han})", "the property \"Han\""},
               {R"(\pL)", "property without"},
               {"[a[b]]", "class inside a class"},
               {"[a&&b]", "intersection"},
               {"[]a]", "empty character class"},
               {"[a", "does not end"},
               {"a{1,3}+", "counted repeat followed by +"},
               {"a{,3}", "a brace"},
               {"(?<n>a)", "the group (?<n"},
               {"(?m:a)", "the group (?m:"},
               {"(*UTF)a", "a verb"},
               {"^a", "the anchor ^"},
               {"a$", "the anchor $"},
               {"a\\", "backslash with nothing"},
               {R"(\x41)", R"(\x without braces)"},
               {"a)", "does not compile"},
               {"(?:a", "does not compile"},
               {"[b-a]", "does not compile"},
               {R"(\x{110000})", "does not compile"},
               {"(?<=a+)b", "does not compile"}};
  for (const auto& c : cases)
    EXPECT_THAT(error_of([&] { Regex regex(c.pattern, "file"); }), HasSubstr(c.message))
        << c.pattern;
  EXPECT_THAT(error_of([] { Regex regex(std::string(20'000, 'a'), "file"); }),
              HasSubstr("at most"));
}

TEST(RegexTest, GivesUpOnEndlessBacktracking) {
  const Regex hostile("(?:a+)+[bc]", "file: pattern");
  EXPECT_THAT(error_of([&] { hostile.find_all(std::string(64, 'a')); }),
              HasSubstr("file: pattern: the regular expression gives up on the text at byte 0"));
  EXPECT_EQ(Regex(R"((?:\p{L}\s?)+)", "file").find_all(std::string(1 << 16, 'a')).size(), 1u);
}

TEST(RegexTest, MatchesLiteralsLiterally) {
  EXPECT_EQ(words(Regex::literal("a.*[", "test"), "xa.*[y"), std::vector<std::string>{"a.*["});
}

}  // namespace
}  // namespace flexprefill::runtime
