// The cuda backend: says what it can run, and sets the device for the calls below it.

#include "cuda/backend.h"

#include <algorithm>
#include <string>

#include "cuda/attend.h"
#include "cuda/check.h"
#include "cuda/plan.h"
#include "why_not.h"

namespace flexprefill::internal {
namespace {

// Why device `index` cannot run sm_90a code; empty = it can. Costs microseconds: the runtime keeps
// what it asks for.
std::string device_why_not(int index) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    return "there is no usable CUDA device (" +
           std::string(status == cudaSuccess ? "none found" : cudaGetErrorString(status)) + ")";
  }
  if (index >= count) return "there are " + std::to_string(count) + " CUDA devices";
  int major = 0, minor = 0;
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index),
              "cudaDeviceGetAttribute");
  cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index),
              "cudaDeviceGetAttribute");
  if (major != 9 || minor != 0) {
    return "its compute capability is " + std::to_string(major) + "." + std::to_string(minor) +
           ", and the kernels are for 9.0 (Hopper)";
  }
  return "";
}

std::string place_why_not(const AttentionProblem& problem) {
  if (problem.q.device.type != DeviceType::kCuda) return "q.device = cpu: it computes on the GPU";
  const std::string why = device_why_not(problem.q.device.index);
  return why.empty() ? ""
                     : "q.device = cuda:" + std::to_string(problem.q.device.index) + ": " + why;
}

std::string field_why_not(const AttentionProblem& problem, const AttendOptions& options) {
  if (std::string why = kind_why_not(problem); !why.empty()) return why;
  if (options.mean_correction) return "AttendOptions.mean_correction = true: it has none";
  if (options.accumulate_f64) {
    return "AttendOptions.accumulate_f64 = true: it accumulates in fp32";
  }
  return "";
}

class CudaBackend final : public Backend {
 public:
  std::string_view name() const override { return "cuda"; }

  std::string description() const override {
    const std::string why = device_why_not(0);
    if (!why.empty()) return "NVIDIA Hopper; not usable here: " + why;
    cudaDeviceProp properties;
    cuda::check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    return "NVIDIA Hopper: " + std::string(properties.name);
  }

  std::string why_not(const AttentionProblem& problem, std::span<const Policy> policies,
                      const AttendOptions& options) const override {
    std::string why = field_why_not(problem, options);
    if (why.empty()) why = place_why_not(problem);
    if (why.empty()) why = cuda::attend_why_not(problem);
    if (why.empty()) why = cuda::plan_why_not(problem, policies);
    return why.empty() ? "" : "cuda refuses " + why;
  }

  size_t scratch_bytes(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
                       int) const override {
    return std::max(cuda::attend_scratch_bytes(problems),
                    cuda::plan_scratch_bytes(problems, policies));
  }

  void plan(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
            std::span<const BlockMask> masks, std::span<HeadReport* const> reports,
            std::span<std::byte> scratch, const Context& context) const override {
    if (problems.empty()) return;
    const cuda::DeviceScope scope(problems[0].q.device.index);
    cuda::plan_problems(problems, policies, masks, reports, scratch, context);
  }

  void attend(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks,
              const AttendOptions&, std::span<std::byte> scratch,
              const Context& context) const override {
    if (problems.empty()) return;
    const cuda::DeviceScope scope(problems[0].q.device.index);
    cuda::attend_problems(problems, masks, scratch, context);
  }

  void read(void* host, const void* from, size_t bytes, const Context& context) const override {
    const auto stream = static_cast<cudaStream_t>(context.stream);
    cuda::check(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
    cuda::check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  }
};

}  // namespace

const Backend& cuda_backend() {
  static const CudaBackend backend;
  return backend;
}

}  // namespace flexprefill::internal
