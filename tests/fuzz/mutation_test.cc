// Thousands of hostile files made from good ones, the same on every run: each must be read or
// refused with an Error, without a crash and without more memory than the file justifies.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>

#include "flexprefill/error.h"
#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// A JSON document takes tens of bytes per byte of text ("0," alone is a 16-byte value, and a
// growing array holds itself twice). Measured: at most 27 bytes per byte and 8 KB for the smallest
// files.
constexpr size_t kBytesPerByte = 64;
constexpr size_t kFixedBytes = 64 << 10;
// No message repeats more than a little of the file.
constexpr size_t kMaxMessage = 600;

std::vector<std::string> seeds(const std::string& format) {
  std::vector<fs::path> paths;
  for (const auto& entry :
       fs::directory_iterator(fs::path(FLEXPREFILL_ROOT) / "tests/fuzz/seeds" / format))
    paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> texts;
  for (const fs::path& path : paths) {
    std::ifstream file(path, std::ios::binary);
    texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return texts;
}

using Read = void (*)(std::string_view);
using Make = std::function<std::string(const std::string& seed, Random&)>;

void attack(const std::string& format, Read read, const Make& make, int rounds) {
  const std::vector<std::string> good = seeds(format);
  ASSERT_FALSE(good.empty());
  for (const std::string& seed : good) ASSERT_NO_THROW(read(seed));
  int accepted = 0;
  for (int round = 0; round < rounds && !testing::Test::HasFailure(); ++round) {
    Random random(static_cast<uint64_t>(round));
    const std::string bytes = make(good[random.below(good.size())], random);
    const AllocationMeter meter;
    try {
      read(bytes);
      ++accepted;
    } catch (const Error& error) {
      EXPECT_LE(std::string(error.what()).size(), kMaxMessage) << "round " << round;
    } catch (const std::exception& error) {
      ADD_FAILURE() << "round " << round << ": " << error.what();
    }
    EXPECT_LE(meter.peak_bytes(), kFixedBytes + kBytesPerByte * bytes.size())
        << "round " << round << ", " << bytes.size() << " bytes";
  }
  // Neither all good nor all hopeless, or the edits test nothing.
  EXPECT_GT(accepted, rounds / 200);
  EXPECT_LT(accepted, rounds * 3 / 4);
}

std::string edit_bytes(const std::string& seed, Random& random) {
  std::string bytes = seed;
  mutate_bytes(bytes, random);
  return bytes;
}

std::string edit_json(const std::string& seed, Random& random) {
  json root = json::parse(seed);
  mutate_json(root, random);
  return root.dump();
}

// Edits the header as JSON and tells its true length, most of the time.
std::string edit_header(const std::string& seed, Random& random) {
  uint64_t length = 0;
  for (size_t i = 0; i < 8; ++i)
    length |= static_cast<uint64_t>(static_cast<unsigned char>(seed[i])) << (8 * i);
  json header = json::parse(seed.substr(8, length));
  mutate_json(header, random);
  const std::string text = header.dump();
  length = random.one_in(10) ? uint64_t{1} << random.below(64) : text.size();
  std::string bytes;
  for (size_t i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(length >> (8 * i)));
  const std::string data = seed.substr(seed.size() - random.below(2));
  return bytes + text + (random.one_in(4) ? data : seed.substr(seed.size() - 12));
}

TEST(HostileSafetensors, EditedBytes) {
  attack("safetensors", read_safetensors, edit_bytes, 20'000);
}
TEST(HostileSafetensors, EditedHeader) {
  attack("safetensors", read_safetensors, edit_header, 20'000);
}
TEST(HostileTokenizer, EditedBytes) { attack("tokenizer", read_tokenizer, edit_bytes, 8'000); }
TEST(HostileTokenizer, EditedJson) { attack("tokenizer", read_tokenizer, edit_json, 8'000); }
TEST(HostileConfig, EditedBytes) { attack("config", read_config, edit_bytes, 20'000); }
TEST(HostileConfig, EditedJson) { attack("config", read_config, edit_json, 20'000); }

TEST(AllocationMeter, SeesTheMostThatIsHeldAtOnce) {
  const AllocationMeter meter;
  for (int i = 0; i < 10; ++i) std::make_unique<std::string>(100'000, 'a')->back() = 'b';
  EXPECT_GE(meter.peak_bytes(), 100'000u);
  EXPECT_LE(meter.peak_bytes(), 200'000u);
  const std::vector<std::string> kept(10, std::string(100'000, 'a'));
  EXPECT_GE(meter.peak_bytes(), 1'000'000u);
}

}  // namespace
}  // namespace flexprefill::runtime
