#pragma once

#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/regex.h"

namespace flexprefill::runtime {

/// The "pre_tokenizer" of a tokenizer.json: cuts text into the words that BPE then merges within.
/// Split, Digits and ByteLevel, alone or in a Sequence that ends with ByteLevel.
class Pretokenizer {
 public:
  static Pretokenizer from_json(const nlohmann::json& json, const std::string& where);

  /// The words of `text` (valid UTF-8), in order, none empty. They point into `text` or `storage`.
  std::vector<std::string_view> split(std::string_view text,
                                      std::deque<std::string>& storage) const;

 private:
  struct Step {
    bool add_prefix_space = false;  // to pieces that do not begin with one, before cutting
    std::optional<Regex> regex;     // cut at its matches
    bool keep_matches = true;
    bool keep_between = true;
  };
  static Step split_step(const nlohmann::json& json, const std::string& where);
  static Step digits_step(const nlohmann::json& json, const std::string& where);
  static Step byte_level_step(const nlohmann::json& json, const std::string& where);
  void append_json(const nlohmann::json& json, const std::string& where);

  std::vector<Step> steps_;
  bool ends_in_bytes_ = false;
};

}  // namespace flexprefill::runtime
