#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace flexprefill::runtime {

/// A whole file mapped read-only. Pages are read on first use and shared with other processes. The
/// file must not shrink while it is mapped (the system answers that with SIGBUS).
class MappedFile {
 public:
  /// Throws Error with the path and the system's reason if `path` is not a readable regular file.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;  // [size_]
  size_t size_ = 0;
};

}  // namespace flexprefill::runtime
