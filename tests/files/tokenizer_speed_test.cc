// Text that must not take long. Not run under sanitizers, where a megabyte takes half a minute.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "runtime/tokenizer.h"

namespace flexprefill::runtime {
namespace {

TEST(TokenizerSpeed, AMegabyteTakesSecondsAtMostWhateverItSays) {
  constexpr size_t kMegabyte = 1 << 20;
  const auto repeat = [](const std::string& part) {
    std::string text;
    while (text.size() < kMegabyte) text += part;
    return text;
  };
  // Quadratic behaviour would take minutes to hours; measured 0.4 s at most.
  constexpr std::chrono::seconds kBound(20);
  const auto data = std::filesystem::path(FLEXPREFILL_ROOT) / "tests/data/tokenizer";
  for (const char* family : {"gpt2", "llama3", "qwen2"}) {
    const Tokenizer tokenizer = Tokenizer::load(data / (std::string(family) + ".json"));
    for (const char* part : {"a", " ", "\n", "7", "\u0301\u0323", "<|", "<|endoftext|> ", "' "}) {
      const std::string text = repeat(part);
      const auto start = std::chrono::steady_clock::now();
      const std::vector<int32_t> ids = tokenizer.encode(text, /*add_special_tokens=*/false);
      EXPECT_LT(std::chrono::steady_clock::now() - start, kBound) << family << ": " << part;
      EXPECT_GT(ids.size(), 1000u);
    }
  }
}

}  // namespace
}  // namespace flexprefill::runtime
