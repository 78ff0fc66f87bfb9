#pragma once

// The loading warps keep the rings of K and V filled, block by block of the announced tile's row,
// from the diagonal down. One warp loads K and one V through TMA, with a copy per tile or per page.
// Where pages hold a few tokens only (kGather), four warps load both, each a quarter of the rows,
// with one asynchronous copy per 16 bytes: a bulk copy per token would take ten times as long as
// the products.

#include "cuda/attend_problem.cuh"
#include "cuda/attend_schedule.cuh"
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
      : shared_(shared),
        warp_(threadIdx.x / 32 % 4),
        lane_(threadIdx.x % 32),
        scheduler_(call, shared) {}

  __device__ void run() {
    const auto wait_for = [this](Barrier& barrier, uint32_t parity) {
      wait_empty(barrier, parity);
    };
    const bool schedules = !Shape::kHasScheduler && warp_ == 0;
    if (schedules) scheduler_.start();
    const AttendProblem* known = nullptr;
    while (true) {
      finish_copies();  // the computing warps may be waiting for them, and not for a next tile
      if (schedules) scheduler_.announce(tile_, wait_for);
      wait(shared_.tile_full[tile_.stage()], tile_.full_parity());
      const TileWork& work = shared_.work[tile_.stage()];
      const AttendProblem& problem = *work.problem;
      const TileId id = work.id;
      const int32_t steps = work.steps;
      const bool tells_end = !kGather && steps > Shape::kEndingSteps && warp_ == 0 && lane_ == 0;
      arrive(shared_.tile_empty[tile_.stage()]);
      tile_.advance();
      if (steps < 0) break;
      if (!kGather && &problem != known) {
        acquire_map(&problem.k_map);
        acquire_map(&problem.v_map);
        known = &problem;
      }
      BlockList blocks = blocks_of(problem, id, lane_);
      int32_t key = 0;
      const auto key_of = [&](int32_t step) {
        return step % Shape::kStepsPerBlock != 0 ? key - Shape::kKeys
                                                 : first_key_of<Shape>(blocks.next());
      };
      if constexpr (kGather) {
        // In the order of use, and Q where it can be waited for.
        LaneRow row = {};
        for (int32_t step = 0; step <= steps; ++step) {
          const LaneRow previous = row;
          if (step < steps) gather_k(problem, id.g, row = lane_row(problem, key = key_of(step)));
          if (step == 0 && schedules)
            scheduler_.load_q(shared_.work[tile_.previous_stage()], wait_for);
          if (step > 0) gather_v(problem, id.g, previous);
        }
      } else {
        const KeySource source = key_source(problem, id.g);
        for (int32_t step = 0; step < steps; ++step) {
          key = key_of(step);
          if (tells_end && step == steps - Shape::kEndingSteps) arrive(shared_.tile_ending);
          if (warp_ == 0)
            load_k(source, key);
          else
            load_v(source, key);
        }
      }
    }
  }

 private:
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

  __device__ void load_k(const KeySource& source, int32_t key) {
    const AttendProblem& problem = *source.problem;
    const uint32_t s_tile = shared_address(shared_.k[k_.stage()]);
    Barrier& full = shared_.k_full[k_.stage()];
    Barrier& empty = shared_.k_empty[k_.stage()];
    copy<typename Shape::K>(source, problem.k_map, problem.k_page_groups, key, s_tile, full, empty,
                            k_.empty_parity());
    k_.advance();
  }

  __device__ void load_v(const KeySource& source, int32_t key) {
    const AttendProblem& problem = *source.problem;
    const uint32_t s_tile = shared_address(shared_.v[v_.stage()]);
    Barrier& full = shared_.v_full[v_.stage()];
    Barrier& empty = shared_.v_empty[v_.stage()];
    if (source.kv_len - key >= Shape::kKeys || !source.memory_goes_on) {
      copy<typename Shape::V>(source, problem.v_map, problem.v_page_groups, key, s_tile, full,
                              empty, v_.empty_parity());
    } else {
      // P is 0 behind the last key, but 0 times NaN is not.
      copy<typename Shape::V>(source, problem.v_map, problem.v_page_groups, key, s_tile,
                              shared_.v_tail_landed, empty, v_.empty_parity());
      wait(shared_.v_tail_landed, v_tail_parity_);
      v_tail_parity_ ^= 1;
      zero_rows(s_tile, max(source.kv_len - key, 0));
      announce(shared_address(&full));
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
  __device__ void copy(const KeySource& source, const CUtensorMap& map, int32_t page_groups,
                       int32_t key, uint32_t s_tile, Barrier& full, Barrier& empty,
                       uint32_t parity) {
    const int32_t lane = static_cast<int32_t>(lane_);
    if constexpr (Shape::kKeyCopies == KeyCopies::kTiles) {
      const Place place = place_of(source, key);  // before the wait, which hides the latency
      wait(empty, parity);
      if (lane == 0) {
        arrive_expecting(full, Layout::kBytes);
        load_box(s_tile, &map, full, {{0, place.token, /*panel=*/0, source.g, place.page}},
                 kEvictLast);
      }
    } else {
      // One copy per page, each by a lane; nothing behind kv_len.
      const Place place = place_of(source, key + lane * source.box_keys);
      wait(empty, parity);
      const int32_t keys = max(0, min(Shape::kKeys, source.kv_len - key));
      const int32_t boxes = (keys + source.box_keys - 1) / source.box_keys;
      const uint32_t box_bytes = source.box_keys / 8 * Layout::kGroupBytes;
      if (lane == 0) arrive_expecting(full, boxes * box_bytes);
      __syncwarp();
      if (lane < boxes) {
        const int32_t group = place.page * page_groups + place.token / 8;
        load_box(s_tile + lane * box_bytes, &map, full,
                 {{0, /*row=*/0, /*panel=*/0, group, source.g}}, kEvictLast);
      }
    }
    __syncwarp();
  }

  // Rows [begin, kKeys) of a V tile.
  __device__ void zero_rows(uint32_t s_tile, int32_t begin) {
    using V = typename Shape::V;
    constexpr int kChunks = V::kPanels * V::kPanel / 8;
    for (int at = begin * kChunks + static_cast<int>(lane_); at < Shape::kKeys * kChunks; at += 32)
      store_shared(chunk_address<V>(s_tile, at / kChunks, at % kChunks), uint4{0, 0, 0, 0});
  }

  // Which row a lane looks up for its warp, for K and for V; and how many keys there are from the
  // warp's first row on. No KeySource beside it: a tile's constants would take registers.
  struct LaneRow {
    Place place;
    int32_t keys_left;
  };

  static constexpr int kWarpRows = Shape::kKeys / 4;
  static_assert(kWarpRows <= 32 && kWarpRows % 8 == 0);

  // Long before the wait that hides the latency.
  __device__ LaneRow lane_row(const AttendProblem& problem, int32_t key) const {
    const int32_t first = key + static_cast<int32_t>(warp_) * kWarpRows;
    const int32_t lane = static_cast<int32_t>(lane_) % kWarpRows;
    const int32_t keys_left = static_cast<int32_t>(problem.lengths.kv_len) - first;
    if (lane >= keys_left) return {{0, 0}, keys_left};  // the table may end before
    const auto at = static_cast<uint32_t>(first + lane);
    const auto page_size = static_cast<uint32_t>(problem.page_size);
    return {{__ldg(problem.block_table + at / page_size), static_cast<int32_t>(at % page_size)},
            keys_left};
  }

  __device__ void gather_k(const AttendProblem& problem, int32_t g, const LaneRow& row) {
    share_addresses(problem.k_rows, g, row.place);
    // V of the step before is needed sooner than this K, whose look-up has passed meanwhile.
    finish_copies();
    gather<typename Shape::K>(row.keys_left, shared_.k[k_.stage()], shared_.k_full[k_.stage()],
                              shared_.k_empty[k_.stage()], k_.empty_parity());
    k_.advance();
  }

  __device__ void gather_v(const AttendProblem& problem, int32_t g, const LaneRow& row) {
    share_addresses(problem.v_rows, g, row.place);
    gather<typename Shape::V>(row.keys_left, shared_.v[v_.stage()], shared_.v_full[v_.stage()],
                              shared_.v_empty[v_.stage()], v_.empty_parity());
    v_.advance();
  }

  // Every lane learns through shared memory where all rows are.
  __device__ void share_addresses(const PagedRows& rows, int32_t g, Place place) {
    const auto* mine = static_cast<const Element*>(rows.g_data) + place.page * rows.page_stride +
                       place.token * rows.token_stride + g * rows.head_stride;
    __syncwarp();  // those of the last gather have been read
    if (lane_ < kWarpRows) shared_.row_addresses[warp_][lane_] = reinterpret_cast<uint64_t>(mine);
    __syncwarp();
  }

  // This warp's quarter of the rows from any pages; rows behind kv_len become zeros. Few
  // instructions per copy, as they compete with the computing warps.
  template <typename Layout>
  __device__ void gather(int32_t keys_left, const std::byte* tile, Barrier& full, Barrier& empty,
                         uint32_t parity) {
    constexpr int kChunks = Layout::kPanels * Layout::kPanel / 8;  // of 16 bytes, in a row
    constexpr int kAtOnce = 32 / kChunks;                          // rows
    constexpr int kCopies = kWarpRows / kAtOnce;                   // of a lane
    constexpr int kBatch = 4;  // addresses in registers; 8 spill
    static_assert(8 % (2 * kAtOnce) == 0 && kCopies % kBatch == 0);
    const int lane = static_cast<int>(lane_);
    const uint64_t* const s_from = shared_.row_addresses[warp_];
    // A lane copies always the same chunk, of pairs of rows: one load brings two addresses.
    const bool copies = kAtOnce * kChunks == 32 || lane < kAtOnce * kChunks;
    const int lane_row = copies ? lane / kChunks * 2 : 0, chunk = lane % kChunks;
    const uint32_t s_first = chunk_address<Layout>(
        shared_address(tile), static_cast<int>(warp_) * kWarpRows + lane_row, chunk);
    const auto row_of = [](int n) { return n / 2 * (2 * kAtOnce) + n % 2; };  // from lane_row
    const auto copy_row = [&](int n, uint64_t from, bool exists) {
      // The rows of a lane differ in the bits of the swizzle that their distance has.
      const uint32_t s_to =
          (s_first ^ (swizzle<Layout>(row_of(n)) << 4)) + row_of(n) * Layout::kRowBytes;
      if (copies) copy_chunk(s_to, reinterpret_cast<const void*>(from + chunk * 16), exists);
    };
    wait_empty(empty, parity);
    if (keys_left >= kWarpRows) {
#pragma unroll
      for (int first = 0; first < kCopies; first += kBatch) {
        ulonglong2 from[kBatch / 2];
#pragma unroll
        for (int n = 0; n < kBatch; n += 2)
          from[n / 2] = *reinterpret_cast<const ulonglong2*>(s_from + lane_row + row_of(first + n));
#pragma unroll
        for (int n = 0; n < kBatch; ++n)
          copy_row(first + n, n % 2 == 0 ? from[n / 2].x : from[n / 2].y, /*exists=*/true);
      }
    } else {
#pragma unroll 1
      for (int n = 0; n < kCopies; ++n)
        copy_row(n, s_from[lane_row + row_of(n)], lane_row + row_of(n) < keys_left);
    }
    commit_copies();
    if (s_unfinished_ != 0) {
      wait_for_copies<1>();
      announce(s_unfinished_);
    }
    s_unfinished_ = shared_address(&full);
  }

  __device__ void wait_empty(Barrier& empty, uint32_t parity) {
    if (kGather && __all_sync(kAllLanes, has_passed(empty, parity))) return;
    finish_copies();  // nobody may wait for what is done
    wait(empty, parity);
  }

  __device__ void announce(uint32_t s_full) {
    fence_async_shared();
    __syncwarp();
    if (lane_ == 0) arrive(s_full);
  }

  // Waits for this warp's copies, the last of which nobody knows of yet.
  __device__ void finish_copies() {
    if constexpr (kGather) {
      if (s_unfinished_ == 0) return;
      wait_for_copies<0>();
      announce(s_unfinished_);
      s_unfinished_ = 0;
    }
  }

  Shared& shared_;
  uint32_t warp_, lane_;
  Scheduler<Shape> scheduler_;  // used by the first warp where no other schedules
  Ring<Shape::kTileStages> tile_;
  Ring<Shape::kKStages> k_;
  Ring<Shape::kVStages> v_;
  uint32_t v_tail_parity_ = 0;
  uint32_t s_unfinished_ = 0;  // "full" of the copies that nobody knows of yet
};

}  // namespace flexprefill::internal::cuda
