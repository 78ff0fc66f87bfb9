#include "tools/gpu.h"

#include <cuda_runtime_api.h>

#include <string>

#include "flexprefill/error.h"

namespace flexprefill::tools {
namespace {

void check(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    throw Error(std::string(call) + " failed: " + cudaGetErrorName(status) + ", " +
                cudaGetErrorString(status));
}

class Event {
 public:
  Event() { check(cudaEventCreate(&event_), "cudaEventCreate"); }
  ~Event() { static_cast<void>(cudaEventDestroy(event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record() { check(cudaEventRecord(event_, /*stream=*/nullptr), "cudaEventRecord"); }
  void wait() { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  double seconds_until(const Event& later) const {
    float milliseconds = 0.0f;
    check(cudaEventElapsedTime(&milliseconds, event_, later.event_), "cudaEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

bool built_with_cuda() { return true; }

void* gpu_allocate(size_t bytes) {
  void* data = nullptr;
  check(cudaSetDevice(0), "cudaSetDevice");
  check(cudaMalloc(&data, bytes), ("cudaMalloc of " + std::to_string(bytes) + " bytes").c_str());
  return data;
}

void gpu_copy(void* to, const void* from, size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyDefault), "cudaMemcpy");
}

void gpu_free(void* data) noexcept { static_cast<void>(cudaFree(data)); }

std::vector<double> gpu_seconds(std::span<const std::function<void()>> parts) {
  std::vector<Event> events(parts.size() + 1);
  for (const std::function<void()>& part : parts) part();
  events[0].record();
  for (size_t n = 0; n < parts.size(); ++n) {
    parts[n]();
    events[n + 1].record();
  }
  events.back().wait();
  std::vector<double> seconds;
  for (size_t n = 0; n < parts.size(); ++n)
    seconds.push_back(events[n].seconds_until(events[n + 1]));
  return seconds;
}

}  // namespace flexprefill::tools
