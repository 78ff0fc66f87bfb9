#pragma once

// The computing warps: two groups of four, 64 queries each. Per step j of a tile, from the diagonal
// down:
//
//   S = Q K_j^T          while, with the P of the step before,
//   O = O + P V_(j-1)    runs behind it on the tensor cores
//   P, alpha = softmax(S);  O = O alpha

#include "cuda/attend_problem.cuh"
#include "cuda/attend_shape.cuh"
#include "cuda/lanes.cuh"
#include "cuda/softmax.cuh"
#include "cuda/wgmma.cuh"

namespace flexprefill::internal::cuda {

constexpr float kLn2 = 0.69314718055994531f;

template <typename Shape>
class Computer {
  using Shared = typename Shape::Shared;
  using Element = typename Shape::Element;
  using Q = typename Shape::Q;
  using K = typename Shape::K;
  using V = typename Shape::V;
  static constexpr int kKeys = Shape::kKeys;
  static constexpr int kVHeadDim = Shape::kVHeadDim;
  static constexpr bool kManySteps = Shape::kStepsPerBlock > 1;

 public:
  __device__ explicit Computer(Shared& shared)
      : shared_(shared),
        group_(__shfl_sync(kAllLanes, threadIdx.x / 128, 0)),  // so that ptxas knows it is uniform
        warp_(threadIdx.x / 32 % 4),
        lane_(threadIdx.x % 32),
        q_matrix_(matrix_descriptor<Q::kPanel>(
            shared_address(shared.q[0]) + group_ * 64 * Q::kRowBytes, 16)),
        k_matrix_(matrix_descriptor<K::kPanel>(shared_address(shared.k[0]), 16, K::kGroupBytes)),
        v_matrix_(matrix_descriptor<V::kPanel>(shared_address(shared.v[0]), V::kPanelBytes,
                                               V::kGroupBytes)) {}

  __device__ void run() {
    if (group_ == 0) give_turn(/*to=*/0);
    while (true) {
      wait(shared_.tile_full[tile_.stage()], tile_.full_parity());
      work_ = &shared_.work[tile_.stage()];
      if (work_->steps < 0) break;
      wait(shared_.q_full[q_.stage()], q_.full_parity());
      if (work_->steps > 0)
        attend_tile();
      else
        store_zeros();
      release(shared_.q_empty[q_.stage()]);
      q_.advance();
      arrive(shared_.tile_empty[tile_.stage()]);
      tile_.advance();
    }
  }

 private:
  // Named barriers: 1 + group is that group's turn; 3 + group gathers the group.
  __device__ void take_turn() { named_barrier_sync(1 + group_, Shape::kComputeThreads); }
  __device__ void give_turn(int to) { named_barrier_arrive(1 + to, Shape::kComputeThreads); }
  template <int kStages>
  __device__ static bool is_full(Barrier (&full)[kStages], const Ring<kStages>& place) {
    return has_passed_already(full[place.stage()], place.full_parity());
  }
  __device__ void release(Barrier& empty) {
    __syncwarp();
    if (lane_ == 0) arrive(empty);
  }

  // This group's rows of the Q tile.
  __device__ uint32_t s_q() const {
    return shared_address(shared_.q[q_.stage()]) + group_ * 64 * Q::kRowBytes;
  }

  // S = Q K^T, in flight.
  __device__ void start_scores(float (&r_s)[kKeys / 2]) {
    constexpr int kPerPanel = Q::kPanel / 16;
    const uint64_t q = q_matrix_ + q_.stage() * (Q::kBytes >> 4);
    const uint64_t k = k_matrix_ + k_.stage() * (K::kBytes >> 4);
#pragma unroll
    for (int n = 0; n < Shape::kHeadDim / 16; ++n) {
      const int panel = n / kPerPanel, in_panel = n % kPerPanel * 32 / 16;
      Wgmma<Element, kKeys>::template ss<0>(r_s, q + in_panel + panel * (Q::kPanelBytes >> 4),
                                            k + in_panel + panel * (K::kPanelBytes >> 4),
                                            /*keep=*/n > 0);
    }
    wgmma_commit();
  }

  // O += P V, in flight.
  __device__ void start_output(float (&r_o)[kVHeadDim / 2], const uint32_t (&r_p)[kKeys / 4]) {
    const uint64_t v = v_matrix_ + v_.stage() * (V::kBytes >> 4);
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      Wgmma<Element, kVHeadDim>::template rs<1>(r_o, r_p + 4 * n, v + n * (2 * V::kGroupBytes >> 4),
                                                /*keep=*/1);
    }
    wgmma_commit();
  }

