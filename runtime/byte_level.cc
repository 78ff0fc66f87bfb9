#include "runtime/byte_level.h"

#include <array>

#include "runtime/utf8.h"

namespace flexprefill::runtime {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte)
    alphabet[byte] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
  return alphabet;
}
constexpr std::array<char32_t, 256> kAlphabet = make_alphabet();
constexpr size_t kAlphabetEnd = 0x100 + 68;

constexpr std::array<int16_t, kAlphabetEnd> make_bytes() {  // -1: not in the alphabet
  std::array<int16_t, kAlphabetEnd> bytes{};
  for (int16_t& byte : bytes) byte = -1;
  for (int byte = 0; byte < 256; ++byte) bytes[kAlphabet[byte]] = static_cast<int16_t>(byte);
  return bytes;
}
constexpr std::array<int16_t, kAlphabetEnd> kBytes = make_bytes();

}  // namespace

std::string to_byte_level(std::string_view bytes) {
  std::string token;
  for (const char byte : bytes) append_utf8(kAlphabet[static_cast<unsigned char>(byte)], token);
  return token;
}

std::optional<std::string> from_byte_level(std::string_view token) {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Step step = utf8_step(token);
    if (step.codepoint >= kAlphabetEnd || kBytes[step.codepoint] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kBytes[step.codepoint]));
    token.remove_prefix(step.bytes);
  }
  return bytes;
}

}  // namespace flexprefill::runtime
