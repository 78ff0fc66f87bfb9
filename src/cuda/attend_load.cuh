#pragma once

// The loading warps: take tiles from the call's counter, decode their mask rows from the diagonal
// down, and keep the rings of Q, K and V filled. One warp does it all through TMA. Where pages hold
// a few tokens only (kGather), four warps do, each a quarter of the rows, with one asynchronous
// copy per 16 bytes: a bulk copy per token would take ten times as long as the products.

#include "cuda/attend_problem.cuh"
#include "cuda/attend_shape.cuh"
#include "cuda/block_list.cuh"

namespace flexprefill::internal::cuda {

template <typename Shape>
class Loader {
  using Shared = typename Shape::Shared;
  using Element = typename Shape::Element;
  static constexpr bool kGather = Shape::kGather;

 public:
  __device__ Loader(const AttendCall& call, Shared& shared)
      : call_(call), shared_(shared), warp_(threadIdx.x / 32 % 4), lane_(threadIdx.x % 32) {
    // The first pass over the rings finds them empty.
    q_.parity = k_.parity = v_.parity = 1;
  }

  __device__ void run() {
    int32_t taken = take_tile();
    while (true) {
      const int32_t tile = share(taken);
      if (tile >= call_.num_tiles) break;
      taken = take_tile();  // its latency passes while this tile is loaded
      load_tile(tile, taken);
    }
    finish_copies();
    if (warp_ != 0) return;
    wait(shared_.q_empty[q_.stage], q_.parity);
    if (lane_ == 0) {
      shared_.work[q_.stage].steps = -1;
      arrive(shared_.q_full[q_.stage]);
    }
  }

 private:
  // The next tile, in lane 0 of the first warp.
  __device__ int32_t take_tile() {
    return warp_ == 0 && lane_ == 0 ? atomicAdd(call_.next_tile, 1) : 0;
  }

  // The same tile in all lanes of all loading warps.
  __device__ int32_t share(int32_t taken) {
    if constexpr (kGather) {
      finish_copies();  // the first warp may be waiting for a tile that needs them
      share_slot_ ^= 1;
      if (warp_ == 0 && lane_ == 0) shared_.taken[share_slot_] = taken;
      named_barrier_sync(5, 32 * Shape::kLoadWarps);
      return shared_.taken[share_slot_];
    }
    return __shfl_sync(kAllLanes, taken, 0);
  }

  // Tiles come in ascending order, so the search goes on from the last problem.
  __device__ const AttendProblem& problem_of(int32_t tile) {
    const int32_t before = problem_;
    while (true) {
      const int32_t n = problem_ + 1 + static_cast<int32_t>(lane_);
      const bool begun = n < call_.num_problems && call_.problems[n].first_tile <= tile;
      const int32_t passed = __popc(__ballot_sync(kAllLanes, begun));
      problem_ += passed;
      if (passed < 32) break;
    }
    const AttendProblem& problem = call_.problems[problem_];
    if (problem_ != before) {
      acquire_map(&problem.q_map);
      acquire_map(&problem.k_map);
      acquire_map(&problem.v_map);
    }
    return problem;
  }

  // Where a tile's keys are: what the loop over steps needs, in registers.
  struct KeySource {
    const AttendProblem* problem;
    const int32_t* block_table;
    int32_t page_size;
    int32_t box_keys;  // at most kKeys
    int32_t kv_len;
    int32_t g;
    bool memory_goes_on;  // behind kv_len, without the zeros of a tensor map's end
  };

  __device__ static KeySource key_source(const AttendProblem& problem, int32_t g) {
    return {.problem = &problem,
            .block_table = problem.block_table,
            .page_size = problem.page_size,
            .box_keys = min(problem.box_keys, Shape::kKeys),
            .kv_len = static_cast<int32_t>(problem.lengths.kv_len),
            .g = g,
            .memory_goes_on =
                problem.block_table != nullptr || problem.source.kv_len_device != nullptr};
  }

  __device__ void load_tile(int32_t tile, int32_t taken) {
    const AttendProblem& problem = problem_of(tile);
    const TileId id = tile_in_problem(problem, tile - problem.first_tile);
    if (id.i >= problem.lengths.q_blocks) return;  // the true q_len is shorter than its bound
    const KeySource source = key_source(problem, id.g);
    BlockList blocks(problem.mask.bits == nullptr ? nullptr : problem.mask.row(id.h, id.i),
                     problem.lengths.causal_blocks(id.i), lane_);
    const int32_t steps = blocks.count() * Shape::kStepsPerBlock;
    // The first step has the last keys of the first block.
    int32_t key = (steps > 0 ? blocks.next() : 0) * kBlock + kBlock - Shape::kKeys;
    if (steps > 0) load_k(source, key);
    post(problem, id, steps, key);
    if constexpr (!kGather) prefetch_row(problem, share(taken));
    for (int32_t step = 1; step <= steps; ++step) {
      const int32_t previous = key;
      if (step < steps) {
        key = step % Shape::kStepsPerBlock != 0 ? key - Shape::kKeys
                                                : blocks.next() * kBlock + kBlock - Shape::kKeys;
        load_k(source, key);
      }
      load_v(source, previous);
    }
  }

