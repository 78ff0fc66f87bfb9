#include "cuda/tensor_map.h"

#include <cudaTypedefs.h>

#include <algorithm>
#include <array>

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

struct Dimension {
  int64_t extent, stride;  // elements
  int32_t box;
};

CUtensorMap encode(const HeadView& view, const BoxShape& box,
                   const std::array<Dimension, 5>& dimensions) {
  const int64_t element_bytes = dtype_bytes(view.dtype);
  cuuint64_t extents[5], strides[4];
  cuuint32_t boxes[5];
  for (size_t d = 0; d < 5; ++d) {
    const auto& [extent, stride, box_extent] = dimensions[d];
    extents[d] = static_cast<cuuint64_t>(extent);
    boxes[d] = static_cast<cuuint32_t>(box_extent);
    // The stride of a dimension of one element is never used, but has to be a legal one.
    if (d > 0) strides[d - 1] = static_cast<cuuint64_t>(extent > 1 ? stride * element_bytes : 16);
  }
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode_function()(&map,
                        view.dtype == DType::kF16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                  : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                        5, view.data, extents, strides, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                        box.panel == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw Error("cuTensorMapEncodeTiled failed: CUresult " + std::to_string(result));
  }
  return map;
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
  const int64_t panels = view.head_dim / box.panel;
  return encode(view, box,
                {{{box.panel, 1, box.panel},
                  {std::max<int64_t>(view.tokens, 1), view.token_stride, box.rows},
                  {panels, box.panel, box.panels},
                  {view.heads, view.head_stride, 1},
                  {pages, page_stride, 1}}});
}

CUtensorMap grouped_map(const HeadView& view, const BoxShape& box) {
  constexpr int64_t kAnyGroups = int64_t{1} << 31;  // the size of the pool is not known
  const int64_t panels = view.head_dim / box.panel;
  return encode(view, box,
                {{{box.panel, 1, box.panel},
                  {8, view.token_stride, 8},
                  {panels, box.panel, box.panels},
                  {kAnyGroups, 8 * view.token_stride, box.rows / 8},
                  {view.heads, view.head_stride, 1}}});
}

}  // namespace flexprefill::internal::cuda
