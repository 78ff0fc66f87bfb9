// The data of the page of `flexprefill inspect`: reports and masks as JSON inside the HTML.

#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "flexprefill/error.h"
#include "flexprefill/version.h"
#include "tools/format.h"
#include "tools/inspect_page.h"

namespace flexprefill::tools {
namespace {

using Json = nlohmann::ordered_json;

std::string base64(const std::vector<uint8_t>& bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t n = 0; n < bytes.size(); n += 3) {
    uint32_t group = 0;
    for (size_t b = 0; b < 3; ++b) group = group << 8 | (n + b < bytes.size() ? bytes[n + b] : 0u);
    const size_t digits = std::min<size_t>(3, bytes.size() - n) + 1;
    for (size_t d = 0; d < 4; ++d) text += d < digits ? kDigits[group >> (18 - 6 * d) & 63] : '=';
  }
  return text;
}

std::vector<uint8_t> causal_bits(const BlockMask& mask, int32_t h) {
  const size_t rows = static_cast<size_t>(mask.q_blocks);
  std::vector<uint8_t> bytes((rows * (rows + 1) / 2 + 7) / 8);
  for (int32_t i = 0; i < mask.q_blocks; ++i) {
    const size_t first = static_cast<size_t>(i) * (i + 1) / 2;
    mask.for_each_block(h, i, [&](int32_t j) {
      bytes[(first + j) / 8] |= static_cast<uint8_t>(1u << ((first + j) % 8));
    });
  }
  return bytes;
}

Json chunk_json(const runtime::PromptMasks::Chunk& chunk, int32_t h) {
  const HeadReport& report = chunk.reports[static_cast<size_t>(h)];
  return {{"first", chunk.q_start},
          {"tokens", chunk.q_len},
          {"pattern", to_string(report.pattern)},
          {"kept", report.kept_blocks},
          {"causal", report.causal_blocks},
          {"coverage", as_double(report.coverage)},
          {"lowest_row", as_double(report.coverage_min_row)},
          {"divergence", as_double(report.divergence)},
          {"budget_limited", report.budget_limited}};
}

Json layer_json(const runtime::PromptMasks& masks, int32_t layer) {
  const BlockMask mask = masks.layer(layer);
  Json heads = Json::array();
  for (int32_t h = 0; h < mask.heads; ++h) {
    Json chunks = Json::array();
    for (const runtime::PromptMasks::Chunk& chunk : masks.chunks(layer))
      chunks.push_back(chunk_json(chunk, h));
    heads.push_back({{"chunks", chunks}, {"bits", base64(causal_bits(mask, h))}});
  }
  return heads;
}

// JSON inside <script>: nothing in it may look like the end of the script or a comment.
std::string script_safe(const Json& json) {
  const std::string text =
      json.dump(/*indent=*/-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  std::string safe;
  safe.reserve(text.size());
  for (const char c : text) {
    if (c == '<') {
      safe += "\\u003c";
    } else {
      safe += c;
    }
  }
  return safe;
}

}  // namespace

std::string inspect_page(const InspectData& data, const runtime::PrefillResult& result,
                         const runtime::ModelConfig& config, const runtime::PromptMasks& masks) {
  Json json = {{"version", version()},
               {"model", data.model},
               {"architecture", to_string(config.architecture)},
               {"policy", data.policy},
               {"backend", result.backend},
               {"dtypes", result.dtypes},
               {"prompt_tokens", result.prompt_tokens},
               {"chunk", result.chunk},
               {"block", kBlock},
               {"prefill_seconds", result.prefill_seconds},
               {"plan_seconds", result.parts.plan},
               {"attend_seconds", result.parts.attend},
               {"computed_share", result.computed_share},
               {"coverage_min", as_double(result.coverage_min)},
               {"layers", Json::array()},
               {"texts", data.texts}};
  for (int32_t layer = 0; layer < config.layers; ++layer)
    json["layers"].push_back(layer_json(masks, layer));

  const std::string_view page = kInspectPage;
  const std::string_view mark = "{{data}}";
  const size_t at = page.find(mark);
  return std::string(page.substr(0, at)) + script_safe(json) +
         std::string(page.substr(at + mark.size()));
}

}  // namespace flexprefill::tools