  // Brings the mask row of the tile after this one near: finding its first block would otherwise
  // wait for memory, and the computing warps for that.
  __device__ void prefetch_row(const AttendProblem& problem, int32_t tile) {
    const int32_t n = tile - problem.first_tile;
    if (problem.mask.bits == nullptr || n >= problem.kv_heads * problem.group * problem.tile_blocks)
      return;
    const TileId id = tile_in_problem(problem, n);
    const int32_t word = ((problem.lengths.causal_blocks(id.i) - 1) >> 6) - static_cast<int>(lane_);
    if (id.i < problem.lengths.q_blocks && word >= 0)
      prefetch_l1(problem.mask.row(id.h, id.i) + word);
  }

  // Tells the computing warps, and loads Q.
  __device__ void post(const AttendProblem& problem, TileId id, int32_t steps, int32_t first_key) {
    if (warp_ != 0) return q_.advance();
    if (!has_passed(shared_.q_empty[q_.stage], q_.parity)) {
      finish_copies();  // nobody may wait for what is done
      wait(shared_.q_empty[q_.stage], q_.parity);
    }
    if (lane_ == 0) {
      const Lengths& lengths = problem.lengths;
      const int64_t position = (lengths.first_q_block + id.i) * kBlock;
      TileWork& work = shared_.work[q_.stage];
      work.g_out =
          static_cast<typename Shape::Element*>(problem.g_out) + id.h * problem.out_head_stride;
      work.g_lse = problem.g_lse == nullptr ? nullptr : problem.g_lse + id.h * problem.lse_stride;
      work.out_token_stride = problem.out_token_stride;
      work.steps = steps;
      work.first_row = static_cast<int32_t>(position - lengths.q_start);
      work.q_len = static_cast<int32_t>(lengths.q_len);
      work.diagonal = static_cast<int32_t>(min(position - first_key, int64_t{kBlock}));
      work.tail = static_cast<int32_t>(min(lengths.kv_len - first_key, int64_t{kBlock}));
      work.scale_log2 = problem.scale_log2;
      Barrier& full = shared_.q_full[q_.stage];
      if (steps > 0) {
        arrive_expecting(full, Shape::Q::kBytes);
        load_box(shared_address(shared_.q[q_.stage]), &problem.q_map, full,
                 {0, work.first_row, /*panel=*/0, id.h, /*page=*/0}, kEvictFirst);
      } else {
        arrive(full);
      }
    }
    __syncwarp();
    q_.advance();
  }

  __device__ void load_k(const KeySource& source, int32_t key) {
    const AttendProblem& problem = *source.problem;
    const uint32_t s_tile = shared_address(shared_.k[k_.stage]);
    Barrier& full = shared_.k_full[k_.stage];
    Barrier& empty = shared_.k_empty[k_.stage];
    if constexpr (kGather)
      gather<typename Shape::K>(source, problem.k_rows, key, s_tile, full, empty, k_.parity);
    else
      copy<typename Shape::K>(source, problem.k_map, key, s_tile, full, empty, k_.parity);
    k_.advance();
  }

  __device__ void load_v(const KeySource& source, int32_t key) {
    const AttendProblem& problem = *source.problem;
    const uint32_t s_tile = shared_address(shared_.v[v_.stage]);
    Barrier& full = shared_.v_full[v_.stage];
    Barrier& empty = shared_.v_empty[v_.stage];
    if constexpr (kGather) {
      gather<typename Shape::V>(source, problem.v_rows, key, s_tile, full, empty, v_.parity);
    } else if (source.kv_len - key >= Shape::kKeys || !source.memory_goes_on) {
      copy<typename Shape::V>(source, problem.v_map, key, s_tile, full, empty, v_.parity);
    } else {
      // P is 0 behind the last key, but 0 times NaN is not.
      copy<typename Shape::V>(source, problem.v_map, key, s_tile, shared_.v_tail_landed, empty,
                              v_.parity);
      wait(shared_.v_tail_landed, v_tail_parity_);
      v_tail_parity_ ^= 1;
      zero_rows(s_tile, max(source.kv_len - key, 0));
      announce(full);
    }
    v_.advance();
  }

  struct Place {
    int32_t page, token;
  };

  __device__ static Place place_of(const KeySource& source, int32_t key) {
    if (source.block_table == nullptr) return {0, key};
    if (key >= source.kv_len) return {0, 0};  // the table may end before
    return {__ldg(source.block_table + key / source.page_size), key % source.page_size};
  }

