#include "runtime/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>

#include "runtime/json_file.h"
#include "tests/files/scratch_folder.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
namespace fs = std::filesystem;

std::string file_of(const std::string& header, size_t data_bytes, uint64_t length) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
  return bytes + header + std::string(data_bytes, 'x');
}
std::string file_of(const std::string& header, size_t data_bytes) {
  return file_of(header, data_bytes, header.size());
}
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
  return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":[)" + shape +
         R"(],"data_offsets":[)" + offsets + "]}";
}

TEST(Safetensors, ReadsNeedleShardsThroughTheirIndex) {
  const fs::path folder = fs::path(FLEXPREFILL_ROOT) / "models/needle-14m";
  const SafetensorsModel model = SafetensorsModel::open(folder);
  const json index = read_json_file(folder / "model.safetensors.index.json");
  EXPECT_EQ(model.tensors().size(), index["weight_map"].size());
  const TensorInfo& norm = model.at("model.norm.weight");
  EXPECT_EQ(norm.describe(), "model.norm.weight: BF16 [384]");
  EXPECT_EQ(norm.bytes, 768u);
  size_t bytes = 0;
  for (const auto& [name, tensor] : model.tensors()) bytes += tensor->bytes;
  EXPECT_EQ(bytes, index["metadata"]["total_size"].get<size_t>());
  EXPECT_EQ(model.find("lm_head.weight"), nullptr);
  EXPECT_THAT(error_of([&] { model.at("lm_head.weight"); }),
              AllOf(HasSubstr("needle-14m"), HasSubstr("\"lm_head.weight\"")));
}

TEST(Safetensors, WritesWhatItReads) {
  const ScratchFolder folder;
  const std::vector<uint8_t> mask = {1, 2, 3};
  const std::vector<float> out = {1.5f, -2.0f, 0.0f, 3.0f};
  const int64_t count = -7;
  const std::vector<TensorToWrite> tensors = {{"mask", TensorType::kU8, {3}, mask.data()},
                                              {"out", TensorType::kF32, {2, 1, 2}, out.data()},
                                              {"count", TensorType::kI64, {}, &count},
                                              {"none", TensorType::kBF16, {0, 5}, nullptr}};
  write_safetensors(folder / "out.safetensors", tensors, {{"made by", "a \"test\""}});
  const SafetensorsFile file(folder / "out.safetensors");
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.metadata().at("made by"), "a \"test\"");
  EXPECT_EQ(file.at("out").shape, (std::vector<int64_t>{2, 1, 2}));
  EXPECT_EQ(std::memcmp(file.at("out").data, static_cast<const void*>(out.data()), 16), 0);
  EXPECT_EQ(std::memcmp(file.at("mask").data, mask.data(), 3), 0);
  EXPECT_EQ(std::memcmp(file.at("count").data, &count, 8), 0);
  EXPECT_EQ(file.at("none").elements(), 0);
  for (const TensorInfo& tensor : file.tensors())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.data) % type_bytes(tensor.type), 0u);
  EXPECT_THAT(error_of([&] { file.at("lse"); }), HasSubstr("no tensor \"lse\"; it has 4"));
}

TEST(Safetensors, AcceptsPaddingAndAnEmptyFile) {
  const ScratchFolder folder;
  EXPECT_EQ(SafetensorsFile(folder.write("a", file_of("{}      ", 0))).tensors().size(), 0u);
  const std::string header =
      "{" + entry("a", "U8", "2", "1,3") + "," + entry("b", "I8", "1", "0,1") + "}  ";
  EXPECT_EQ(SafetensorsFile(folder.write("b", file_of(header, 3))).tensors()[0].name, "b");
}

