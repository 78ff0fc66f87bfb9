#pragma once

// Where a command's tensors lie and how its work is timed: host memory and a host clock for ref and
// cpu, the first GPU's for cuda.

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "flexprefill/flexprefill.h"
#include "tools/gpu.h"

namespace flexprefill::tools {

inline constexpr Device kFirstGpu = {DeviceType::kCuda, 0};

// A problem that every backend takes on its own kind of device, to ask what it thinks of options:
// its tensors must not be read.
AttentionProblem one_token_problem(Device device);

// Whether the backend takes tensors in a GPU's memory. Null, the choice of the library, does not:
// the commands' own tensors are in host memory.
bool on_gpu(const Backend* backend);

// Why this machine cannot run a backend that computes on the GPU; empty = it can.
std::string gpu_why_not(const Backend& backend);

// Bytes where the backend computes, not initialised on the GPU. The tests' DeviceMemory is none of
// this: it is the GPU's alone, and needs CUDA's headers, which programs built without it lack.
class Memory {
 public:
  Memory() = default;
  Memory(size_t bytes, const Backend* backend);

  void* data() { return gpu_ ? gpu_.get() : host_.data(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* data) const { gpu_free(data); }
  };
  size_t bytes_ = 0;
  std::vector<std::byte> host_;
  std::unique_ptr<void, Free> gpu_;
};

// A workspace for plan() and attend() of one problem, and the context that names it.
class Workspace {
 public:
  Workspace(const AttentionProblem& problem, const Policy& policy, const Context& base);
  const Context& context() const { return context_; }

 private:
  Memory memory_;
  Context context_;
};

// A problem in host memory as the backend takes it: itself, or a copy of its tensors on the GPU.
class PlacedProblem {
 public:
  PlacedProblem(const AttentionProblem& host, const Backend* backend);  // `host` must outlive it

  const AttentionProblem& problem() const { return placed_; }
  void fetch_results() const;  // out and lse, to where the host's problem wants them

 private:
  const AttentionProblem& host_;
  AttentionProblem placed_;
  std::vector<Memory> copies_;  // empty in host memory
};

// The same for a mask; `memory` gets the copy.
BlockMask placed_mask(const BlockMask& host, const Backend* backend, Memory& memory);

// The mask that a plan chose, its bits copied into `bits`.
BlockMask host_mask(const Plan& plan, const Context& context, std::vector<uint64_t>& bits);

// Seconds of each part of some work, which the backend does one after the other. On the GPU all
// parts run twice, once to warm up.
std::vector<double> seconds_of_parts(const Backend* backend,
                                     std::span<const std::function<void()>> parts);

}  // namespace flexprefill::tools
