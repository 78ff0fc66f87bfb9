// The safetensors format: 8 bytes little-endian header length, a JSON header, then the data.
// https://github.com/huggingface/safetensors#format. Nothing in the header is believed before it is
// checked against the size of the file.
#include "runtime/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>

#include "flexprefill/error.h"
#include "runtime/json_fields.h"
#include "runtime/json_file.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeaderBytes = 100'000'000;  // the reference implementation's limit
constexpr const char* kGetAgain = "; the file is damaged or incomplete, get it again";

struct TypeName {
  std::string_view name;
  TensorType type;
  size_t bytes;
};
constexpr std::array<TypeName, 16> kTypes = {{{"F32", TensorType::kF32, 4},
                                              {"F16", TensorType::kF16, 2},
                                              {"BF16", TensorType::kBF16, 2},
                                              {"U8", TensorType::kU8, 1},
                                              {"I32", TensorType::kI32, 4},
                                              {"I64", TensorType::kI64, 8},
                                              {"BOOL", TensorType::kBool, 1},
                                              {"I8", TensorType::kI8, 1},
                                              {"I16", TensorType::kI16, 2},
                                              {"U16", TensorType::kU16, 2},
                                              {"U32", TensorType::kU32, 4},
                                              {"U64", TensorType::kU64, 8},
                                              {"F64", TensorType::kF64, 8},
                                              {"F8_E4M3", TensorType::kF8E4M3, 1},
                                              {"F8_E5M2", TensorType::kF8E5M2, 1},
                                              {"F8_E8M0", TensorType::kF8E8M0, 1}}};

const TypeName& type_entry(TensorType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& e) { return e.type == type; });
}

uint64_t read_header_length(std::span<const std::byte> bytes) {  // the format is little-endian
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) length |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  return length;
}

// The header's bytes, or an Error that says which of its bounds is broken.
std::string_view header_text(std::span<const std::byte> bytes, const std::string& path) {
  if (bytes.size() < kLengthBytes)
    throw Error(path + ": " + std::to_string(bytes.size()) +
                " bytes, too short for a safetensors file" + kGetAgain);
  const uint64_t length = read_header_length(bytes);
  if (length > kMaxHeaderBytes || length > bytes.size() - kLengthBytes)
    throw Error(path + ": header of " + std::to_string(length) + " bytes, expected at most " +
                std::to_string(std::min(kMaxHeaderBytes, bytes.size() - kLengthBytes)) +
                "; not a safetensors file, or an incomplete one, get it again");
  const auto* text = reinterpret_cast<const char*>(bytes.data() + kLengthBytes);
  if (length == 0 || text[0] != '{')
    throw Error(path + ": header does not start with '{', not a safetensors file");
  return {text, static_cast<size_t>(length)};
}

const json& field(const json& entry, const char* key, const std::string& where) {
  const auto it = entry.find(key);
  if (it == entry.end()) throw Error(where + "has no \"" + key + "\"" + kGetAgain);
  return *it;
}

// `value` as a whole number that fits int64_t.
int64_t whole_number(const json& value, const std::string& what) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    throw Error(what + ", expected a whole number from 0 to 2^63 - 1" + kGetAgain);
  return value.get<int64_t>();
}

// Bytes of a tensor, or nothing if they do not fit 63 bits.
std::optional<int64_t> size_in_bytes(std::span<const int64_t> shape, TensorType type) {
  auto bytes = static_cast<int64_t>(type_bytes(type));
  for (const int64_t n : shape)
    if (__builtin_mul_overflow(bytes, n, &bytes)) return std::nullopt;
  return bytes;
}

