#include "runtime/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/mapped_file.h"
#include "tests/files/scratch_folder.h"

namespace flexprefill::runtime {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(JsonFile, ReadsWhatTheFileHolds) {
  const ScratchFolder folder;
  const auto path = folder.write("a.json", R"({"a": [1, "\u00e9", null], "b": {"a": 1.5}})");
  const nlohmann::json root = read_json_file(path);
  EXPECT_EQ(root["a"][1], "é");
  EXPECT_EQ(root["b"]["a"], 1.5);
}

TEST(JsonFile, NamesTheFileAndTheByteOfAMistake) {
  const ScratchFolder folder;
  for (const char* text : {"", "{", "{\"a\":1,}", "[1 2]", "nul", "{\"a\":\"\xFF\"}", "\"\\ud800\"",
                           "1e999", "[1] x", "\xEF\xBB", "{\"a\" 1}", "'a'"}) {
    const auto path = folder.write("broken.json", text);
    EXPECT_THAT(error_of([&] { read_json_file(path); }),
                AllOf(HasSubstr(path.string()), HasSubstr("not valid JSON")))
        << text;
  }
  EXPECT_THAT(error_of([] { parse_json("{\"a\":1,}", "here"); }),
              HasSubstr("here: not valid JSON at byte 8 of 8"));
}

TEST(JsonFile, RefusesNestingWithoutEnd) {
  const std::string open(2'000'000, '[');
  EXPECT_THAT(error_of([&] { parse_json(open, "deep"); }), HasSubstr("deeper than 64"));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += R"({"a":)";
  EXPECT_THAT(error_of([&] { parse_json(objects, "deep"); }), HasSubstr("deeper than 64"));
  EXPECT_NO_THROW(parse_json(std::string(60, '[') + std::string(60, ']'), "shallow"));
}

TEST(JsonFile, RefusesAKeyThatIsThereTwice) {
  EXPECT_THAT(error_of([] { parse_json(R"({"a":1,"b":{"a":2},"a":3})", "twice"); }),
              HasSubstr("the key \"a\" twice"));
  EXPECT_NO_THROW(parse_json(R"([{"a":1},{"a":2}])", "once each"));
}

TEST(JsonFile, RefusesMoreBytesThanAllowed) {
  const ScratchFolder folder;
  const auto path = folder.write("long.json", "[1,2,3]");
  EXPECT_THAT(error_of([&] { read_json_file(path, 6); }), HasSubstr("7 bytes, expected at most 6"));
  EXPECT_NO_THROW(read_json_file(path, 7));
}

TEST(MappedFile, SaysWhyAFileCannotBeRead) {
  const ScratchFolder folder;
  EXPECT_THAT(error_of([&] { MappedFile file(folder / "none"); }),
              AllOf(HasSubstr("none"), HasSubstr("No such file")));
  EXPECT_THAT(error_of([&] { MappedFile file(folder.path()); }), HasSubstr("regular file"));
  EXPECT_THAT(error_of([] { MappedFile file("/dev/zero"); }), HasSubstr("regular file"));
  EXPECT_TRUE(MappedFile(folder.write("empty", "")).bytes().empty());
}

TEST(MappedFile, MovesItsMapping) {
  const ScratchFolder folder;
  MappedFile a(folder.write("a", "aaa"));
  MappedFile b(std::move(a));
  a = MappedFile(folder.write("c", "c"));
  EXPECT_EQ(b.bytes().size(), 3u);
  EXPECT_EQ(a.bytes()[0], std::byte{'c'});
}

}  // namespace
}  // namespace flexprefill::runtime