  // Only the first block of a tile can cross the diagonal or the end of the keys.
  __device__ void mask(float (&r_s)[kKeys / 2], int32_t step) {
    const int32_t shift = step * kKeys;
    const int32_t diagonal = work_->diagonal + shift, tail = work_->tail + shift;
    if (diagonal >= kKeys && tail >= kKeys) return;
    const int32_t column = static_cast<int32_t>(lane_ % 4 * 2);
    const int32_t first = diagonal + row_in_tile();
    const int32_t last[2] = {min(first, tail - 1) - column, min(first + 8, tail - 1) - column};
    mask_scores(r_s, last);
  }

  // The thread's first row; the other is 8 further.
  __device__ int32_t row_in_tile() const {
    return static_cast<int32_t>(group_ * 64 + warp_ * 16 + lane_ / 4);
  }

  __device__ void attend_tile() {
    const int32_t steps = work_->steps;
    scale_log2_ = work_->scale_log2;
    float r_s[kKeys / 2];
    uint32_t r_p[Shape::kReusesMax ? 2 : 1][kKeys / 4];
    float r_o[kVHeadDim / 2];
    RowState row;
    reset(row);
    v_is_full_ = false;
    first_step(r_s, r_p[0], row);
#pragma unroll
    for (int n = 0; n < kVHeadDim / 2; ++n) r_o[n] = 0.0f;
    if (steps > 1) wait(shared_.k_full[k_.stage()], k_.full_parity());
    int32_t step = 1;
    if constexpr (Shape::kReusesMax) {
      static_assert(!kManySteps);
      // Two sets of P change places, by name: registers have no index.
#pragma unroll 1
      for (; step + 1 < steps; step += 2) {
        next_step(r_s, r_p[0], r_p[1], r_o, row, step, /*more=*/true);
        next_step(r_s, r_p[1], r_p[0], r_o, row, step + 1, step + 2 < steps);
      }
      if (step < steps) {
        next_step(r_s, r_p[0], r_p[1], r_o, row, step, /*more=*/false);
        last_output(r_o, r_p[1]);
      } else {
        last_output(r_o, r_p[0]);
      }
    } else {
#pragma unroll 1
      for (; step < steps; ++step) {
        next_step(r_s, r_p[0], r_p[0], r_o, row, step, step + 1 < steps);
      }
      last_output(r_o, r_p[0]);
    }
    store(r_o, row);
  }

  // P of the first step.
  __device__ void first_step(float (&r_s)[kKeys / 2], uint32_t (&r_p)[kKeys / 4], RowState& row) {
    wait(shared_.k_full[k_.stage()], k_.full_parity());
    pin(r_s);
    wgmma_fence();
    start_scores(r_s);
    wgmma_wait<0>();
    pin(r_s);
    release(shared_.k_empty[k_.stage()]);
    k_.advance();
    mask(r_s, 0);
    softmax_step<kManySteps>(r_s, row, scale_log2_, /*follows=*/{false, false});
    pack_p<Element>(r_p, r_s);
  }

  // Output of the P before, and P of this step; both sets of P are the same unless kReusesMax.
  // more: another step follows.
  __device__ void next_step(float (&r_s)[kKeys / 2], uint32_t (&r_p)[kKeys / 4],
                            uint32_t (&r_next_p)[kKeys / 4], float (&r_o)[kVHeadDim / 2],
                            RowState& row, int32_t step, bool more) {
    take_turn();
    pin(r_s);
    pin(r_o);
    pin(r_p);
    wgmma_fence();
    start_scores(r_s);
    if (!v_is_full_) wait(shared_.v_full[v_.stage()], v_.full_parity());
    wgmma_fence();
    start_output(r_o, r_p);
    give_turn(/*to=*/1 - group_);
    bool k_is_full = false;
    if constexpr (Shape::kAsksEarly) {
      v_is_full_ = is_full(shared_.v_full, after(v_));
      k_is_full = is_full(shared_.k_full, after(k_));
    }
    wgmma_wait<1>();
    pin(r_s);
    release(shared_.k_empty[k_.stage()]);
    k_.advance();
    if (kManySteps && step < Shape::kStepsPerBlock) mask(r_s, step);
    bool rescales = true;
    if constexpr (Shape::kReusesMax) {
      rescales = softmax_step_reusing_max<Element>(r_next_p, r_s, row, scale_log2_);
    } else {
      softmax_step<kManySteps>(r_s, row, scale_log2_, /*follows=*/{false, false});
    }
    // This wait is a branch, and has to stand here: without one, ptxas moves the wait for O below
    // up, above the exponentials.
    if (more && !k_is_full) wait(shared_.k_full[k_.stage()], k_.full_parity());
    finish_output(r_o, r_p);
    if constexpr (!Shape::kReusesMax) pack_p<Element>(r_next_p, r_s);
    if (rescales) rescale(r_o, row);
  }

  __device__ void last_output(float (&r_o)[kVHeadDim / 2], uint32_t (&r_p)[kKeys / 4]) {
    wait(shared_.v_full[v_.stage()], v_.full_parity());
    pin(r_o);
    pin(r_p);
    wgmma_fence();
    start_output(r_o, r_p);
    finish_output(r_o, r_p);
  }

