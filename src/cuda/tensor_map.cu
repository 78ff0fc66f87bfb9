#include "cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include <algorithm>

#include "cuda/check.h"

namespace flexprefill::internal::cuda {
namespace {

constexpr int64_t kAlignment = 16;                        // bytes, of addresses and strides
constexpr int64_t kMaxStride = int64_t{1} << 40;          // bytes
constexpr int64_t kMaxTokens = (int64_t{1} << 31) - 512;  // coordinates are int32_t

// The driver's function, without linking libcuda.
PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const auto function = [] {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult result;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &address, 12000,
                                           cudaEnableDefault, &result),
          "cudaGetDriverEntryPointByVersion(cuTensorMapEncodeTiled)");
    if (result != cudaDriverEntryPointSuccess) {
      throw Error(
          "cudaGetDriverEntryPointByVersion(cuTensorMapEncodeTiled) failed: the driver "
          "is older than CUDA 12");
    }
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(address);
  }();
  return function;
}

std::string stride_why_not(const std::string& name, int64_t extent, int64_t stride,
                           int64_t element_bytes) {
  if (extent <= 1) return "";
  const int64_t bytes = stride * element_bytes;
  if (bytes > 0 && bytes % kAlignment == 0 && bytes < kMaxStride) return "";
  return name + " = " + std::to_string(stride) +
         ": it takes strides that are multiples of 16 bytes, from 16 bytes to below 1 TiB";
}

}  // namespace

std::string view_why_not(const std::string& name, const HeadView& view) {
  if (reinterpret_cast<uintptr_t>(view.data) % kAlignment != 0) {
    return name + ".data = " + std::to_string(reinterpret_cast<uintptr_t>(view.data)) +
           ": it takes addresses that are multiples of 16 bytes";
  }
  if (view.tokens > kMaxTokens) {
    return name + ".tokens = " + std::to_string(view.tokens) + ": it takes at most " +
           std::to_string(kMaxTokens);
  }
  const int64_t bytes = dtype_bytes(view.dtype);
  const std::string why =
      stride_why_not(name + ".token_stride", view.tokens, view.token_stride, bytes);
  return why.empty() ? stride_why_not(name + ".head_stride", view.heads, view.head_stride, bytes)
                     : why;
}

CUtensorMap tensor_map(const HeadView& view, const BoxShape& box, int64_t pages,
                       int64_t page_stride) {
  const auto element_bytes = static_cast<cuuint64_t>(dtype_bytes(view.dtype));
  const auto panels = static_cast<cuuint64_t>(view.head_dim / box.panel);
  // The stride of a dimension of one element is never used, but has to be a legal one.
  const auto stride = [&](int64_t extent, int64_t elements) {
    return extent > 1 ? static_cast<cuuint64_t>(elements) * element_bytes : cuuint64_t{16};
  };
  const cuuint64_t extents[5] = {static_cast<cuuint64_t>(box.panel),
                                 static_cast<cuuint64_t>(std::max<int64_t>(view.tokens, 1)), panels,
                                 static_cast<cuuint64_t>(view.heads),
                                 static_cast<cuuint64_t>(pages)};
  const cuuint64_t strides[4] = {stride(view.tokens, view.token_stride),
                                 static_cast<cuuint64_t>(box.panel) * element_bytes,
                                 stride(view.heads, view.head_stride), stride(pages, page_stride)};
  const cuuint32_t box_extents[5] = {static_cast<cuuint32_t>(box.panel),
                                     static_cast<cuuint32_t>(box.rows),
                                     static_cast<cuuint32_t>(box.panels), 1, 1};
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode_function()(
      &map,
      view.dtype == DType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      5, view.data, extents, strides, box_extents, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      box.panel == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw Error("cuTensorMapEncodeTiled failed: CUresult " + std::to_string(result));
  }
  return map;
}

}  // namespace flexprefill::internal::cuda
