// What a tokenizer.json may not ask for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/json_file.h"
#include "runtime/tokenizer.h"
#include "tests/files/scratch_folder.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::filesystem::path kData =
    std::filesystem::path(FLEXPREFILL_ROOT) / "tests/data/tokenizer";

class TokenizerErrors : public testing::Test {
 protected:
  // The message about qwen2.json with one value replaced.
  std::string error_with(const char* pointer, const json& value) const {
    json changed = root;
    changed[json::json_pointer(pointer)] = value;
    return error_of([&] { Tokenizer::from_json(changed, json(), "t.json"); });
  }
  const json root = read_json_file(kData / "qwen2.json");
};

TEST_F(TokenizerErrors, OtherModelsAreRefusedByName) {
  EXPECT_THAT(error_with("/model/type", "Unigram"), HasSubstr("type \"Unigram\" is not supported"));
  EXPECT_THAT(error_with("/model/dropout", 0.1), HasSubstr("t.json: model.dropout is set"));
  EXPECT_THAT(error_with("/model/byte_fallback", true), HasSubstr("byte_fallback = true"));
  EXPECT_THAT(error_with("/model/end_of_word_suffix", "</w>"), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(error_with("/model", json()), HasSubstr("t.json.model: missing"));
}

TEST_F(TokenizerErrors, UnknownTokenIsRefusedOnlyIfItCouldOccur) {
  json changed = root;
  changed["model"]["unk_token"] = "!";
  EXPECT_NO_THROW(Tokenizer::from_json(changed, json(), "t.json"));
  changed["model"]["vocab"].erase("\u0120");
  changed["model"]["merges"] = json::array();
  EXPECT_THAT(error_of([&] { Tokenizer::from_json(changed, json(), "t.json"); }),
              HasSubstr("lacks some of the 256 bytes"));
}

TEST_F(TokenizerErrors, OtherStepsAreRefusedByName) {
  EXPECT_THAT(error_with("/normalizer", {{"type", "NFKC"}}), HasSubstr("normalizer \"NFKC\""));
  EXPECT_THAT(error_with("/pre_tokenizer", {{"type", "Metaspace"}}),
              HasSubstr("pre-tokenizer \"Metaspace\""));
  EXPECT_THAT(
      error_with("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json::array()}}),
      HasSubstr("no ByteLevel in it"));
  EXPECT_THAT(error_with("/pre_tokenizer/pretokenizers/0/behavior", "MergedWithNext"),
              HasSubstr("behavior = \"MergedWithNext\""));
  EXPECT_THAT(error_with("/pre_tokenizer/pretokenizers/0/pattern/Regex", "(a"),
              HasSubstr("does not compile"));
  EXPECT_THAT(
      error_with("/pre_tokenizer/pretokenizers/0", root["pre_tokenizer"]["pretokenizers"][1]),
      HasSubstr("after ByteLevel"));
  EXPECT_THAT(error_with("/post_processor", {{"type", "BertProcessing"}}),
              HasSubstr("post-processor \"BertProcessing\""));
  EXPECT_THAT(error_with("/decoder", {{"type", "WordPiece"}}), HasSubstr("decoder \"WordPiece\""));
  EXPECT_THAT(error_with("/decoder", json()), HasSubstr("decoder: missing"));
}

TEST_F(TokenizerErrors, NamesTheEntryThatIsWrong) {
  EXPECT_THAT(error_with("/model/vocab/a", -1),
              HasSubstr("model.vocab[\"a\"]: expected a token id"));
  EXPECT_THAT(error_with("/model/vocab/a", 2147483647), HasSubstr("expected a token id"));
  EXPECT_THAT(error_with("/model/vocab/a", 1), HasSubstr("have the same id 1"));
  EXPECT_THAT(error_with("/model/vocab", json::array()), HasSubstr("expected a JSON object"));
  EXPECT_THAT(error_with("/model/merges/3", "a b c"), HasSubstr("model.merges[3]: expected"));
  EXPECT_THAT(error_with("/model/merges/3", {"a", "zzzz"}),
              HasSubstr("\"zzzz\" is not in the vocabulary"));
  EXPECT_THAT(error_with("/model/merges", "a b"), HasSubstr("model.merges: is string"));
  EXPECT_THAT(error_with("/added_tokens/1/id", "x"),
              HasSubstr("added_tokens[1].id: expected a token id"));
  EXPECT_THAT(error_with("/added_tokens/1/content", "a"), HasSubstr("\"a\" has id 701, but"));
  EXPECT_THAT(error_with("/added_tokens/1/lstrip", 1),
              HasSubstr("added_tokens[1].lstrip: is number"));
  EXPECT_THAT(
      error_with("/post_processor", {{"type", "TemplateProcessing"}, {"single", json::array()}}),
      HasSubstr("has the text 0 times"));
}

TEST_F(TokenizerErrors, ConfigMustNameTokensThatExist) {
  const auto error_of_config = [&](const json& config) {
    return error_of([&] { Tokenizer::from_json(root, config, "t.json"); });
  };
  EXPECT_THAT(error_of_config({{"bos_token", "<s>"}}),
              HasSubstr("bos_token = \"<s>\" is not a token"));
  EXPECT_THAT(error_of_config({{"add_bos_token", true}}), HasSubstr("the token is not named"));
  EXPECT_THAT(error_of_config(json::array()), HasSubstr("expected a JSON object"));
}

TEST_F(TokenizerErrors, AFolderWithoutTokenizerIsNamed) {
  const ScratchFolder folder;
  EXPECT_THAT(error_of([&] { Tokenizer::load(folder.path()); }),
              HasSubstr("no tokenizer.json in it"));
  folder.write("tokenizer.model", "x");
  EXPECT_THAT(error_of([&] { Tokenizer::load(folder.path()); }), HasSubstr("SentencePiece"));
}

}  // namespace
}  // namespace flexprefill::runtime
