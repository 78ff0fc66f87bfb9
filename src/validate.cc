#include "validate.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <string>

namespace flexprefill::internal {
namespace {

// Positions and token counts stay far from the end of int64_t, and block numbers inside int32_t.
constexpr int64_t kMaxTokens = int64_t{1} << 36;
constexpr int64_t kMaxStride = int64_t{1} << 46;
constexpr int64_t kMaxExtent = int64_t{1} << 47;  // elements; more than a process can address
constexpr int32_t kMaxHeads = 1 << 16;
constexpr int32_t kMaxHeadDim = 256;

template <typename T>
std::string str(T value) {
  return std::to_string(value);
}

// The shortest digits that read back as the value: 1.0000001 is not 1.
std::string str(float value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof(text), value).ptr);
}

std::string str(Device device) {
  return (device.type == DeviceType::kCpu ? "cpu:" : "cuda:") + std::to_string(device.index);
}

template <typename Value>
[[noreturn]] void fail(const std::string& argument, Value value, const std::string& rule) {
  if constexpr (std::is_convertible_v<Value, std::string>) {
    throw Error(argument + " = " + std::string(value) + ", expected " + rule);
  } else {
    throw Error(argument + " = " + str(value) + ", expected " + rule);
  }
}

template <typename T>
void check_range(const std::string& argument, T value, T low, T high) {
  if (value < low || value > high) fail(argument, value, "[" + str(low) + ", " + str(high) + "]");
}

// Offsets of elements, t * token_stride + h * head_stride + c, must not overflow.
void check_extent(const std::string& name, const HeadView& view) {
  int64_t extent = 0;
  const bool overflows = __builtin_mul_overflow(view.tokens, view.token_stride, &extent);
  if (overflows || extent > kMaxExtent || view.heads * view.head_stride > kMaxExtent) {
    fail(name + ".token_stride, head_stride", str(view.token_stride) + ", " + str(view.head_stride),
         "a view of at most " + str(kMaxExtent) + " elements");
  }
}

void check_view(const std::string& name, const HeadView& view, bool needs_data) {
  if (dtype_bytes(view.dtype) == 0) {
    fail(name + ".dtype", static_cast<int>(view.dtype), "a DType");
  }
  if (view.device.type != DeviceType::kCpu && view.device.type != DeviceType::kCuda) {
    fail(name + ".device.type", static_cast<int>(view.device.type), "a DeviceType");
  }
  if (view.device.index < 0) fail(name + ".device.index", view.device.index, "0 or more");
  check_range<int64_t>(name + ".tokens", view.tokens, 0, kMaxTokens);
  check_range<int32_t>(name + ".heads", view.heads, 1, kMaxHeads);
  check_range<int32_t>(name + ".head_dim", view.head_dim, 1, kMaxHeadDim);
  // Strides may make heads or tokens overlap in inputs (a broadcast), never run backwards.
  check_range<int64_t>(name + ".token_stride", view.token_stride, 0, kMaxStride);
  check_range<int64_t>(name + ".head_stride", view.head_stride, 0, kMaxStride);
  check_extent(name, view);
  if (needs_data && view.tokens > 0 && view.data == nullptr)
    fail(name + ".data", "null", "a pointer");
  if (view.data != nullptr &&
      reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(dtype_bytes(view.dtype)) !=
          0) {
    fail(name + ".data", str(reinterpret_cast<uintptr_t>(view.data)),
         "an address that is a multiple of " + str(dtype_bytes(view.dtype)));
  }
}

void check_same(const std::string& argument, int64_t value, const std::string& other,
                int64_t expected) {
  if (value != expected) fail(argument, value, other + " = " + str(expected));
}

void check_same_device(const std::string& argument, Device device, Device expected) {
  if (device != expected) fail(argument + ".device", str(device), "q.device = " + str(expected));
}

