#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "flexprefill/error.h"

namespace flexprefill::runtime {

/// Typed access to the members of a JSON object that came from a file. `where` names the file and
/// the object in messages: `models/x/tokenizer.json: model`.
inline void require_object(const nlohmann::json& value, const std::string& where) {
  if (!value.is_object())
    throw Error(where + ": is " + value.type_name() + ", expected a JSON object");
}

/// The member, or null if it is missing or JSON null.
inline const nlohmann::json* find_field(const nlohmann::json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

inline const nlohmann::json& require_field(const nlohmann::json& object, const char* key,
                                           const std::string& where) {
  if (const nlohmann::json* value = find_field(object, key)) return *value;
  throw Error(where + "." + key + ": missing");
}

inline bool bool_field(const nlohmann::json& object, const char* key, bool fallback,
                       const std::string& where) {
  const nlohmann::json* value = find_field(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean())
    throw Error(where + "." + key + ": is " + value->type_name() + ", expected true or false");
  return value->get<bool>();
}

inline const std::string& string_value(const nlohmann::json& value, const std::string& where) {
  if (!value.is_string()) throw Error(where + ": is " + value.type_name() + ", expected a string");
  return value.get_ref<const std::string&>();
}

inline const std::string& string_field(const nlohmann::json& object, const char* key,
                                       const std::string& where) {
  return string_value(require_field(object, key, where), where + "." + key);
}

inline const nlohmann::json& array_field(const nlohmann::json& object, const char* key,
                                         const std::string& where) {
  const nlohmann::json& value = require_field(object, key, where);
  if (!value.is_array())
    throw Error(where + "." + key + ": is " + value.type_name() + ", expected an array");
  return value;
}

/// A token id: a whole number from 0 to 2^31 - 2, so that the vocabulary's size fits int32_t too.
inline int32_t id_value(const nlohmann::json& value, const std::string& where) {
  constexpr int64_t kMaxId = 0x7ffffffe;
  // An unsigned value beyond int64_t reads as negative.
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > kMaxId)
    throw Error(where + ": expected a token id, a whole number from 0 to 2^31 - 2");
  return value.get<int32_t>();
}

/// At most 60 characters of text from a file, for a message.
inline std::string shorten(const std::string& text) {
  constexpr size_t kEnough = 60;
  if (text.size() <= kEnough) return text;
  size_t end = kEnough;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

}  // namespace flexprefill::runtime
