#include "tests/fuzz/mutate.h"

#include <array>
#include <string_view>

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 24> kFragments = {"{",
                                                         "}",
                                                         "[",
                                                         "]",
                                                         "\"",
                                                         "\\",
                                                         ":",
                                                         ",",
                                                         "-1",
                                                         "0",
                                                         "1e999",
                                                         "null",
                                                         "true",
                                                         "{}",
                                                         "[]",
                                                         "\"a\":",
                                                         "\xFF",
                                                         "\\ud800",
                                                         "18446744073709551616",
                                                         "9223372036854775807",
                                                         "4294967296",
                                                         "[[[[[[[[",
                                                         "\\u0000",
                                                         "0.5"};

json hostile_value(Random& random) {
  static const std::array<json, 36> kValues = {json(),
                                               true,
                                               false,
                                               0,
                                               1,
                                               -1,
                                               2,
                                               3,
                                               64,
                                               0.5,
                                               -0.0,
                                               1e308,
                                               int64_t{1} << 31,
                                               (int64_t{1} << 31) - 1,
                                               int64_t{1} << 32,
                                               int64_t{1} << 40,
                                               INT64_MAX,
                                               INT64_MIN,
                                               UINT64_MAX,
                                               UINT64_MAX / 2 + 2,
                                               "",
                                               "a",
                                               "F32",
                                               "BF16",
                                               "NFC",
                                               "BPE",
                                               "ByteLevel",
                                               "Sequence",
                                               "<s>",
                                               "(?:(?:a+)+)+$",
                                               R"((?:(?:a+)+)+[bc])",
                                               R"((?:a{1,999}){1,999})",
                                               R"((((((((((a*)*)*)*)*)*)*)*)*)*[bc])",
                                               R"((?=.*\p{L})|)",
                                               json::array(),
                                               json::object()};
  if (random.one_in(40)) {
    json deep = 1;
    for (size_t i = random.below(90); i > 0; --i) deep = json::array({std::move(deep)});
    return deep;
  }
  if (random.one_in(20))
    return std::string(1 + random.below(3000), static_cast<char>('a' + random.below(3)));
  return kValues[random.below(kValues.size())];
}

// A random value of the document: down from the root, stopping anywhere.
json* pick(json& root, Random& random) {
  json* node = &root;
  while (node->is_structured() && !node->empty() && !random.one_in(6)) {
    auto it = node->begin();
    std::advance(it, static_cast<std::ptrdiff_t>(random.below(node->size())));
    node = &*it;
  }
  return node;
}

void remove_member(json& node, Random& random) {
  if (!node.is_structured() || node.empty()) return;
  auto it = node.begin();
  std::advance(it, static_cast<std::ptrdiff_t>(random.below(node.size())));
  node.erase(it);
}

}  // namespace

void mutate_bytes(std::string& bytes, Random& random) {
  for (size_t edits = 1 + random.below(4); edits > 0; --edits) {
    const size_t at = random.below(bytes.size() + 1);
    const size_t count = std::min(bytes.size() - at, random.below(40));
    switch (random.below(6)) {
      case 0: bytes.resize(at); break;
      case 1: bytes.insert(at, kFragments[random.below(kFragments.size())]); break;
      case 2: bytes.erase(at, count); break;
      case 3: bytes.insert(random.below(bytes.size() + 1), bytes.substr(at, count)); break;
      case 4: bytes.replace(at, count, kFragments[random.below(kFragments.size())]); break;
      default:
        if (at < bytes.size()) bytes[at] = static_cast<char>(random.below(256));
    }
  }
}

void mutate_json(json& root, Random& random) {
  for (size_t edits = 1 + random.below(3); edits > 0; --edits) {
    json* node = pick(root, random);
    switch (random.below(5)) {
      case 0: remove_member(*node, random); break;
      case 1: *node = json(*pick(root, random)); break;  // a copy: it may be the node's own parent
      default: *node = hostile_value(random);
    }
  }
}

}  // namespace flexprefill::runtime
