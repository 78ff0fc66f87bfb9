#include "runtime/utf8.h"

#include <utf8proc.h>

namespace flexprefill::runtime {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Utf8Step::kCharacter, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Step::kInvalid, 1, kReplacement};

  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies past U+10FFFF.
  unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t codepoint = lead & (0xFF >> (length + 1));
  for (int i = 1; i < length; ++i) {
    const auto done = static_cast<uint8_t>(i);
    if (static_cast<size_t>(i) == text.size()) return {Utf8Step::kIncomplete, done, kReplacement};
    if (byte(i) < low || byte(i) > high) return {Utf8Step::kInvalid, done, kReplacement};
    codepoint = codepoint << 6 | (byte(i) & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Step::kCharacter, static_cast<uint8_t>(length), codepoint};
}

void append_utf8(char32_t codepoint, std::string& out) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (codepoint < 0x80) {
    put(codepoint);
  } else if (codepoint < 0x800) {
    put(0xC0 | codepoint >> 6);
    put(0x80 | (codepoint & 0x3F));
  } else if (codepoint < 0x10000) {
    put(0xE0 | codepoint >> 12);
    put(0x80 | (codepoint >> 6 & 0x3F));
    put(0x80 | (codepoint & 0x3F));
  } else {
    put(0xF0 | codepoint >> 18);
    put(0x80 | (codepoint >> 12 & 0x3F));
    put(0x80 | (codepoint >> 6 & 0x3F));
    put(0x80 | (codepoint & 0x3F));
  }
}

void move_complete_utf8(std::string& bytes, std::string& out) {
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.kind == Utf8Step::kIncomplete) break;
    if (step.kind == Utf8Step::kCharacter)
      out.append(rest.substr(0, step.bytes));
    else
      append_utf8(kReplacement, out);
    rest.remove_prefix(step.bytes);
  }
  bytes.erase(0, bytes.size() - rest.size());
}

std::string to_valid_utf8(std::string_view text) {
  std::string bytes(text);
  std::string out;
  out.reserve(text.size());
  move_complete_utf8(bytes, out);
  if (!bytes.empty()) append_utf8(kReplacement, out);
  return out;
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC: return true;
    default: break;
  }
  // Joiners, and the only alphabetic characters outside those categories: enclosed letters.
  return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) ||
         (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
         (c >= 0x1F170 && c <= 0x1F189);
}

}  // namespace flexprefill::runtime
