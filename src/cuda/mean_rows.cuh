#pragma once

// Mean of some rows of a tensor, by a whole block of threads.

#include "cuda/probe_tile.cuh"

namespace flexprefill::internal::cuda {

struct AsIs {
  __device__ float operator()(float value) const { return value; }
};

// mean[c] = mean over rows [0, rows) of convert(channel c); row(r) is a row's address. `parts` is
// shared memory of 8 * kThreads floats. Ends with a barrier. Rows are summed in a fixed order.
template <int kThreads, typename Row, typename Convert>
__device__ void mean_rows(int32_t rows, int32_t head_dim, bool aligned, bool is_f16, const Row& row,
                          const Convert& convert, float* parts, float* mean) {
  const int32_t chunks = (head_dim + 7) / 8, groups = kThreads / chunks;
  const int32_t chunk = static_cast<int32_t>(threadIdx.x) % chunks;
  const int32_t group = static_cast<int32_t>(threadIdx.x) / chunks;
  float sums[8] = {};
  if (group < groups) {
#pragma unroll 4
    for (int32_t r = group; r < rows; r += groups) {
      alignas(16) uint16_t values[8];
      load_channels(row(r), chunk, head_dim, aligned, values);
#pragma unroll
      for (int c = 0; c < 8; c += 2) {
        const uint32_t pair = values[c] | static_cast<uint32_t>(values[c + 1]) << 16;
        const float2 value = is_f16 ? to_float2<__half>(pair) : to_float2<__nv_bfloat16>(pair);
        sums[c] += convert(value.x);
        sums[c + 1] += convert(value.y);
      }
    }
#pragma unroll
    for (int c = 0; c < 8; ++c) parts[(group * chunks + chunk) * 8 + c] = sums[c];
  }
  __syncthreads();
  const float count = static_cast<float>(rows > 0 ? rows : 1);
  for (int32_t c = static_cast<int32_t>(threadIdx.x); c < head_dim; c += kThreads) {
    float sum = 0.0f;
    for (int32_t n = 0; n < groups; ++n) sum += parts[n * chunks * 8 + c];
    mean[c] = sum / count;
  }
  __syncthreads();
}

// The same by one warp without shared memory: [head_dim] to mean[c * stride]. Many loads in flight
// and no barrier, for callers with a row of means per warp.
template <typename Row, typename Convert>
__device__ void warp_mean_rows(int32_t rows, int32_t head_dim, bool aligned, bool is_f16,
                               const Row& row, const Convert& convert, float* mean,
                               int32_t stride) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t chunks = (head_dim + 7) / 8, groups = 32 / chunks;
  const int32_t chunk = lane % chunks, group = lane / chunks;
  float sums[8] = {};
#pragma unroll 8
  for (int32_t r = group; r < rows; r += groups) {
    alignas(16) uint16_t values[8] = {};
    if (group < groups) load_channels(row(r), chunk, head_dim, aligned, values);
#pragma unroll
    for (int c = 0; c < 8; c += 2) {
      const uint32_t pair = values[c] | static_cast<uint32_t>(values[c + 1]) << 16;
      const float2 value = is_f16 ? to_float2<__half>(pair) : to_float2<__nv_bfloat16>(pair);
      sums[c] += convert(value.x);
      sums[c + 1] += convert(value.y);
    }
  }
  __syncwarp();
  const float count = static_cast<float>(rows > 0 ? rows : 1);
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    float sum = 0.0f;
    for (int32_t n = 0; n < groups; ++n) sum += __shfl_sync(~0u, sums[c], chunk + n * chunks);
    if (group == 0 && 8 * chunk + c < head_dim) mean[(8 * chunk + c) * stride] = sum / count;
  }
}

}  // namespace flexprefill::internal::cuda
