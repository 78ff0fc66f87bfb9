#include <algorithm>

#include "flexprefill/error.h"
#include "runtime/json_fields.h"
#include "runtime/json_file.h"
#include "runtime/safetensors.h"

namespace flexprefill::runtime {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";

// A file name and nothing else: an index must not reach outside its folder.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

const json& weight_map(const json& index, const std::string& path) {
  const auto it = index.is_object() ? index.find("weight_map") : index.end();
  if (it == index.end() || !it->is_object())
    throw Error(path + ": no object \"weight_map\"; not an index of safetensors shards");
  return *it;
}

[[noreturn]] void no_weights(const fs::path& folder) {
  std::string text = folder.string() + ": neither " + kSingle + " nor " + kIndex + " in it";
  std::error_code ignored;
  if (fs::exists(folder / "pytorch_model.bin", ignored) ||
      fs::exists(folder / "pytorch_model.bin.index.json", ignored))
    text += "; it has pytorch_model.bin: save the model as safetensors first";
  else
    text += "; expected the folder of a Hugging Face model";
  throw Error(text);
}

}  // namespace

SafetensorsModel SafetensorsModel::open(const fs::path& path) {
  SafetensorsModel model;
  model.path_ = path;
  std::error_code ignored;
  const bool folder = fs::is_directory(path, ignored);
  if (!folder && !fs::exists(path, ignored))
    throw Error(path.string() + ": no such file or folder; expected a Hugging Face model folder");

  if (!folder || fs::exists(path / kSingle, ignored)) {
    model.files_.push_back(std::make_unique<SafetensorsFile>(folder ? path / kSingle : path));
    for (const TensorInfo& tensor : model.files_[0]->tensors())
      model.tensors_.emplace(tensor.name, &tensor);
    return model;
  }
  if (!fs::exists(path / kIndex, ignored)) no_weights(path);

  const fs::path index_path = path / kIndex;
  const json index = read_json_file(index_path);
  std::map<std::string, const SafetensorsFile*> shards;
  for (const auto& [name, shard] : weight_map(index, index_path.string()).items()) {
    const std::string where = index_path.string() + ": weight_map[\"" + shorten(name) + "\"]";
    if (!shard.is_string() || !is_plain_name(shard.get_ref<const std::string&>()))
      throw Error(where + " = " + shorten(shard.dump()) +
                  ", expected the name of a file in the same folder");
    const auto& shard_name = shard.get_ref<const std::string&>();
    const SafetensorsFile*& file = shards[shard_name];
    if (file == nullptr) {
      if (!fs::exists(path / shard_name, ignored))
        throw Error(where + " = \"" + shorten(shard_name) +
                    "\", but the folder has no such file; get the missing shard");
      model.files_.push_back(std::make_unique<SafetensorsFile>(path / shard_name));
      file = model.files_.back().get();
    }
    const TensorInfo* tensor = file->find(name);
    if (tensor == nullptr)
      throw Error(where + " = \"" + shorten(shard_name) +
                  "\", but that file has no such tensor; get the model's files again");
    model.tensors_.emplace(name, tensor);
  }
  return model;
}

const TensorInfo* SafetensorsModel::find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : it->second;
}

const TensorInfo& SafetensorsModel::at(std::string_view name) const {
  if (const TensorInfo* tensor = find(name)) return *tensor;
  throw Error(path_.string() + ": no tensor \"" + std::string(name) + "\" among its " +
              std::to_string(tensors_.size()) +
              "; the model's files are incomplete or of another architecture");
}

}  // namespace flexprefill::runtime