  // Rows [key, key + kKeys) of K or V through TMA. Waits until the stage is empty.
  template <typename Layout>
  __device__ void copy(const KeySource& source, const CUtensorMap& map, int32_t key,
                       uint32_t s_tile, Barrier& full, Barrier& empty, uint32_t parity) {
    const int32_t lane = static_cast<int32_t>(lane_);
    const bool one_box = source.box_keys == Shape::kKeys;
    // Looked up before the wait, which hides the latency.
    const Place mine = place_of(source, one_box ? key : key + lane * source.box_keys);
    wait(empty, parity);
    if (one_box) {
      if (lane == 0) {
        arrive_expecting(full, Layout::kBytes);
        load_box(s_tile, &map, full, {0, mine.token, /*panel=*/0, source.g, mine.page}, kEvictLast);
      }
      __syncwarp();
      return;
    }
    // Small pages: one copy per panel and page, in all lanes; nothing behind kv_len.
    const int32_t keys = max(0, min(Shape::kKeys, source.kv_len - key));
    const int32_t boxes = (keys + source.box_keys - 1) / source.box_keys;
    const uint32_t box_bytes = source.box_keys * Layout::kRowBytes;
    if (lane == 0) arrive_expecting(full, boxes * box_bytes * Layout::kPanels);
    __syncwarp();
    for (int32_t n = lane; n < boxes; n += 32) {
      const Place place = n < 32 ? mine : place_of(source, key + n * source.box_keys);
      for (int32_t panel = 0; panel < Layout::kPanels; ++panel) {
        load_box(s_tile + panel * Layout::kPanelBytes + n * box_bytes, &map, full,
                 {0, place.token, panel, source.g, place.page}, kEvictLast);
      }
    }
    __syncwarp();
  }

  // Rows [begin, kKeys) of a V tile: a row's bytes stay in the row whatever the swizzle.
  __device__ void zero_rows(uint32_t s_tile, int32_t begin) {
    using V = typename Shape::V;
    constexpr uint32_t kStep = 32 * 16;
    for (int panel = 0; panel < V::kPanels; ++panel) {
      const uint32_t s_panel = s_tile + panel * V::kPanelBytes;
      for (uint32_t at = begin * V::kRowBytes + lane_ * 16; at < V::kPanelBytes; at += kStep) {
        store_shared(s_panel + at, uint4{0, 0, 0, 0});
      }
    }
  }

  // This warp's quarter of the rows from any pages; rows behind kv_len become zeros.
  template <typename Layout>
  __device__ void gather(const KeySource& source, const PagedRows& rows, int32_t key,
                         uint32_t s_tile, Barrier& full, Barrier& empty, uint32_t parity) {
    constexpr int kRows = Shape::kKeys / 4;
    constexpr int kChunks = Layout::kPanels * Layout::kPanel / 8;  // of 16 bytes, in a row
    static_assert(kRows <= 32 && kRows * kChunks % 32 == 0);
    const int first_row = static_cast<int>(warp_) * kRows;
    // Each lane looks one row up, before the wait, which hides the latency.
    const int32_t my_key = key + first_row + static_cast<int32_t>(lane_ % kRows);
    const Place place = place_of(source, my_key);
    const auto* mine = static_cast<const Element*>(rows.g_data) + place.page * rows.page_stride +
                       place.token * rows.token_stride + source.g * rows.head_stride;
    const auto address = my_key < source.kv_len ? reinterpret_cast<uint64_t>(mine) : 0;
    if (!__all_sync(kAllLanes, has_passed(empty, parity))) {
      finish_copies();  // nobody may wait for what is done
      wait(empty, parity);
    }
#pragma unroll 4
    for (int n = 0; n < kRows * kChunks / 32; ++n) {
      const int at = n * 32 + static_cast<int>(lane_), row = at / kChunks, chunk = at % kChunks;
      const uint64_t from = __shfl_sync(kAllLanes, address, row);
      const uint32_t s_to = chunk_address<Layout>(s_tile, first_row + row, chunk);
      copy_chunk(s_to, reinterpret_cast<const void*>(from == 0 ? 0 : from + chunk * 16), from != 0);
    }
    commit_copies();
    if (unfinished_ != nullptr) {
      wait_for_copies<1>();
      announce(*unfinished_);
    }
    unfinished_ = &full;
  }

  __device__ void announce(Barrier& full) {
    fence_async_shared();
    __syncwarp();
    if (lane_ == 0) arrive(full);
  }

  // Waits for this warp's copies, the last of which nobody knows of yet.
  __device__ void finish_copies() {
    if constexpr (kGather) {
      if (unfinished_ == nullptr) return;
      wait_for_copies<0>();
      announce(*unfinished_);
      unfinished_ = nullptr;
    }
  }

  const AttendCall& call_;
  Shared& shared_;
  uint32_t warp_, lane_;
  int32_t problem_ = -1;
  Ring<Shape::kQStages> q_;
  Ring<Shape::kKStages> k_;
  Ring<Shape::kVStages> v_;
  uint32_t v_tail_parity_ = 0;
  uint32_t share_slot_ = 0;
  Barrier* unfinished_ = nullptr;  // of the copies that nobody knows of yet
};

}  // namespace flexprefill::internal::cuda
