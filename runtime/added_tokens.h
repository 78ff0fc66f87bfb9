#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/normalizer.h"

namespace flexprefill::runtime {

/// One entry of "added_tokens": text that is a token wherever it occurs, before any splitting.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only between characters that are not \w
  bool lstrip = false;       // takes white space on its left with it
  bool rstrip = false;       // ... on its right
  bool normalized = true;    // looked for in the normalized text
  bool special = false;      // left out when decoding without special tokens
};

/// The array "added_tokens"; `json` may be null.
std::vector<AddedToken> parse_added_tokens(const nlohmann::json* json, const std::string& where);

/// Finds added tokens in text: leftmost first, and the longest of those that begin there.
class AddedTokenFinder {
 public:
  struct Piece {
    std::string_view text;
    int32_t id;  // -1: text between tokens
  };

  AddedTokenFinder() = default;
  /// Those of `tokens` whose `normalized` equals the argument, written as `normalizer` makes them.
  AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized,
                   const Normalizer& normalizer);

  /// Cuts `text` (valid UTF-8) into tokens and what lies between them; no text piece is empty.
  std::vector<Piece> split(std::string_view text) const;

 private:
  struct Entry {
    std::string text;
    AddedToken token;
  };
  const Entry* longest_at(std::string_view text) const;

  std::vector<Entry> entries_;  // sorted by text, unique
  bool begins_[256] = {};       // an entry begins with this byte
};

}  // namespace flexprefill::runtime
