#pragma once

// The teams of the device, see team.h.

#include <cstdint>
#include <cstring>

#include "cuda/lanes.cuh"
#include "cuda/team.h"

namespace flexprefill::internal::cuda {

template <typename T>
__device__ __forceinline__ T shuffle_xor(const T& value, int mask) {
  static_assert(sizeof(T) % 4 == 0);
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &value, sizeof(T));
#pragma unroll
  for (uint32_t& word : words) word = __shfl_xor_sync(kAllLanes, word, mask);
  T result;
  memcpy(&result, words, sizeof(T));
  return result;
}

// Every lane gets the same bits: addition is commutative.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}

// Fixed-point masses below 2^53 a lane, in two halves that do not overflow 32 bits.
__device__ __forceinline__ Tally warp_sum(const Tally& value) {
  const uint32_t low = __reduce_add_sync(kAllLanes, static_cast<uint32_t>(value.mass & 0x3ffffffu));
  const uint32_t high = __reduce_add_sync(kAllLanes, static_cast<uint32_t>(value.mass >> 26));
  return {(uint64_t{high} << 26) + low, __reduce_add_sync(kAllLanes, value.count)};
}

// Masses of one softmax: 2^31 in all, up to rounding.
__device__ __forceinline__ ShortTally warp_sum(const ShortTally& value) {
  return {__reduce_add_sync(kAllLanes, value.mass), __reduce_add_sync(kAllLanes, value.count)};
}

// By a warp: each lane decides two bits of the word.
template <typename Keeps, typename Store>
__device__ __forceinline__ void store_word(int32_t w, const Keeps& keeps, const Store& store) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const uint32_t low = __ballot_sync(kAllLanes, keeps(64 * w + lane));
  const uint32_t high = __ballot_sync(kAllLanes, keeps(64 * w + 32 + lane));
  if (lane == 0) store(w, uint64_t{high} << 32 | low);
}

// A score per lane, and the index it has in the list it comes from; key 0 = none. `kSorted`: the
// indices ascend.
template <typename AnyTally, bool kSorted>
struct LaneScores {
  int32_t index;
  uint32_t key;
  AnyTally tally;

  // The cut after the first of them, best first, that suffices with all before it and `above`; one
  // does. Every lane adds up what comes before its own score: no step waits for another.
  __device__ __forceinline__ Cut last_kept(const AnyTally& above, const CutRule& rule) const {
    const auto lane = static_cast<int32_t>(threadIdx.x % 32);
    AnyTally set = above;  // and the lane's own score, and those before it
#pragma unroll 8
    for (int32_t other = 0; other < 32; ++other) {
      const uint32_t its_key = __shfl_sync(kAllLanes, key, other);
      const bool wins_ties =
          kSorted ? other <= lane : __shfl_sync(kAllLanes, index, other) <= index;
      const AnyTally its_tally = {__shfl_sync(kAllLanes, tally.mass, other), 1};
      if (its_key >= key + (wins_ties ? 0 : 1)) set += its_tally;
    }
    const bool suffices = key != 0 && rule.suffices(set);
    const uint32_t fewest = __reduce_min_sync(kAllLanes, suffices ? set.count : ~0u);
    const uint32_t last = __ballot_sync(kAllLanes, suffices && set.count == fewest);
    const int32_t owner = __ffs(static_cast<int>(last)) - 1;
    return {__shfl_sync(kAllLanes, key, owner), __shfl_sync(kAllLanes, index, owner) + 1};
  }
};

struct WarpTeam {
  static constexpr int32_t kGathers = 32;
  int32_t* slots = nullptr;  // [32] in shared memory, for gather()

  template <typename Do>
  __device__ __forceinline__ void for_each(int32_t n, const Do& work) const {
    for (int32_t x = static_cast<int32_t>(threadIdx.x % 32); x < n; x += 32) work(x);
    __syncwarp();
  }

  template <typename Term>
  __device__ __forceinline__ auto sum(int32_t n, const Term& term) const {
    decltype(term(0)) total{};
#pragma unroll 4
    for (int32_t x = static_cast<int32_t>(threadIdx.x % 32); x < n; x += 32) total += term(x);
    return warp_sum(total);
  }

  // The scores whose keys lie in [low, high), at most 32, in their order; 0 elsewhere.
  template <typename Scores>
  __device__ __forceinline__ auto gather(int32_t n, const Scores& scores, uint32_t low,
                                         uint32_t high) const {
    using Result = LaneScores<decltype(scores.tally(0)), /*kSorted=*/true>;
    const auto lane = static_cast<int32_t>(threadIdx.x % 32);
    int32_t count = 0;
    for (int32_t first = 0; first < n; first += 32) {
      const int32_t x = first + lane;
      const bool wanted = x < n && scores.key(x) - low < high - low;
      const uint32_t all = __ballot_sync(kAllLanes, wanted);
      if (wanted) slots[count + __popc(all & ((1u << lane) - 1))] = x;
      count += __popc(all);
    }
    __syncwarp();
    if (lane >= count) return Result{};
    const int32_t x = slots[lane];
    return Result{x, scores.key(x), scores.tally(x)};
  }

