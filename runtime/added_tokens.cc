#include "runtime/added_tokens.h"

#include <algorithm>

#include "runtime/json_fields.h"
#include "runtime/utf8.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

// The last character before `end`, which is not 0.
char32_t character_before(std::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return utf8_step(text.substr(begin, end - begin)).codepoint;
}

bool word_ends_at(std::string_view text, size_t at) {
  return at > 0 && is_word_character(character_before(text, at));
}

bool word_begins_at(std::string_view text, size_t at) {
  return at < text.size() && is_word_character(utf8_step(text.substr(at)).codepoint);
}

size_t skip_space_left(std::string_view text, size_t at) {
  while (at > 0) {
    const char32_t c = character_before(text, at);
    if (!is_white_space(c)) break;
    std::string character;
    append_utf8(c, character);
    at -= character.size();
  }
  return at;
}

size_t skip_space_right(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text.substr(at));
    if (!is_white_space(step.codepoint)) break;
    at += step.bytes;
  }
  return at;
}

}  // namespace

std::vector<AddedToken> parse_added_tokens(const json* node, const std::string& where) {
  std::vector<AddedToken> tokens;
  if (node == nullptr) return tokens;
  if (!node->is_array())
    throw Error(where + ": is " + node->type_name() + ", expected an array of tokens");
  for (const json& entry : *node) {
    const std::string at = where + "[" + std::to_string(tokens.size()) + "]";
    require_object(entry, at);
    AddedToken token;
    token.id = id_value(require_field(entry, "id", at), at + ".id");
    token.content = string_field(entry, "content", at);
    token.single_word = bool_field(entry, "single_word", false, at);
    token.lstrip = bool_field(entry, "lstrip", false, at);
    token.rstrip = bool_field(entry, "rstrip", false, at);
    token.special = bool_field(entry, "special", false, at);
    token.normalized = bool_field(entry, "normalized", !token.special, at);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenFinder::AddedTokenFinder(const std::vector<AddedToken>& tokens, bool normalized,
                                   const Normalizer& normalizer) {
  for (const AddedToken& token : tokens)
    if (token.normalized == normalized && !token.content.empty())
      entries_.push_back({normalized ? normalizer.apply(token.content) : token.content, token});
  // Of tokens that normalize to the same text, special ones win, then the first of the file.
  std::stable_sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    return a.text != b.text ? a.text < b.text : a.token.special > b.token.special;
  });
  const auto same = [](const Entry& a, const Entry& b) { return a.text == b.text; };
  entries_.erase(std::unique(entries_.begin(), entries_.end(), same), entries_.end());
  for (const Entry& entry : entries_) begins_[static_cast<unsigned char>(entry.text[0])] = true;
}

// Narrows the sorted entries to those that share one byte more with the text, until none is left.
const AddedTokenFinder::Entry* AddedTokenFinder::longest_at(std::string_view text) const {
  const Entry* longest = nullptr;
  auto begin = entries_.begin();
  auto end = entries_.end();
  for (size_t depth = 0; depth < text.size(); ++depth) {
    const auto byte = static_cast<unsigned char>(text[depth]);
    const auto byte_of = [&](const Entry& e) {  // -1 sorts what ends here before all the others
      return depth < e.text.size() ? static_cast<unsigned char>(e.text[depth]) : -1;
    };
    begin = std::partition_point(begin, end, [&](const Entry& e) { return byte_of(e) < byte; });
    end = std::partition_point(begin, end, [&](const Entry& e) { return byte_of(e) <= byte; });
    if (begin == end) break;
    if (begin->text.size() == depth + 1) longest = &*begin;
  }
  return longest;
}

std::vector<AddedTokenFinder::Piece> AddedTokenFinder::split(std::string_view text) const {
  std::vector<Piece> pieces;
  size_t done = 0;  // everything before it is in `pieces`
  const auto text_until = [&](size_t end) {
    if (done < end) pieces.push_back({text.substr(done, end - done), -1});
  };
  for (size_t at = 0; at < text.size();) {
    const Entry* entry =
        begins_[static_cast<unsigned char>(text[at])] ? longest_at(text.substr(at)) : nullptr;
    if (entry == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + entry->text.size();
    at = end;  // a match that single_word turns down still uses up its text
    if (entry->token.single_word && (word_ends_at(text, begin) || word_begins_at(text, end)))
      continue;
    if (entry->token.lstrip) begin = std::max(skip_space_left(text, begin), done);
    if (entry->token.rstrip) end = skip_space_right(text, end);
    text_until(begin);
    pieces.push_back({text.substr(begin, end - begin), entry->token.id});
    done = end;
  }
  text_until(text.size());
  return pieces;
}

}  // namespace flexprefill::runtime
