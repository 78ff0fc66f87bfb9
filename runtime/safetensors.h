#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/mapped_file.h"

namespace flexprefill::runtime {

/// Element types of the safetensors format. The runtime computes with the first six.
enum class TensorType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kU8,
  kI32,
  kI64,
  kBool,
  kI8,
  kI16,
  kU16,
  kU32,
  kU64,
  kF64,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
};

/// The name used in the file: F32, BF16, ...
std::string_view to_string(TensorType type);
/// Size of one element.
size_t type_bytes(TensorType type);

/// One tensor of a file, dense, slowest dimension first. `data` points into the mapping: read-only,
/// valid as long as the file object, and *not necessarily aligned* to the element (the format puts
/// no rule on the header's length): copy with memcpy, or test the address before a typed access.
struct TensorInfo {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;       // each >= 0; empty for a scalar
  const std::byte* data = nullptr;  // [bytes]
  size_t bytes = 0;                 // elements() * type_bytes(type)

  int64_t elements() const;
  /// For messages: `model.norm.weight: BF16 [384]`.
  std::string describe() const;
};

/// One safetensors file, memory-mapped. Everything the header says is checked when it is opened:
/// tensors lie inside the file, cover it without holes or overlaps, and have the size that their
/// shape and type give. Immutable afterwards, so any number of threads may read.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  /// In the order of their data.
  std::span<const TensorInfo> tensors() const { return tensors_; }
  /// Null if there is none of that name.
  const TensorInfo* find(std::string_view name) const;
  /// Throws Error naming the file, the tensor and what the file has instead.
  const TensorInfo& at(std::string_view name) const;
  /// The free-form `__metadata__` object.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

/// The tensors of a model folder: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names.
class SafetensorsModel {
 public:
  /// `path` is the folder, or one .safetensors file. Throws Error naming what is missing.
  static SafetensorsModel open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const TensorInfo* find(std::string_view name) const;
  const TensorInfo& at(std::string_view name) const;
  /// Every tensor, by name.
  const std::map<std::string, const TensorInfo*, std::less<>>& tensors() const { return tensors_; }

 private:
  std::filesystem::path path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const TensorInfo*, std::less<>> tensors_;
};

/// A tensor to be written; `data` holds elements * type_bytes bytes in the caller's memory.
struct TensorToWrite {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

/// The passing name of the file that write_safetensors() of this process writes for `path`, which
/// is no symbolic link: what is left of an interrupted write.
std::filesystem::path partial_path(const std::filesystem::path& path);

/// Writes a new file beside `path` and renames it over it, so that `path` holds either what it held
/// before or the whole new file. Data starts 64-byte aligned. Throws Error with the system's
/// reason.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorToWrite> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace flexprefill::runtime
