#include "runtime/json_file.h"

#include <functional>
#include <unordered_set>
#include <vector>

#include "flexprefill/error.h"
#include "runtime/json_fields.h"
#include "runtime/mapped_file.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

// Checks what the parser lets pass, while it builds the document: depth and repeated keys. A key's
// second value would silently replace the first, and two programs could read one file differently.
class DocumentRules {
 public:
  explicit DocumentRules(const std::string& where) : where_(where) {}

  bool operator()(int depth, json::parse_event_t event, const json& parsed) {
    if (depth > kMaxJsonDepth)
      throw Error(where_ + ": JSON is nested deeper than " + std::to_string(kMaxJsonDepth) +
                  " levels; no model file needs that, get the file again");
    switch (event) {
      case json::parse_event_t::object_start: keys_.emplace_back(); break;
      case json::parse_event_t::object_end: keys_.pop_back(); break;
      case json::parse_event_t::key:
        if (!keys_.back().insert(parsed.get_ref<const std::string&>()).second)
          throw Error(where_ + ": JSON object has the key " + shorten(parsed.dump()) + " twice");
        break;
      default: break;
    }
    return true;
  }

 private:
  const std::string& where_;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open
};

// The parser's own words without its code in brackets and without the text it quotes, which may be
// as long as the file.
std::string reason(const json::exception& error) {
  std::string text = error.what();
  if (const size_t end = text.find("] "); end != std::string::npos) text.erase(0, end + 2);
  if (const size_t quote = text.find("; last read"); quote != std::string::npos) text.erase(quote);
  constexpr size_t kEnough = 160;
  if (text.size() > kEnough) text.resize(kEnough);
  return text;
}

}  // namespace

json parse_json(std::string_view text, const std::string& where) {
  try {
    DocumentRules rules(where);
    return json::parse(text, std::ref(rules));
  } catch (const json::parse_error& error) {
    throw Error(where + ": not valid JSON at byte " + std::to_string(error.byte) + " of " +
                std::to_string(text.size()) + " (" + reason(error) +
                "); the file may be cut short or damaged, get it again");
  } catch (const json::exception& error) {
    throw Error(where + ": not valid JSON (" + reason(error) + ")");
  }
}

json read_json_file(const std::filesystem::path& path, size_t max_bytes) {
  const MappedFile file(path);
  const size_t size = file.bytes().size();
  if (size > max_bytes)
    throw Error(path.string() + ": " + std::to_string(size) + " bytes, expected at most " +
                std::to_string(max_bytes) + " for a JSON file");
  return parse_json({reinterpret_cast<const char*>(file.bytes().data()), size}, path.string());
}

}  // namespace flexprefill::runtime
