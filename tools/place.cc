#include "tools/place.h"

#include <chrono>

namespace flexprefill::tools {
namespace {

size_t bytes_of(const HeadView& view) {
  return static_cast<size_t>(view.tokens * view.token_stride * dtype_bytes(view.dtype));
}

size_t lse_bytes(const AttentionProblem& problem) {
  return static_cast<size_t>(problem.q.tokens * problem.q.heads) * sizeof(float);
}

}  // namespace

bool on_gpu(const Backend* backend) { return backend != nullptr && backend->name() == "cuda"; }

AttentionProblem one_token_problem(Device device) {
  alignas(16) static std::byte memory[128] = {};
  AttentionProblem problem;
  problem.q = head_view(memory, DType::kBF16, /*tokens=*/1, /*heads=*/1, /*head_dim=*/64);
  problem.q.device = device;
  problem.kv.k = problem.kv.v = problem.out = problem.q;
  return problem;
}

std::string gpu_why_not(const Backend& backend) {
  const Policy policy = Dense{};
  return backend.why_not(one_token_problem(kFirstGpu), std::span(&policy, 1), {});
}

Memory::Memory(size_t bytes, const Backend* backend) : bytes_(bytes) {
  if (on_gpu(backend)) {
    gpu_.reset(gpu_allocate(bytes));
  } else {
    host_.resize(bytes);
  }
}

Workspace::Workspace(const AttentionProblem& problem, const Policy& policy, const Context& base)
    : memory_(workspace_bytes(problem, policy, base), base.backend), context_(base) {
  context_.workspace = memory_.data();
  context_.workspace_bytes = memory_.bytes();
}

PlacedProblem::PlacedProblem(const AttentionProblem& host, const Backend* backend)
    : host_(host), placed_(host) {
  if (!on_gpu(backend)) return;
  const auto add = [&](size_t bytes) {
    copies_.emplace_back(bytes, backend);
    return copies_.back().data();
  };
  for (HeadView* view : {&placed_.q, &placed_.kv.k, &placed_.kv.v, &placed_.out}) {
    const void* const from = view->data;
    view->device = kFirstGpu;
    view->data = add(bytes_of(*view));
    if (view != &placed_.out) gpu_copy(view->data, from, bytes_of(*view));
  }
  if (placed_.lse != nullptr) placed_.lse = static_cast<float*>(add(lse_bytes(host)));
}

void PlacedProblem::fetch_results() const {
  if (copies_.empty()) return;
  gpu_copy(host_.out.data, placed_.out.data, bytes_of(host_.out));
  if (host_.lse != nullptr) gpu_copy(host_.lse, placed_.lse, lse_bytes(host_));
}

BlockMask placed_mask(const BlockMask& host, const Backend* backend, Memory& memory) {
  if (host.bits == nullptr || !on_gpu(backend)) return host;
  memory = Memory(static_cast<size_t>(host.num_words()) * sizeof(uint64_t), backend);
  gpu_copy(memory.data(), host.bits, memory.bytes());
  BlockMask mask = host;
  mask.bits = static_cast<uint64_t*>(memory.data());
  return mask;
}

BlockMask host_mask(const Plan& plan, const Context& context, std::vector<uint64_t>& bits) {
  bits = read_bits(plan, /*p=*/0, context);
  BlockMask mask = plan.masks[0];
  mask.bits = bits.data();
  return mask;
}

std::vector<double> seconds_of_parts(const Backend* backend,
                                     std::span<const std::function<void()>> parts) {
  if (on_gpu(backend)) return gpu_seconds(parts);
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds;
  for (const std::function<void()>& part : parts) {
    const Clock::time_point start = Clock::now();
    part();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  return seconds;
}

}  // namespace flexprefill::tools
