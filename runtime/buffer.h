#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace flexprefill::runtime {

/// Page-aligned memory that the system hands out, zeroed, on first use: reserving much and using
/// little is free. Move-only.
class Buffer {
 public:
  Buffer() = default;
  /// Throws Error saying what the memory was for if the system refuses.
  Buffer(size_t bytes, const std::string& purpose);
  ~Buffer();
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;  // [bytes_]
  size_t bytes_ = 0;
};

}  // namespace flexprefill::runtime
