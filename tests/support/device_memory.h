#pragma once

// Memory of the current GPU that frees itself. For tests and bench/, in builds with CUDA.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "cuda/check.h"

// Throws an Error that names the call.
#define CHECK_CUDA(call) ::flexprefill::internal::cuda::check(call, #call)

namespace flexprefill::test {

class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) : bytes_(bytes) {  // not initialised
    void* data = nullptr;
    CHECK_CUDA(cudaMalloc(&data, std::max<size_t>(bytes, 1)));
    data_.reset(data);
  }
  // Every byte is `poison`, for all streams.
  DeviceMemory(size_t bytes, int poison) : DeviceMemory(bytes) {
    CHECK_CUDA(cudaMemset(data(), poison, bytes));
    CHECK_CUDA(cudaDeviceSynchronize());
  }
  explicit DeviceMemory(std::span<const std::byte> host) : DeviceMemory(host.size()) {
    CHECK_CUDA(cudaMemcpy(data(), host.data(), host.size(), cudaMemcpyHostToDevice));
  }

  void* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data());
  }
  std::span<std::byte> span() const { return {as<std::byte>(), bytes_}; }

  template <typename T>
  std::vector<T> to_host() const {
    std::vector<T> host(bytes_ / sizeof(T));
    CHECK_CUDA(cudaMemcpy(host.data(), data(), host.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  struct Free {
    void operator()(void* data) const { static_cast<void>(cudaFree(data)); }
  };
  std::unique_ptr<void, Free> data_;
  size_t bytes_;
};

}  // namespace flexprefill::test
