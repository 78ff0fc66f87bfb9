#pragma once

#include <string>
#include <vector>

#include "runtime/prompt_masks.h"
#include "runtime/session.h"

namespace flexprefill::tools {

extern const char kInspectPage[];  // tools/inspect_page.html, with a mark where the data goes

// What the page shows.
struct InspectData {
  std::string model;
  std::string policy;              // in words
  std::vector<std::string> texts;  // [blocks] of the prompt
};

// The page, complete. Bits of a head: row i has its i + 1 causal blocks, rows one after the other,
// the lowest bit of a byte first, in base64.
std::string inspect_page(const InspectData& data, const runtime::PrefillResult& result,
                         const runtime::ModelConfig& config, const runtime::PromptMasks& masks);

}  // namespace flexprefill::tools
