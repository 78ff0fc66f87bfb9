#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace flexprefill::runtime {

/// The "normalizer" of a tokenizer.json: none or NFC (or a Sequence of those).
class Normalizer {
 public:
  /// `json` may be null. Other normalizers are refused by name.
  static Normalizer from_json(const nlohmann::json* json, const std::string& where);

  /// `text` is valid UTF-8.
  std::string apply(std::string_view text) const;

 private:
  bool nfc_ = false;
};

/// Unicode normalization form C of valid UTF-8, in O(n log n) whatever the text.
std::string to_nfc(std::string_view text);

}  // namespace flexprefill::runtime