// Rows of the output must not overlap: two threads would write the same element.
void check_out(const std::string& name, const AttentionProblem& problem) {
  const HeadView& out = problem.out;
  check_view(name, out, /*needs_data=*/problem.q.tokens > 0);
  check_same(name + ".tokens", out.tokens, "q.tokens", problem.q.tokens);
  check_same(name + ".heads", out.heads, "q.heads", problem.q.heads);
  check_same(name + ".head_dim", out.head_dim, "v.head_dim", problem.kv.v.head_dim);
  check_same_device(name, out.device, problem.q.device);
  if (out.dtype != DType::kF32 && out.dtype != DType::kF16 && out.dtype != DType::kBF16) {
    fail(name + ".dtype", std::string(to_string(out.dtype)), "f32, f16 or bf16");
  }
  // [tokens, heads, head_dim] or [heads, tokens, head_dim] in memory, with gaps allowed.
  const bool heads_inside =
      (out.heads == 1 || out.head_stride >= out.head_dim) &&
      (out.tokens <= 1 || out.token_stride >= (out.heads - 1) * out.head_stride + out.head_dim);
  const bool tokens_inside =
      (out.tokens <= 1 || out.token_stride >= out.head_dim) &&
      (out.heads == 1 || out.head_stride >= (out.tokens - 1) * out.token_stride + out.head_dim);
  if (!heads_inside && !tokens_inside) {
    fail(name + ".token_stride, head_stride", str(out.token_stride) + ", " + str(out.head_stride),
         "strides that keep the elements of the output apart");
  }
}

void check_kv(const std::string& at, const AttentionProblem& problem) {
  const KvView& kv = problem.kv;
  check_view(at + "kv.k", kv.k, /*needs_data=*/true);
  check_view(at + "kv.v", kv.v, /*needs_data=*/true);
  check_same_device(at + "kv.k", kv.k.device, problem.q.device);
  check_same_device(at + "kv.v", kv.v.device, problem.q.device);
  check_same(at + "kv.k.head_dim", kv.k.head_dim, "q.head_dim", problem.q.head_dim);
  check_same(at + "kv.v.heads", kv.v.heads, "kv.k.heads", kv.k.heads);
  check_same(at + "kv.v.tokens", kv.v.tokens, "kv.k.tokens", kv.k.tokens);
  if (kv.k.dtype != kv.v.dtype) {
    fail(at + "kv.v.dtype", std::string(to_string(kv.v.dtype)),
         "kv.k.dtype = " + std::string(to_string(kv.k.dtype)));
  }
  if (problem.q.heads % kv.k.heads != 0) {
    fail(at + "q.heads", problem.q.heads, "a multiple of kv.k.heads = " + str(kv.k.heads));
  }
  if (kv.page_size < 0) fail(at + "kv.page_size", kv.page_size, "0 (contiguous) or more");
  if (kv.page_size == 0) {
    if (kv.block_table != nullptr) fail(at + "kv.block_table", "set", "null when kv.page_size = 0");
    return;
  }
  check_range<int64_t>(at + "kv.paged_kv_len", kv.paged_kv_len, 0, kMaxTokens);
  check_same(at + "kv.k.tokens", kv.k.tokens, "kv.page_size", kv.page_size);
  if (kv.block_table == nullptr && kv.paged_kv_len > 0) {
    fail(at + "kv.block_table", "null", "a pointer when kv.page_size > 0");
  }
}

void check_flexprefill(const FlexPrefill& policy) {
  // Written so that NaN fails.
  if (!(policy.gamma > 0.0f && policy.gamma <= 1.0f)) {
    fail("FlexPrefill.gamma", policy.gamma, "(0, 1]");
  }
  if (!(policy.tau >= 0.0f && policy.tau <= 1.0f)) fail("FlexPrefill.tau", policy.tau, "[0, 1]");
  check_range<int64_t>("FlexPrefill.min_budget", policy.min_budget, 0, kMaxTokens);
  if (policy.max_budget) {
    check_range<int64_t>("FlexPrefill.max_budget", *policy.max_budget, 1, kMaxTokens);
  }
  if (policy.rule != Rule::kOfficial && policy.rule != Rule::kCoverage) {
    fail("FlexPrefill.rule", static_cast<int>(policy.rule), "a Rule");
  }
}

