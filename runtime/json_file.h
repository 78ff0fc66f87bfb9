#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace flexprefill::runtime {

/// Larger than any tokenizer.json in use (17 MB for 256K entries), small enough to parse in memory.
constexpr size_t kMaxJsonBytes = size_t{256} << 20;
constexpr int kMaxJsonDepth = 64;

/// Parses strict JSON (RFC 8259, valid UTF-8). Throws Error, starting with `where` and naming the
/// byte, on anything else, on nesting deeper than kMaxJsonDepth and on an object with the same key
/// twice.
nlohmann::json parse_json(std::string_view text, const std::string& where);

/// Reads and parses a file of at most `max_bytes`.
nlohmann::json read_json_file(const std::filesystem::path& path, size_t max_bytes = kMaxJsonBytes);

}  // namespace flexprefill::runtime
