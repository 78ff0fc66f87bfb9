#include "runtime/pretokenizer.h"

#include "runtime/json_fields.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

// What ByteLevel cuts with when it is asked to: GPT-2's expression.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

Pretokenizer::Step Pretokenizer::split_step(const json& node, const std::string& where) {
  Step step;
  const json& pattern = require_field(node, "pattern", where);
  require_object(pattern, where + ".pattern");
  if (const json* regex = find_field(pattern, "Regex"))
    step.regex.emplace(string_value(*regex, where + ".pattern.Regex"), where + ".pattern.Regex");
  else
    step.regex = Regex::literal(string_field(pattern, "String", where + ".pattern"),
                                where + ".pattern.String");

  const std::string& behavior = string_field(node, "behavior", where);
  const bool invert = bool_field(node, "invert", false, where);
  if (behavior == "Removed") {
    step.keep_matches = invert;
    step.keep_between = !invert;
  } else if (behavior != "Isolated") {
    throw Error(where + ".behavior = \"" + shorten(behavior) +
                "\" is not supported; expected Isolated or Removed");
  }
  return step;
}

Pretokenizer::Step Pretokenizer::digits_step(const json& node, const std::string& where) {
  Step step;
  const bool each = bool_field(node, "individual_digits", false, where);
  step.regex.emplace(each ? R"(\p{N})" : R"(\p{N}+)", where);
  return step;
}

Pretokenizer::Step Pretokenizer::byte_level_step(const json& node, const std::string& where) {
  Step step;
  step.add_prefix_space = bool_field(node, "add_prefix_space", true, where);
  if (bool_field(node, "use_regex", true, where)) step.regex.emplace(kGpt2Pattern, where);
  return step;
}

void Pretokenizer::append_json(const json& node, const std::string& where) {
  require_object(node, where);
  const std::string& type = string_field(node, "type", where);
  if (ends_in_bytes_)
    throw Error(where + ": pre-tokenizer \"" + shorten(type) +
                "\" after ByteLevel is not supported; expected ByteLevel to be the last");
  if (type == "Sequence") {
    for (const json& part : array_field(node, "pretokenizers", where))
      append_json(part, where + ".pretokenizers");
  } else if (type == "Split") {
    steps_.push_back(split_step(node, where));
  } else if (type == "Digits") {
    steps_.push_back(digits_step(node, where));
  } else if (type == "ByteLevel") {
    steps_.push_back(byte_level_step(node, where));
    ends_in_bytes_ = true;
  } else {
    throw Error(where + ": pre-tokenizer \"" + shorten(type) +
                "\" is not supported; expected ByteLevel, Split, Digits or a Sequence of them");
  }
}

Pretokenizer Pretokenizer::from_json(const json& node, const std::string& where) {
  Pretokenizer pretokenizer;
  pretokenizer.append_json(node, where);
  if (!pretokenizer.ends_in_bytes_)
    throw Error(where + ": no ByteLevel in it; only byte-level tokenizers are supported");
  return pretokenizer;
}

std::vector<std::string_view> Pretokenizer::split(std::string_view text,
                                                  std::deque<std::string>& storage) const {
  std::vector<std::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  for (const Step& step : steps_) {
    std::vector<std::string_view> next;
    next.reserve(pieces.size());
    for (std::string_view piece : pieces) {
      if (step.add_prefix_space && piece.front() != ' ')
        piece = storage.emplace_back(1, ' ').append(piece);
      if (!step.regex) {
        next.push_back(piece);
        continue;
      }
      size_t end = 0;
      const auto keep = [&](size_t from, size_t to) {
        if (from < to) next.push_back(piece.substr(from, to - from));
      };
      for (const Regex::Span& match : step.regex->find_all(piece)) {
        if (step.keep_between) keep(end, match.begin);
        if (step.keep_matches) keep(match.begin, match.end);
        end = match.end;
      }
      if (step.keep_between) keep(end, piece.size());
    }
    pieces = std::move(next);
  }
  return pieces;
}

}  // namespace flexprefill::runtime