void check_policy(const Policy& policy) {
  if (policy.valueless_by_exception()) throw Error("policy = valueless, expected a Policy");
  if (const auto* shape = std::get_if<AShape>(&policy)) {
    check_range<int64_t>("AShape.sink_tokens", shape->sink_tokens, 0, kMaxTokens);
    check_range<int64_t>("AShape.local_tokens", shape->local_tokens, 1, kMaxTokens);
  }
  if (const auto* flex = std::get_if<FlexPrefill>(&policy)) check_flexprefill(*flex);
}

}  // namespace

void check_problem(const AttentionProblem& problem, size_t index, CallKind kind) {
  const std::string at = "problems[" + std::to_string(index) + "].";
  check_view(at + "q", problem.q, /*needs_data=*/true);
  check_kv(at, problem);
  if (problem.q_start)
    check_range<int64_t>(at + "q_start", *problem.q_start, -kMaxTokens, kMaxTokens);
  if (!problem.q_start && problem.q.tokens > kv_len(problem)) {
    fail(at + "q.tokens", problem.q.tokens,
         "at most kv_len = " + str(kv_len(problem)) + " unless q_start is given");
  }
  if (problem.softmax_scale &&
      !(*problem.softmax_scale > 0.0f && std::isfinite(*problem.softmax_scale))) {
    fail(at + "softmax_scale", *problem.softmax_scale, "a finite number > 0");
  }
  if (problem.window < 0) fail(at + "window", problem.window, "0 (none) or more");
  if (!(problem.softcap >= 0.0f && std::isfinite(problem.softcap))) {
    fail(at + "softcap", problem.softcap, "0 (none) or a finite number > 0");
  }
  if (problem.grouping != HeadGrouping::kBlocked &&
      problem.grouping != HeadGrouping::kInterleaved) {
    fail(at + "grouping", static_cast<int>(problem.grouping), "a HeadGrouping");
  }
  if (kind == CallKind::kAttend) check_out(at + "out", problem);
}

void check_policies(std::span<const AttentionProblem> problems, std::span<const Policy> policies) {
  if (policies.empty()) throw Error("policies = empty, expected one policy, or one per query head");
  for (const Policy& policy : policies) check_policy(policy);
  if (policies.size() == 1) return;
  for (size_t p = 0; p < problems.size(); ++p) {
    if (policies.size() != static_cast<size_t>(problems[p].q.heads)) {
      fail("policies.size()", policies.size(),
           "1 or problems[" + std::to_string(p) + "].q.heads = " + str(problems[p].q.heads));
    }
  }
}

void check_mask(const AttentionProblem& problem, const BlockMask& mask, size_t index) {
  const std::string at = "masks[" + std::to_string(index) + "].";
  const BlockMask grid = block_grid(problem);
  check_same(at + "heads", mask.heads, "q.heads", grid.heads);
  check_same(at + "q_block", mask.q_block, "kBlock", kBlock);
  check_same(at + "k_block", mask.k_block, "kBlock", kBlock);
  check_same(at + "q_blocks", mask.q_blocks, "block_grid(problem).q_blocks", grid.q_blocks);
  check_same(at + "k_blocks", mask.k_blocks, "block_grid(problem).k_blocks", grid.k_blocks);
  check_same(at + "first_q_block", mask.first_q_block, "floor(q_start / 128)", grid.first_q_block);
}

void check_context(const Context& context) {
  if (context.threads < 0 || context.threads > 4096) {
    fail("Context.threads", context.threads, "[0, 4096]");
  }
}

}  // namespace flexprefill::internal
