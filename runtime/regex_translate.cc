// Oniguruma patterns for PCRE2. The two agree on nearly everything that split patterns use; the
// exceptions are handled here, one branch each, and whatever is not known to agree is refused.
#include <algorithm>
#include <array>

#include "flexprefill/error.h"
#include "runtime/json_fields.h"
#include "runtime/regex.h"

namespace flexprefill::runtime {
namespace {

// Oniguruma's \s is Unicode's White_Space. PCRE2's also has U+180E.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpace =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

// Properties with one meaning in both. Scripts are not among them: PCRE2 reads a script's name as
// its extensions since 10.40.
constexpr std::array<std::string_view, 37> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl",
    "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk",
    "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cn", "Co", "Cs"};

constexpr std::array<std::string_view, 7> kGroups = {"(?:",  "(?i:", "(?=", "(?!",
                                                     "(?<=", "(?<!", "(?>"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) {
      switch (in_[at_]) {
        case '\\': escape(/*in_class=*/false); break;
        case '[': char_class(); break;
        case '(': group(); break;
        case '{': braces(); break;
        case '^':
        case '$': refuse("the anchor " + std::string(1, in_[at_]));
        default: out_ += in_[at_++];
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(where_ + ": the regular expression has " + what + " at byte " +
                std::to_string(at_) + ", which is not supported");
  }

  char peek(size_t ahead) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }

  void copy(size_t bytes) {
    out_ += in_.substr(at_, bytes);
    at_ += bytes;
  }

  void replace(size_t bytes, std::string_view by) {
    out_ += by;
    at_ += bytes;
  }

  void escape(bool in_class) {
    const char c = peek(1);
    const auto set = [&](std::string_view members) {
      if (in_class) return replace(2, members);
      out_ += '[';
      replace(2, members);
      out_ += ']';
    };
    switch (c) {
      case 's': return set(kSpace);
      case 'S': return set(kNotSpace);
      case 'd': return replace(2, R"(\p{Nd})");
      case 'D': return replace(2, R"(\P{Nd})");
      case 'v': return replace(2, R"(\x{b})");  // vertical tab; PCRE2 reads a class of seven
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e': return copy(2);
      case 'p':
      case 'P': return property();
      case 'x': return hexadecimal_braces();
      case 'u': return hexadecimal_four();
      default: break;
    }
    if (at_ + 1 == in_.size()) refuse("a backslash with nothing behind it");
    if (is_letter(c) || is_digit(c) || c == '<' || c == '>' || (c & 0x80) != 0)
      refuse("the escape \\" + std::string(1, (c & 0x80) != 0 ? '?' : c));
    copy(2);
  }

  void property() {
    const size_t end = in_.find('}', at_);
    if (peek(2) != '{' || end == std::string_view::npos) refuse("a property without braces");
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    if (name.starts_with('^')) name.remove_prefix(1);
    if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end())
      refuse("the property \"" + shorten(std::string(name)) + "\"");
    copy(end + 1 - at_);
  }

  void hexadecimal_braces() {
    const size_t end = in_.find('}', at_);
    if (peek(2) != '{' || end == std::string_view::npos) refuse("\\x without braces");
    const std::string_view digits = in_.substr(at_ + 3, end - at_ - 3);
    if (digits.empty() || digits.size() > 8 || !std::all_of(digits.begin(), digits.end(), is_hex))
      refuse("a bad \\x{...}");
    copy(end + 1 - at_);
  }

  void hexadecimal_four() {
    for (size_t i = 2; i < 6; ++i)
      if (!is_hex(peek(i))) refuse("a bad \\u");
    replace(6, R"(\x{)" + std::string(in_.substr(at_ + 2, 4)) + "}");
  }

  // [...]: in Oniguruma classes nest and && intersects; in PCRE2 both are plain characters.
  void char_class() {
    copy(peek(1) == '^' ? 2 : 1);
    if (peek(0) == ']') refuse("an empty character class");
    while (peek(0) != ']') {
      if (at_ >= in_.size()) refuse("a character class that does not end");
      if (peek(0) == '[') refuse("a class inside a class");
      if (peek(0) == '&' && peek(1) == '&') refuse("an intersection of classes");
      if (peek(0) == '\\')
        escape(/*in_class=*/true);
      else
        copy(1);
    }
    copy(1);
  }

  void group() {
    if (peek(1) == '*') refuse("a verb (*...)");
    if (peek(1) != '?') return copy(1);
    const std::string_view rest = in_.substr(at_);
    for (const std::string_view known : kGroups)
      if (rest.starts_with(known)) return copy(known.size());
    refuse("the group " + shorten(std::string(rest.substr(0, 4))));
  }

  // {n}, {n,} and {n,m} agree; {,m} and what may follow (possessive +, lazy ?) do not always.
  void braces() {
    size_t end = at_ + 1;
    while (end < in_.size() && (is_digit(in_[end]) || in_[end] == ',')) ++end;
    if (end == in_.size() || in_[end] != '}' || !is_digit(peek(1))) refuse("a brace");
    if (end + 1 < in_.size() && (in_[end + 1] == '+' || in_[end + 1] == '?'))
      refuse("a counted repeat followed by " + std::string(1, in_[end + 1]));
    copy(end + 1 - at_);
  }

  std::string_view in_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string to_pcre2(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace flexprefill::runtime