  template <typename Keeps, typename Store>
  __device__ __forceinline__ void store_bits(int32_t words, const Keeps& keeps,
                                             const Store& store) const {
    for (int32_t w = 0; w < words; ++w) store_word(w, keeps, store);
    __syncwarp();
  }
};

// All threads of a block. `partial` is shared memory of kBytes.
struct CtaTeam {
  static constexpr int32_t kGathers = 32;
  static constexpr int kBytes = 2 * 32 * 16;
  unsigned char* partial;
  mutable int turn = 0;  // buffers alternate, so one barrier per sum is enough

  template <typename Do>
  __device__ __forceinline__ void for_each(int32_t n, const Do& work) const {
    for (int32_t x = static_cast<int32_t>(threadIdx.x); x < n;
         x += static_cast<int32_t>(blockDim.x)) {
      work(x);
    }
    __syncthreads();
  }

  template <typename Term>
  __device__ __forceinline__ auto sum(int32_t n, const Term& term) const {
    using T = decltype(term(0));
    static_assert(sizeof(T) <= 16);
    T total{};
    for (int32_t x = static_cast<int32_t>(threadIdx.x); x < n;
         x += static_cast<int32_t>(blockDim.x)) {
      total += term(x);
    }
    total = warp_sum(total);
    T* const sums = reinterpret_cast<T*>(partial + turn * 32 * 16);
    turn ^= 1;
    const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
    if (lane == 0) sums[warp] = total;
    __syncthreads();
    return warp_sum(lane < static_cast<int>(blockDim.x / 32) ? sums[lane] : T{});
  }

  // The scores whose keys lie in [low, high), at most 32, in any order: the same for every warp.
  template <typename Scores>
  __device__ __forceinline__ auto gather(int32_t n, const Scores& scores, uint32_t low,
                                         uint32_t high) const {
    using Result = LaneScores<decltype(scores.tally(0)), /*kSorted=*/false>;
    int32_t* const slots = reinterpret_cast<int32_t*>(partial + turn * 32 * 16);  // as in sum()
    int32_t& count = slots[32];
    turn ^= 1;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    for (int32_t x = static_cast<int32_t>(threadIdx.x); x < n;
         x += static_cast<int32_t>(blockDim.x)) {
      if (scores.key(x) - low < high - low) slots[atomicAdd(&count, 1)] = x;
    }
    __syncthreads();
    const auto lane = static_cast<int32_t>(threadIdx.x % 32);
    Result result = {};
    if (lane < count) {
      const int32_t x = slots[lane];
      result = {x, scores.key(x), scores.tally(x)};
    }
    __syncthreads();  // the caller may write the scores
    return result;
  }

  // A warp each, at the same time, where that beats the barriers of all.
  template <typename Result, typename Work>
  __device__ __forceinline__ void two(int32_t size, Result (&results)[2], const Work& work) const {
    constexpr int32_t kWarpSize = 640;
    if (size > kWarpSize) {
#pragma unroll 1
      for (int32_t n = 0; n < 2; ++n) {
        const Result result = work(*this, n);
        (n == 0 ? results[0] : results[1]) = result;
      }
      return;
    }
    constexpr int kSlotBytes = 32 * sizeof(int32_t);
    static_assert(2 * (kSlotBytes + sizeof(Result)) <= kBytes);
    Result* const shared = reinterpret_cast<Result*>(partial + 2 * kSlotBytes);
    __syncthreads();  // the last sums are read
    const auto n = static_cast<int32_t>(threadIdx.x / 32);
    if (n < 2) {
      const WarpTeam warp{reinterpret_cast<int32_t*>(partial + n * kSlotBytes)};
      const Result result = work(warp, n);
      if (threadIdx.x % 32 == 0) shared[n] = result;
    }
    __syncthreads();
    results[0] = shared[0];
    results[1] = shared[1];
    __syncthreads();  // before sums overwrite them
  }

  template <typename Keeps, typename Store>
  __device__ __forceinline__ void store_bits(int32_t words, const Keeps& keeps,
                                             const Store& store) const {
    const auto warp = static_cast<int32_t>(threadIdx.x / 32);
    for (int32_t w = warp; w < words; w += static_cast<int32_t>(blockDim.x / 32)) {
      store_word(w, keeps, store);
    }
    __syncthreads();
  }
};

}  // namespace flexprefill::internal::cuda
