#pragma once

#include <string_view>

namespace flexprefill::runtime {

/// Each reads `bytes` as the runtime reads a file of that format, and uses what it got a little.
/// flexprefill::Error is the answer to a bad file; anything else that comes out is a bug.
void read_safetensors(std::string_view bytes);
void read_tokenizer(std::string_view bytes);
void read_config(std::string_view bytes);

}  // namespace flexprefill::runtime