TEST(Safetensors, RefusesWhatTheFileCannotHold) {
  const struct {
    std::string bytes, message;
  } cases[] = {
      {"", "too short"},
      {"1234567", "too short"},
      {file_of("", 0), "does not start with '{'"},
      {file_of("[]", 0), "does not start with '{'"},
      {file_of("{}", 0, 3), "header of 3 bytes, expected at most 2"},
      {file_of("{}", 0, ~uint64_t{0}), "header of 18446744073709551615 bytes"},
      {file_of("{}", 0, 1ull << 40), "header of 1099511627776 bytes"},
      {file_of("{\"a\":", 0), "header: not valid JSON"},
      {file_of("{}", 1), "1 bytes after the last tensor"},
      {file_of("{\"a\":" + std::string(100'000, '['), 0), "deeper than 64"},
      {file_of("{\"a\":3}", 0), "\"a\" is not described by an object"},
      {file_of("{\"a\":{}}", 0), "has no \"dtype\""},
      {file_of("{" + entry("a", "F4", "1", "0,1") + "}", 1),
       "dtype \"F4\", which is not supported"},
      {file_of("{" + entry("a", "U8", "-1", "0,1") + "}", 1), "bad shape"},
      {file_of("{" + entry("a", "U8", "1.0", "0,1") + "}", 1), "bad shape"},
      {file_of("{" + entry("a", "U8", "18446744073709551615", "0,1") + "}", 1), "bad shape"},
      {file_of("{" + entry("a", "U8", "\"1\"", "0,1") + "}", 1), "bad shape"},
      {file_of("{" + entry("a", "U8", "1", "0") + "}", 1), "not two numbers"},
      {file_of("{" + entry("a", "U8", "1", "1,0") + "}", 1), "expected an interval"},
      {file_of("{" + entry("a", "U8", "1", "0,2") + "}", 1), "file is incomplete"},
      {file_of("{" + entry("a", "U8", "2", "0,1") + "}", 1), "has 1 bytes of data, expected 2"},
      {file_of("{" + entry("a", "F32", "4294967296,4294967296", "0,1") + "}", 1),
       "expected more than 2^63"},
      {file_of("{" + entry("a", "F32", "4611686018427387905", "0,4") + "}", 4),
       "expected more than 2^63"},
      {file_of("{" + entry("a", "U8", "2", "0,2") + "," + entry("b", "U8", "2", "1,3") + "}", 3),
       "overlaps"},
      {file_of("{" + entry("a", "U8", "1", "0,1") + "," + entry("b", "U8", "1", "2,3") + "}", 3),
       "a hole"},
      {file_of("{" + entry("a", "U8", "1", "1,2") + "}", 2), "a hole"},
      {file_of("{" + entry("a", "U8", "1", "0,1") + "," + entry("a", "U8", "1", "1,2") + "}", 2),
       "twice"},
      {file_of(R"({"__metadata__":{"a":1}})", 0), "__metadata__ is not an object of strings"},
      {file_of(R"({"__metadata__":[]})", 0), "__metadata__ is not an object of strings"},
  };
  const ScratchFolder folder;
  for (const auto& c : cases) {
    const auto path = folder.write("hostile.safetensors", c.bytes);
    EXPECT_THAT(error_of([&] { SafetensorsFile file(path); }),
                AllOf(HasSubstr(path.string()), HasSubstr(c.message)));
  }
}

TEST(SafetensorsModel, NamesWhatAFolderLacks) {
  const ScratchFolder folder;
  EXPECT_THAT(error_of([&] { SafetensorsModel::open(folder / "none"); }),
              HasSubstr("no such file"));
  EXPECT_THAT(error_of([&] { SafetensorsModel::open(folder.path()); }),
              HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  folder.write("pytorch_model.bin", "x");
  EXPECT_THAT(error_of([&] { SafetensorsModel::open(folder.path()); }),
              HasSubstr("save the model as safetensors"));
  folder.write("shard", file_of("{" + entry("a", "U8", "1", "0,1") + "}", 1));
  const auto error_with = [&](const std::string& index) {
    folder.write("model.safetensors.index.json", index);
    return error_of([&] { SafetensorsModel::open(folder.path()); });
  };
  EXPECT_THAT(error_with("[]"), HasSubstr("no object \"weight_map\""));
  EXPECT_THAT(error_with(R"({"weight_map":{"a":"other"}})"), HasSubstr("get the missing shard"));
  EXPECT_THAT(error_with(R"({"weight_map":{"b":"shard"}})"), HasSubstr("no such tensor"));
  for (const char* name :
       {"\"../shard\"", "\"/etc/passwd\"", "\"..\"", "\"a\\\\b\"", "\"\"", "\"a\\u0000\"", "1"})
    EXPECT_THAT(error_with(std::string(R"({"weight_map":{"a":)") + name + "}}"),
                HasSubstr("expected the name of a file in the same folder"));
  folder.write("model.safetensors.index.json", R"({"weight_map":{"a":"shard"}})");
  EXPECT_EQ(SafetensorsModel::open(folder.path()).at("a").bytes, 1u);
}

TEST(WriteSafetensors, LeavesNothingBehindWhenItFails) {
  const ScratchFolder folder;
  const std::vector<char> data(1 << 20, 'x');
  const std::vector<TensorToWrite> tensors = {{"a", TensorType::kU8, {1 << 20}, data.data()}};
  const fs::path path = folder.write("out.safetensors", "old");

  // A file system that is full: no file may grow beyond 64 KiB. The signal would end the test.
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {1 << 16, before.rlim_max};
  std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = error_of([&] { write_safetensors(path, tensors); });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_THAT(message, AllOf(HasSubstr(path.string()), HasSubstr("cannot write: File too large")));
  EXPECT_EQ(fs::file_size(path), 3u);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);

  EXPECT_THAT(error_of([&] { write_safetensors(folder / "no/such/folder", tensors); }),
              HasSubstr("cannot create: No such file"));
  EXPECT_THAT(error_of([&] { write_safetensors(folder.path(), tensors); }),
              HasSubstr("not a regular file"));
  EXPECT_THAT(error_of([&] { write_safetensors("/dev/full", tensors); }),
              HasSubstr("not a regular file"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(WriteSafetensors, ReplacesTheFileBehindALink) {
  const ScratchFolder folder;
  const uint8_t one = 1;
  const std::vector<TensorToWrite> tensors = {{"a", TensorType::kU8, {1}, &one}};
  folder.write("real", "old");
  fs::create_symlink("real", folder / "link");
  write_safetensors(folder / "link", tensors);
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(SafetensorsFile(folder / "real").tensors().size(), 1u);
}

}  // namespace
}  // namespace flexprefill::runtime
