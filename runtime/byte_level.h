#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace flexprefill::runtime {

/// GPT-2's alphabet: every byte has a printable character, so that any text can be written as
/// tokens without control characters or spaces. Printable Latin-1 stands for itself, the other 68
/// bytes are U+0100 and following in order (a space is U+0120).
std::string to_byte_level(std::string_view bytes);

/// The bytes that `token` writes, or nothing if it has a character outside the alphabet.
std::optional<std::string> from_byte_level(std::string_view token);

}  // namespace flexprefill::runtime
