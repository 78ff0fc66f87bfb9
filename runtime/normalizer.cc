#include "runtime/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "runtime/json_fields.h"
#include "runtime/utf8.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

int combining_class(utf8proc_int32_t codepoint) {
  return utf8proc_get_property(codepoint)->combining_class;
}

// Canonical decomposition, not ordered yet.
std::vector<utf8proc_int32_t> decompose(std::string_view text) {
  constexpr auto kCanonical = static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | UTF8PROC_STABLE);
  constexpr int kLongest = 8;  // Unicode's longest canonical decomposition is 4
  std::vector<utf8proc_int32_t> out;
  out.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = utf8_step(text);
    utf8proc_int32_t parts[kLongest];
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.codepoint), parts,
                                               kLongest, kCanonical, nullptr);
    if (count < 0 || count > kLongest)
      throw Error(std::string("NFC: ") + utf8proc_errmsg(count));  // not reached on valid UTF-8
    out.insert(out.end(), parts, parts + count);
    text.remove_prefix(step.bytes);
  }
  return out;
}

// Sorts every run of combining marks by class. utf8proc's own ordering is quadratic in the length
// of a run, which a hostile text can make as long as itself.
void order_marks(std::vector<utf8proc_int32_t>& codepoints) {
  const auto is_mark = [](utf8proc_int32_t c) { return combining_class(c) != 0; };
  for (auto it = codepoints.begin(); it != codepoints.end();) {
    const auto begin = std::find_if(it, codepoints.end(), is_mark);
    const auto end = std::find_if_not(begin, codepoints.end(), is_mark);
    std::stable_sort(begin, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    it = end;
  }
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

}  // namespace

std::string to_nfc(std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  std::vector<utf8proc_int32_t> codepoints = decompose(text);
  order_marks(codepoints);
  constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  const auto length = utf8proc_normalize_utf32(
      codepoints.data(), static_cast<utf8proc_ssize_t>(codepoints.size()), kCompose);
  std::string out;
  out.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < length; ++i)
    append_utf8(static_cast<char32_t>(codepoints[static_cast<size_t>(i)]), out);
  return out;
}

Normalizer Normalizer::from_json(const json* node, const std::string& where) {
  Normalizer normalizer;
  if (node == nullptr) return normalizer;
  require_object(*node, where);
  const std::string& type = string_field(*node, "type", where);
  if (type == "NFC") {
    normalizer.nfc_ = true;
  } else if (type == "Sequence") {
    for (const json& part : array_field(*node, "normalizers", where))
      normalizer.nfc_ |= from_json(&part, where + ".normalizers").nfc_;
  } else {
    throw Error(where + ": normalizer \"" + shorten(type) +
                "\" is not supported; expected none or NFC");
  }
  return normalizer;
}

std::string Normalizer::apply(std::string_view text) const {
  return nfc_ ? to_nfc(text) : std::string(text);
}

}  // namespace flexprefill::runtime
