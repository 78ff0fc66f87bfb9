#pragma once

// The scheduling warp: takes tiles from the call's counter, counts the key blocks of their rows,
// announces them to the other warps, and loads Q. It runs ahead of them by a tile, as it has to
// wait for global memory at every step; where a tile is long, it takes the next one when its keys
// are nearly all asked for.

#include "cuda/attend_problem.cuh"
#include "cuda/attend_shape.cuh"
#include "cuda/block_list.cuh"

namespace flexprefill::internal::cuda {

// The blocks of tile `id`; the same in all warps that ask.
__device__ inline BlockList blocks_of(const AttendProblem& problem, TileId id, uint32_t lane) {
  return {problem.mask.bits == nullptr ? nullptr : problem.mask.row(id.h, id.i),
          problem.lengths.causal_blocks(id.i), lane};
}

// A row is read in steps of kKeys keys, the last ones of a block first.
template <typename Shape>
__device__ inline int32_t first_key_of(int32_t block) {
  return block * kBlock + kBlock - Shape::kKeys;
}

template <typename Shape>
class Scheduler {
  using Shared = typename Shape::Shared;

 public:
  __device__ Scheduler(const AttendCall& call, Shared& shared)
      : call_(call), shared_(shared), lane_(threadIdx.x % 32) {}

  // Before the first announcement.
  __device__ void start() { taken_ = take(); }

  __device__ void run() {
    const auto wait_for = [](Barrier& barrier, uint32_t parity) { wait(barrier, parity); };
    Ring<Shape::kTileStages> tile;
    start();
    while (announce(tile, wait_for)) {
      load_q(shared_.work[tile.stage()], wait_for);
      tile.advance();
    }
  }

  // Announces the next tile at `at`, or that there is none: then returns false. `wait_for` waits
  // for a barrier's phase; a warp that loads as well has something to do before.
  template <typename WaitFor>
  __device__ bool announce(const Ring<Shape::kTileStages>& at, const WaitFor& wait_for) {
    if constexpr (Shape::kHasScheduler) {
      if (takes_late_) {
        wait_for(shared_.tile_ending, ending_parity_);
        ending_parity_ ^= 1;
        taken_ = take();
      }
    }
    while (true) {
      const int32_t tile = __shfl_sync(kAllLanes, taken_, 0);
      if (tile >= call_.num_tiles) {
        post(at, wait_for, {.steps = -1});
        return false;
      }
      const AttendProblem& problem = problem_of(tile);
      const TileId id = tile_in_problem(problem, tile - problem.first_tile);
      if (id.i >= problem.lengths.q_blocks) {  // the true q_len is shorter than its bound
        taken_ = take();
        continue;
      }
      const TileWork work = describe(problem, id);
      post(at, wait_for, work);
      // A tile that is taken early is one that no other multiprocessor can take; where tiles are
      // short, the latency of taking late would show.
      if constexpr (Shape::kHasScheduler) {
        takes_late_ = work.steps > Shape::kEndingSteps;
        if (takes_late_) return true;
      }
      taken_ = take();
      return true;
    }
  }

  // Q of the tile that was announced last, `work`: which lane 0 wrote, and reads here.
  template <typename WaitFor>
  __device__ void load_q(const TileWork& work, const WaitFor& wait_for) {
    wait_for(shared_.q_empty[q_.stage()], q_.empty_parity());
    if (lane_ == 0) {
      Barrier& full = shared_.q_full[q_.stage()];
      if (work.steps > 0) {
        arrive_expecting(full, Shape::Q::kBytes);
        load_box(shared_address(shared_.q[q_.stage()]), &work.problem->q_map, full,
                 {{0, work.first_row, /*panel=*/0, work.id.h, /*page=*/0}}, kEvictFirst);
      } else {
        arrive(full);
      }
    }
    __syncwarp();
    q_.advance();
  }

 private:
  // The next tile, in lane 0; what the others load means nothing.
  __device__ int32_t take() {
    const int32_t n = lane_ == 0 ? atomicAdd(call_.next_tile, 1) : 0;
    return call_.g_order != nullptr && n < call_.num_tiles ? call_.g_order[n] : n;
  }

  // Problems come in ascending order, so the search goes on from the last problem.
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
    if (problem_ != before) acquire_map(&problem.q_map);
    return problem;
  }

  __device__ TileWork describe(const AttendProblem& problem, TileId id) {
    const Lengths& lengths = problem.lengths;
    BlockList blocks = blocks_of(problem, id, lane_);
    const int32_t steps = blocks.count() * Shape::kStepsPerBlock;
    const int32_t first_key = steps > 0 ? first_key_of<Shape>(blocks.next()) : 0;
    const int64_t position = (lengths.first_q_block + id.i) * kBlock;
    using Element = typename Shape::Element;
    return {.problem = &problem,
            .id = id,
            .steps = steps,
            .g_out = static_cast<Element*>(problem.g_out) + id.h * problem.out_head_stride,
            .g_lse = problem.g_lse == nullptr ? nullptr : problem.g_lse + id.h * problem.lse_stride,
            .out_token_stride = problem.out_token_stride,
            .first_row = static_cast<int32_t>(position - lengths.q_start),
            .q_len = static_cast<int32_t>(lengths.q_len),
            .diagonal = static_cast<int32_t>(min(position - first_key, int64_t{kBlock})),
            .tail = static_cast<int32_t>(min(lengths.kv_len - first_key, int64_t{kBlock})),
            .scale_log2 = problem.scale_log2};
  }

  template <typename WaitFor>
  __device__ void post(const Ring<Shape::kTileStages>& at, const WaitFor& wait_for,
                       const TileWork& work) {
    wait_for(shared_.tile_empty[at.stage()], at.empty_parity());
    if (lane_ == 0) {
      shared_.work[at.stage()] = work;
      arrive(shared_.tile_full[at.stage()]);
    }
    __syncwarp();
  }

  const AttendCall& call_;
  Shared& shared_;
  uint32_t lane_;
  int32_t taken_ = 0;  // the tile after the one announced last, in lane 0, unless takes_late_
  bool takes_late_ = false;
  uint32_t ending_parity_ = 0;
  int32_t problem_ = -1;
  Ring<Shape::kQStages> q_;
};

}  // namespace flexprefill::internal::cuda
