#pragma once

// Plans on the GPU from tensors on the host: copies them, calls plan_problems() of src/cuda, copies
// masks and reports back. For tests of the cuda backend's plan().

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/plan.h"
#include "flexprefill/flexprefill.h"
#include "tests/support/device_memory.h"
#include "tests/support/tensor.h"

namespace flexprefill::test {

// q and k of a problem on the GPU, with all that surrounds them on the host.
struct DeviceTensors {
  DeviceTensors(const AttentionProblem& host, const Tensor& q_tensor, const Tensor& k_tensor)
      : q(q_tensor.bytes()), k(k_tensor.bytes()), problem(host) {
    const auto move = [](HeadView& view, const Tensor& tensor, const DeviceMemory& memory) {
      view.data = memory.as<std::byte>() +
                  (static_cast<const std::byte*>(view.data) - tensor.bytes().data());
      view.device = {DeviceType::kCuda, 0};
    };
    move(problem.q, q_tensor, q);
    move(problem.kv.k, k_tensor, k);
  }

  DeviceMemory q, k;
  AttentionProblem problem;
};

struct DevicePlan {
  std::vector<BlockMask> masks;  // bits on the host
  std::vector<std::vector<uint64_t>> bits;
  std::vector<std::vector<HeadReport>> reports;
};

// Everything that plan() writes or uses is poisoned first.
inline DevicePlan device_plan(std::span<const AttentionProblem> problems,
                              std::span<const Policy> policies, int poison = 0xa5) {
  DevicePlan result;
  std::vector<DeviceMemory> bits, reports;
  std::vector<BlockMask> masks;
  std::vector<HeadReport*> report_pointers;
  for (const AttentionProblem& problem : problems) {
    BlockMask mask = block_grid(problem);
    bits.emplace_back(static_cast<size_t>(mask.num_words()) * 8, poison);
    reports.emplace_back(static_cast<size_t>(mask.heads) * sizeof(HeadReport), poison);
    mask.bits = bits.back().as<uint64_t>();
    masks.push_back(mask);
    report_pointers.push_back(reports.back().as<HeadReport>());
  }
  const size_t bytes = internal::cuda::plan_scratch_bytes(problems, policies);
  const size_t guard = 4096;
  const DeviceMemory scratch(bytes + guard, poison);
  internal::cuda::plan_problems(problems, policies, masks, report_pointers,
                                scratch.span().first(bytes), {});
  CHECK_CUDA(cudaDeviceSynchronize());
  const std::vector<unsigned char> after = scratch.to_host<unsigned char>();
  for (size_t n = bytes; n < after.size(); ++n) {
    if (after[n] != poison) throw std::runtime_error("written past the scratch");
  }
  for (size_t p = 0; p < problems.size(); ++p) {
    result.bits.push_back(bits[p].to_host<uint64_t>());
    result.reports.push_back(reports[p].to_host<HeadReport>());
  }
  result.masks = masks;
  for (size_t p = 0; p < problems.size(); ++p) result.masks[p].bits = result.bits[p].data();
  return result;
}

inline DevicePlan device_plan(const AttentionProblem& problem, const Policy& policy,
                              int poison = 0xa5) {
  return device_plan(std::span(&problem, 1), std::span(&policy, 1), poison);
}

}  // namespace flexprefill::test
