#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace flexprefill {

/// Element type of a tensor. The 8-bit types are reserved: backends refuse them by name today.
enum class DType : uint8_t { kF32, kF16, kBF16, kF8E4M3, kF8E5M2, kI8 };

/// Size of one element in bytes; 0 for a value outside the enum.
constexpr int dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF32: return 4;
    case DType::kF16:
    case DType::kBF16: return 2;
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kI8: return 1;
  }
  return 0;
}

/// Name of a type as the command line and the error messages write it: f32, f16, bf16, ...
constexpr std::string_view to_string(DType dtype) {
  switch (dtype) {
    case DType::kF32: return "f32";
    case DType::kF16: return "f16";
    case DType::kBF16: return "bf16";
    case DType::kF8E4M3: return "f8_e4m3";
    case DType::kF8E5M2: return "f8_e5m2";
    case DType::kI8: return "i8";
  }
  return "unknown";
}

enum class DeviceType : uint8_t { kCpu, kCuda };

/// Where the memory of a tensor lies.
struct Device {
  DeviceType type = DeviceType::kCpu;
  int32_t index = 0;  // number of the CUDA device; 0 for the CPU

  friend constexpr bool operator==(const Device&, const Device&) = default;
};

/// A view of [tokens, heads, head_dim]. Owns nothing; the library never writes through q, k or v.
/// Element (t, h, c) lies at data + t * token_stride + h * head_stride + c.
struct HeadView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  Device device;
  int64_t tokens = 0;
  int32_t heads = 0;
  int32_t head_dim = 0;          // 1 .. 256; contiguous in memory
  int64_t token_stride = 0;      // elements from one token to the next
  int64_t head_stride = 0;       // elements from one head to the next
  const float* scale = nullptr;  // [heads] dequantisation scale of the 8-bit types, or null
};

/// A view of a dense tensor [tokens, heads, head_dim] without gaps.
constexpr HeadView head_view(void* data, DType dtype, int64_t tokens, int32_t heads,
                             int32_t head_dim) {
  HeadView view;
  view.data = data;
  view.dtype = dtype;
  view.tokens = tokens;
  view.heads = heads;
  view.head_dim = head_dim;
  view.token_stride = static_cast<int64_t>(heads) * head_dim;
  view.head_stride = head_dim;
  return view;
}

/// Keys and values: contiguous, or pages with a block table.
struct KvView {
  HeadView k;  // [kv_len, kv_heads, k.head_dim]; with pages: tokens = page_size
  HeadView v;  // [kv_len, kv_heads, v.head_dim]; v.head_dim may differ from k.head_dim
  const int32_t* block_table =
      nullptr;               // [ceil(kv_len / page_size)] page numbers; null = contiguous
  int32_t page_size = 0;     // tokens per page; 0 = contiguous
  int64_t page_stride = 0;   // elements from one page to the next
  int64_t paged_kv_len = 0;  // tokens in use when paged; ignored when contiguous
};

/// Which kv head query head h reads when there are fewer kv heads than query heads.
enum class HeadGrouping : uint8_t {
  kBlocked,      // h / (heads / kv_heads): neighbours share, as in Llama
  kInterleaved,  // h % kv_heads
};

/// Attention of one sequence, or of one chunk of it:
///   out[t, h] = sum_n softmax_n(softmax_scale * q[t, h] . k[n, g]) v[n, g]
/// over the keys n <= q_start + t. A batch is a span of problems. The caller keeps every tensor
/// alive and unchanged until the call returns (CUDA: until the work on Context::stream is done).
struct AttentionProblem {
  HeadView q;    // [q_len, heads, k.head_dim]
  KvView kv;     // [kv_len, kv_heads, ...]; heads is a multiple of kv_heads
  HeadView out;  // [q_len, heads, v.head_dim]; may be left empty for plan()

  /// Position of the first query relative to the first key. Default kv_len - q_len: the queries are
  /// the last tokens. kv may lie wholly in the past (q_start >= kv_len): partial results are merged
  /// by their log-sum-exp. Rows that see no key give output 0 and log-sum-exp -inf.
  std::optional<int64_t> q_start;

  std::optional<float> softmax_scale;  // finite and > 0; default 1 / sqrt(k.head_dim)
  float* lse = nullptr;  // [heads, q_len] natural log-sum-exp of the scaled scores, or null

  /// True lengths, read on the device when the work runs: q.tokens and the kv tokens are then upper
  /// bounds, tensors keep the strides of the bounds, and rows of out and lse past the true q_len
  /// stay untouched. Without q_start, the queries are the last tokens of the true lengths.
  const int32_t* q_len_device = nullptr;
  const int32_t* kv_len_device = nullptr;

  bool causal = true;
  int64_t window = 0;            // 0 = no sliding window
  float softcap = 0.0f;          // 0 = none; else scores become softcap * tanh(score / softcap)
  const float* sinks = nullptr;  // [heads] extra logit in the softmax's denominator, or null
  const float* alibi_slopes = nullptr;  // [heads], or null
  HeadGrouping grouping = HeadGrouping::kBlocked;
};

/// Keys of a problem (an upper bound where kv_len_device is given).
constexpr int64_t kv_len(const AttentionProblem& problem) {
  return problem.kv.page_size > 0 ? problem.kv.paged_kv_len : problem.kv.k.tokens;
}

/// Position of the first query relative to the first key, the default filled in.
constexpr int64_t q_start(const AttentionProblem& problem) {
  return problem.q_start.value_or(kv_len(problem) - problem.q.tokens);
}

/// The kv head that query head h reads.
constexpr int32_t kv_head(const AttentionProblem& problem, int32_t h) {
  const int32_t kv_heads = problem.kv.k.heads;
  return problem.grouping == HeadGrouping::kBlocked ? h / (problem.q.heads / kv_heads)
                                                    : h % kv_heads;
}

}  // namespace flexprefill
