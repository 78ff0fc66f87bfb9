#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace flexprefill::runtime {

/// One step through bytes that are meant to be UTF-8.
struct Utf8Step {
  enum Kind : uint8_t {
    kCharacter,   // a whole character
    kInvalid,     // bytes that no continuation can make valid
    kIncomplete,  // the end of the text cuts a character
  };
  Kind kind;
  uint8_t bytes;       // length of the character or of the bad part, 1 .. 4
  char32_t codepoint;  // U+FFFD unless kCharacter
};

/// Reads at text[0]; `text` is not empty. A bad part is the longest prefix of a character, as the
/// Unicode standard recommends for U+FFFD substitution (section 3.9), so that one U+FFFD per bad
/// part gives what Python and Rust give.
Utf8Step utf8_step(std::string_view text);

void append_utf8(char32_t codepoint, std::string& out);

/// Moves what is complete from the front of `bytes` to the end of `out`, bad parts as U+FFFD. What
/// is left in `bytes` is the beginning of a character, at most 3 bytes.
void move_complete_utf8(std::string& bytes, std::string& out);

/// `text` with one U+FFFD for every bad part; the same bytes if it is valid.
std::string to_valid_utf8(std::string_view text);

/// Unicode's White_Space.
bool is_white_space(char32_t codepoint);
/// A character of \w as UTS 18 defines it: alphabetic, mark, decimal digit, connector, joiner.
bool is_word_character(char32_t codepoint);

}  // namespace flexprefill::runtime
