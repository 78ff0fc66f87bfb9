#pragma once

// Mean of some rows of a tensor, by a whole block of threads or by one warp.

#include "cuda/lanes.cuh"
#include "cuda/probe_tile.cuh"

namespace flexprefill::internal::cuda {

struct AsIs {
  __device__ float operator()(float value) const { return value; }
};

// Rows of a tensor of 16-bit elements: row(r) is the address of row r of `count`.
template <typename Row>
struct Rows {
  int32_t count, head_dim;
  bool aligned, is_f16;
  Row row;
};
template <typename Row>
Rows(int32_t, int32_t, bool, bool, Row) -> Rows<Row>;

// Adds convert(channels [8 chunk, 8 chunk + 8)) of rows first, first + step, ...
// kWhole: they can be read as 16 bytes. No branch then stands between the loads of a batch, so that
// all are under way before the first is used; one at a time, their latency is most of a mean.
template <bool kWhole, typename T, int kLoads, typename Row, typename Convert>
__device__ __forceinline__ void add_rows(const Rows<Row>& rows, int32_t first, int32_t step,
                                         int32_t chunk, const Convert& convert, float (&sums)[8]) {
  constexpr int kBatch = kWhole ? kLoads : 1;
#pragma unroll 1
  for (int32_t begin = first; begin < rows.count; begin += kBatch * step) {
    uint4 batch[kBatch] = {};
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int32_t r = begin + n * step;
      if constexpr (kWhole) {
        if (r < rows.count) batch[n] = *reinterpret_cast<const uint4*>(rows.row(r) + 8 * chunk);
      } else {
        alignas(16) uint16_t values[8];
        load_channels(rows.row(r), chunk, rows.head_dim, rows.aligned, values);
        batch[n] = *reinterpret_cast<const uint4*>(values);
      }
    }
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {  // rows past the last are zeros
      const uint32_t pairs[4] = {batch[n].x, batch[n].y, batch[n].z, batch[n].w};
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float2 value = to_float2<T>(pairs[c]);
        sums[2 * c] += convert(value.x);
        sums[2 * c + 1] += convert(value.y);
      }
    }
  }
}

template <int kLoads, typename Row, typename Convert>
__device__ __forceinline__ void add_rows(const Rows<Row>& rows, int32_t first, int32_t step,
                                         int32_t chunk, const Convert& convert, float (&sums)[8]) {
  const bool whole = rows.aligned && rows.head_dim % 8 == 0;
  if (whole && !rows.is_f16) {
    add_rows<true, __nv_bfloat16, kLoads>(rows, first, step, chunk, convert, sums);
  } else if (whole) {
    add_rows<true, __half, kLoads>(rows, first, step, chunk, convert, sums);
  } else if (!rows.is_f16) {
    add_rows<false, __nv_bfloat16, kLoads>(rows, first, step, chunk, convert, sums);
  } else {
    add_rows<false, __half, kLoads>(rows, first, step, chunk, convert, sums);
  }
}

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
    add_rows<8>(Rows{rows, head_dim, aligned, is_f16, row}, group, groups, chunk, convert, sums);
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

// The same by one warp without shared memory: [head_dim] to mean[c * stride]. kLoads rows in flight
// and no barrier, for callers with a row of means per warp.
template <int kLoads, typename Row, typename Convert>
__device__ __forceinline__ void warp_mean_rows(int32_t rows, int32_t head_dim, bool aligned,
                                               bool is_f16, const Row& row, const Convert& convert,
                                               float* mean, int32_t stride) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t chunks = (head_dim + 7) / 8, groups = 32 / chunks;
  const int32_t chunk = lane % chunks, group = lane / chunks;
  float sums[8] = {};
  if (group < groups) {
    add_rows<kLoads>(Rows{rows, head_dim, aligned, is_f16, row}, group, groups, chunk, convert,
                     sums);
  }
  __syncwarp();
  const float count = static_cast<float>(rows > 0 ? rows : 1);
#pragma unroll
  for (int c = 0; c < 8; ++c) {
    float sum = 0.0f;
    for (int32_t n = 0; n < groups; ++n) sum += __shfl_sync(kAllLanes, sums[c], chunk + n * chunks);
    if (group == 0 && 8 * chunk + c < head_dim) mean[(8 * chunk + c) * stride] = sum / count;
  }
}

}  // namespace flexprefill::internal::cuda
