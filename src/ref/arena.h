#pragma once

// Hands out pieces of a scratch buffer. Over no buffer it only counts: the code that lays scratch
// out and the code that says how much is needed are then the same.

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

namespace flexprefill::internal {

class Arena {
 public:
  Arena() = default;
  explicit Arena(std::span<std::byte> buffer) : buffer_(buffer) {}

  // Uninitialised; empty when counting.
  template <typename T>
  std::span<T> take(int64_t count) {
    const size_t offset = used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    if (buffer_.data() == nullptr) return {};
    assert(used_ <= buffer_.size());
    return {reinterpret_cast<T*>(buffer_.data() + offset), static_cast<size_t>(count)};
  }

  size_t used_bytes() const { return used_; }

 private:
  static constexpr size_t kAlign = 64;  // a cache line: threads never share one

  std::span<std::byte> buffer_;
  size_t used_ = 0;
};

}  // namespace flexprefill::internal