TensorInfo parse_entry(const std::string& name, const json& entry, std::span<const std::byte> data,
                       const std::string& path) {
  const std::string where = path + ": tensor \"" + shorten(name) + "\" ";
  if (!entry.is_object()) throw Error(where + "is not described by an object" + kGetAgain);
  TensorInfo tensor;
  tensor.name = name;

  const json& type = field(entry, "dtype", where);
  if (!type.is_string()) throw Error(where + "has a dtype that is not a string" + kGetAgain);
  const auto& type_text = type.get_ref<const std::string&>();
  const auto* known = std::find_if(kTypes.begin(), kTypes.end(),
                                   [&](const auto& e) { return e.name == type_text; });
  if (known == kTypes.end())
    throw Error(where + "has dtype \"" + shorten(type_text) +
                "\", which is not supported; expected F32, F16 or BF16");
  tensor.type = known->type;

  const json& shape = field(entry, "shape", where);
  if (!shape.is_array()) throw Error(where + "has a shape that is not an array" + kGetAgain);
  for (const json& n : shape) tensor.shape.push_back(whole_number(n, where + "has a bad shape"));

  const json& offsets = field(entry, "data_offsets", where);
  if (!offsets.is_array() || offsets.size() != 2)
    throw Error(where + "has data_offsets that are not two numbers" + kGetAgain);
  const int64_t begin = whole_number(offsets[0], where + "has bad data_offsets");
  const int64_t end = whole_number(offsets[1], where + "has bad data_offsets");
  if (begin > end || static_cast<uint64_t>(end) > data.size())
    throw Error(where + "has data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) +
                "], expected an interval of the file's " + std::to_string(data.size()) +
                " bytes of data; the file is incomplete, get it again");
  const std::optional<int64_t> expected = size_in_bytes(tensor.shape, tensor.type);
  if (expected != end - begin)
    throw Error(where + "has " + std::to_string(end - begin) + " bytes of data, expected " +
                (expected ? std::to_string(*expected) : "more than 2^63") +
                " for its shape and dtype" + kGetAgain);
  tensor.data = data.data() + begin;
  tensor.bytes = static_cast<size_t>(end - begin);
  return tensor;
}

std::map<std::string, std::string> parse_metadata(const json& object, const std::string& path) {
  std::map<std::string, std::string> metadata;
  const bool strings = object.is_object() && std::all_of(object.begin(), object.end(),
                                                         [](auto& v) { return v.is_string(); });
  if (!strings) throw Error(path + ": __metadata__ is not an object of strings" + kGetAgain);
  for (const auto& [key, value] : object.items()) metadata[key] = value.template get<std::string>();
  return metadata;
}

}  // namespace

std::string_view to_string(TensorType type) { return type_entry(type).name; }

size_t type_bytes(TensorType type) { return type_entry(type).bytes; }

int64_t TensorInfo::elements() const { return static_cast<int64_t>(bytes / type_bytes(type)); }

std::string TensorInfo::describe() const {
  std::string text = name + ": " + std::string(to_string(type)) + " [";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string where = path.string();
  const std::string_view text = header_text(file_.bytes(), where);
  const json header = parse_json(text, where + ": header");
  const std::span<const std::byte> data = file_.bytes().subspan(kLengthBytes + text.size());
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__")
      metadata_ = parse_metadata(entry, where);
    else
      tensors_.push_back(parse_entry(name, entry, data, where));
  }

  // Empty tensors may share their offset with a neighbour: they come first.
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.data, a.bytes) < std::tie(b.data, b.bytes);
  });
  const std::byte* end = data.data();
  for (const TensorInfo& tensor : tensors_) {
    if (tensor.data != end)
      throw Error(where + ": tensor \"" + shorten(tensor.name) + "\" " +
                  (tensor.data < end ? "overlaps the one before it" : "leaves a hole before it") +
                  kGetAgain);
    end = tensor.data + tensor.bytes;
  }
  if (end != data.data() + data.size())
    throw Error(where + ": " + std::to_string(data.data() + data.size() - end) +
                " bytes after the last tensor" + kGetAgain);
  for (size_t i = 0; i < tensors_.size(); ++i) index_.emplace(tensors_[i].name, i);
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const TensorInfo& SafetensorsFile::at(std::string_view name) const {
  if (const TensorInfo* tensor = find(name)) return *tensor;
  std::string names;
  for (size_t i = 0; i < tensors_.size() && i < 8; ++i)
    names += (i > 0 ? ", " : "") + shorten(tensors_[i].name);
  if (tensors_.size() > 8) names += ", ...";
  throw Error(path().string() + ": no tensor \"" + std::string(name) + "\"; it has " +
              std::to_string(tensors_.size()) + (names.empty() ? "" : ": " + names));
}

}  // namespace flexprefill::runtime
