#include "runtime/postprocessor.h"

#include "runtime/json_fields.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

// The ids that the template's table gives for a special token.
std::vector<int32_t> special_ids(const json& node, const std::string& name,
                                 const std::string& where) {
  const json& table = require_field(node, "special_tokens", where);
  require_object(table, where + ".special_tokens");
  const std::string at = where + ".special_tokens[\"" + shorten(name) + "\"]";
  const auto entry = table.find(name);
  if (entry == table.end()) throw Error(at + ": missing, but the template uses it");
  require_object(*entry, at);
  std::vector<int32_t> ids;
  for (const json& id : array_field(*entry, "ids", at)) ids.push_back(id_value(id, at + ".ids"));
  return ids;
}

Postprocessor from_template(const json& node, const std::string& where) {
  Postprocessor processor;
  int texts = 0;
  for (const json& piece : array_field(node, "single", where)) {
    require_object(piece, where + ".single");
    if (const json* special = find_field(piece, "SpecialToken")) {
      require_object(*special, where + ".single.SpecialToken");
      const std::string& name = string_field(*special, "id", where + ".single.SpecialToken");
      std::vector<int32_t>& side = texts == 0 ? processor.before : processor.after;
      for (const int32_t id : special_ids(node, name, where)) side.push_back(id);
    } else {
      require_field(piece, "Sequence", where + ".single");
      ++texts;
    }
  }
  if (texts != 1)
    throw Error(where + ".single has the text " + std::to_string(texts) + " times, expected once");
  return processor;
}

}  // namespace

Postprocessor Postprocessor::from_json(const json* node, const std::string& where) {
  Postprocessor processor;
  if (node == nullptr) return processor;
  require_object(*node, where);
  const std::string& type = string_field(*node, "type", where);
  if (type == "TemplateProcessing") {
    processor = from_template(*node, where);
  } else if (type == "Sequence") {
    for (const json& part : array_field(*node, "processors", where)) {
      const Postprocessor outer = from_json(&part, where + ".processors");
      processor.before.insert(processor.before.begin(), outer.before.begin(), outer.before.end());
      processor.after.insert(processor.after.end(), outer.after.begin(), outer.after.end());
    }
  } else if (type != "ByteLevel") {
    throw Error(where + ": post-processor \"" + shorten(type) +
                "\" is not supported; expected TemplateProcessing, ByteLevel or a Sequence");
  }
  return processor;
}

}  // namespace flexprefill::runtime
