#pragma once

// Failed CUDA calls become flexprefill::Error that name the call.

#include <cuda_runtime_api.h>

#include <string>

#include "flexprefill/error.h"

namespace flexprefill::internal::cuda {

// check(cudaGetDevice(&device), "cudaGetDevice"). Errors of work that was launched earlier are the
// caller's to find: nothing here asks for them or clears them.
inline void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw Error(std::string(call) + " failed: " + cudaGetErrorName(status) + ", " +
                cudaGetErrorString(status));
  }
}

// Makes a device current for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (device != previous_) check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = device != previous_;
  }
  ~DeviceScope() {
    if (changed_) static_cast<void>(cudaSetDevice(previous_));
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

}  // namespace flexprefill::internal::cuda
