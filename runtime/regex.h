#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace flexprefill::runtime {

/// A regular expression of a tokenizer.json, run by PCRE2 over UTF-8. Those files are written for
/// Oniguruma; a pattern is translated where the two read the same characters differently, and
/// refused by name where no translation is implemented. Immutable: threads may share one.
class Regex {
 public:
  struct Span {
    size_t begin, end;  // bytes
  };

  /// Throws Error, starting with `where`, on what is invalid or not supported.
  Regex(std::string_view pattern, const std::string& where);
  /// Matches the text of `pattern` itself.
  static Regex literal(std::string_view pattern, const std::string& where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// All matches in valid UTF-8 from left to right; an empty match next to the one before it does
  /// not count. Throws Error if the pattern backtracks without end.
  std::vector<Span> find_all(std::string_view text) const;

 private:
  struct Compiled;
  explicit Regex(std::unique_ptr<const Compiled> compiled);
  std::unique_ptr<const Compiled> compiled_;
};

/// The PCRE2 pattern with the meaning that Oniguruma gives `pattern`.
std::string to_pcre2(std::string_view pattern, const std::string& where);

}  // namespace flexprefill::runtime