  __device__ void finish_output(float (&r_o)[kVHeadDim / 2], uint32_t (&r_p)[kKeys / 4]) {
    wgmma_wait<0>();
    pin(r_o);
    pin(r_p);
    release(shared_.v_empty[v_.stage()]);
    v_.advance();
  }

  // A tile that reads no block.
  __device__ void store_zeros() {
    float r_o[kVHeadDim / 2];
#pragma unroll
    for (int n = 0; n < kVHeadDim / 2; ++n) r_o[n] = 0.0f;
    RowState row;
    reset(row);
    store(r_o, row);
  }

  // out = O / l through this group's rows of the Q tile, and lse = softmax_scale m + ln l.
  __device__ void store(const float (&r_o)[kVHeadDim / 2], const RowState& row) {
    const TileWork& work = *work_;
    const float l[2] = {quad_sum(row.l[0]), quad_sum(row.l[1])};
    // l = 0: no key was read. A NaN in l goes on into the output. The approximate quotient is exact
    // enough for 16 bits; from l = 2^126 on it would be 0, which no sum of P reaches.
    const auto inverse_of = [](float sum) { return sum == 0.0f ? 0.0f : __fdividef(1.0f, sum); };
    const float inverse[2] = {inverse_of(l[0]), inverse_of(l[1])};
    named_barrier_sync(3 + group_, 128);  // the whole group has read its Q
    using Out = TileLayout<Shape::kRows, kVHeadDim>;
    static_assert(Out::kBytes <= Q::kBytes && Out::kRowBytes == Q::kRowBytes);
    const uint32_t s_out = s_q();
    const int matrix_row = static_cast<int>(warp_ * 16 + lane_ % 16);
#pragma unroll
    for (int n = 0; n < kVHeadDim / 16; ++n) {
      const float* o = r_o + 8 * n;
      store_matrices(chunk_address<Out>(s_out, matrix_row, 2 * n + static_cast<int>(lane_ / 16)),
                     pack<Element>(o[0] * inverse[0], o[1] * inverse[0]),
                     pack<Element>(o[2] * inverse[1], o[3] * inverse[1]),
                     pack<Element>(o[4] * inverse[0], o[5] * inverse[0]),
                     pack<Element>(o[6] * inverse[1], o[7] * inverse[1]));
    }
    __syncwarp();
    auto* g_out = static_cast<Element*>(work.g_out);
    const int64_t token_stride = work.out_token_stride;
    const int32_t q_len = work.q_len;
    const int32_t first = work.first_row + static_cast<int32_t>(group_ * 64 + warp_ * 16);
    constexpr int kChunks = kVHeadDim / 8;  // of 16 bytes, in a row
    const auto at = [this](int n) { return n * 32 + static_cast<int>(lane_); };
    // 16 rows, 32 chunks at a time; all loads before all stores, as each store waits for a load.
    uint4 out[kChunks / 2];
#pragma unroll
    for (int n = 0; n < kChunks / 2; ++n) {
      const int row = static_cast<int>(warp_ * 16) + at(n) / kChunks;
      out[n] = load_shared(chunk_address<Out>(s_out, row, at(n) % kChunks));
    }
#pragma unroll
    for (int n = 0; n < kChunks / 2; ++n) {
      const int32_t t = first + at(n) / kChunks;
      if (t < 0 || t >= q_len) continue;
      *reinterpret_cast<uint4*>(g_out + t * token_stride + at(n) % kChunks * 8) = out[n];
    }
    fence_async_shared();  // the next Q is copied to where these accesses were
    // Last, beside the stores on their way: nothing waits for the logarithm.
    if (work.g_lse != nullptr && lane_ % 4 == 0) store_lse(row, l);
  }

  // Of the thread's rows: l is the whole row's.
  __device__ void store_lse(const RowState& row, const float (&l)[2]) {
    const TileWork& work = *work_;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int32_t t = work.first_row + row_in_tile() + 8 * r;
      if (t < 0 || t >= work.q_len) continue;
      const float lse = (__fmul_rn(row.m[r], work.scale_log2) + log2f(l[r])) * kLn2;
      work.g_lse[t] = l[r] == 0.0f ? -INFINITY : lse;
    }
  }

  Shared& shared_;
  uint32_t group_, warp_, lane_;
  uint64_t q_matrix_, k_matrix_, v_matrix_;  // descriptors of stage 0; Q: of the group's rows
  TileWork* work_ = nullptr;
  float scale_log2_ = 0.0f;  // of the tile
  Ring<Shape::kTileStages> tile_;
  Ring<Shape::kQStages> q_;
  Ring<Shape::kKStages> k_;
  Ring<Shape::kVStages> v_;
  bool v_is_full_ = false;  // kAsksEarly: the V of the next step is known to be there
};

}  // namespace flexprefill::internal::cuda
