#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace flexprefill::runtime {

/// The "post_processor" of a tokenizer.json, as far as it changes the ids of one text: tokens put
/// before and after it. ByteLevel, which only moves offsets, adds none.
struct Postprocessor {
  std::vector<int32_t> before, after;

  /// `json` may be null. TemplateProcessing, ByteLevel or a Sequence of them; others are refused.
  static Postprocessor from_json(const nlohmann::json* json, const std::string& where);
};

}  // namespace flexprefill::runtime
