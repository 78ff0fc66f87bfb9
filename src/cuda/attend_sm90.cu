// The attend kernel of Hopper: one block of threads per multiprocessor takes tiles (128 queries of
// a head) until none is left. One warp finds the next tile (attend_schedule.cuh), two load
// (attend_load.cuh), eight compute (attend_compute.cuh). Where rows are gathered, four load, and
// the first of them finds the next tile.
//
//   schedule tile, Q      next tile, Q         rings of stages, "full" and "empty" per stage
//   load K   K0  K1  K2 ...
//   load V       V0  V1 ...
//   group 0     S0 softmax S1 O0 softmax ...
//   group 1        S0 softmax ...              the groups take turns issuing their products

#include "cuda/attend_sm90.cuh"

#include "cuda/attend_compute.cuh"
#include "cuda/attend_load.cuh"
#include "cuda/attend_schedule.cuh"
#include "cuda/attend_shape.cuh"
#include "cuda/launch.cuh"

namespace flexprefill::internal::cuda {
namespace {

template <typename Shape>
__device__ void init_barriers(typename Shape::Shared& shared) {
  constexpr uint32_t kWarps = Shape::kComputeThreads / 32;
  for (int n = 0; n < Shape::kTileStages; ++n) {
    init(shared.tile_full[n], 1);
    init(shared.tile_empty[n], 32 * (kWarps + Shape::kLoadWarps));
  }
  for (int n = 0; n < Shape::kQStages; ++n) {
    init(shared.q_full[n], 1);
    init(shared.q_empty[n], kWarps);
  }
  for (int n = 0; n < Shape::kKStages; ++n) {
    init(shared.k_full[n], Shape::kLoadArrivals);
    init(shared.k_empty[n], kWarps);
  }
  for (int n = 0; n < Shape::kVStages; ++n) {
    init(shared.v_full[n], Shape::kLoadArrivals);
    init(shared.v_empty[n], kWarps);
  }
  init(shared.tile_ending, 1);
  init(shared.v_tail_landed, 1);
  fence_barrier_init();
}

template <typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, 1)
    attend_tiles(const __grid_constant__ AttendCall call) {
  extern __shared__ std::byte memory[];
  const uint32_t misaligned = shared_address(memory) % 1024;
  auto& shared = *reinterpret_cast<typename Shape::Shared*>(memory + (1024 - misaligned) % 1024);
  if (threadIdx.x == 0) init_barriers<Shape>(shared);
  __syncthreads();
  join_stream();
  if (threadIdx.x >= Shape::kComputeThreads) {
    shrink_registers<Shape::kLoadRegisters>();
    const uint32_t warp = (threadIdx.x - Shape::kComputeThreads) / 32;
    if (warp < Shape::kLoadWarps)
      Loader<Shape>(call, shared).run();
    else if (Shape::kHasScheduler && warp == Shape::kLoadWarps)
      Scheduler<Shape>(call, shared).run();
  } else {
    grow_registers<Shape::kComputeRegisters>();
    Computer<Shape>(shared).run();
  }
}

template <typename Shape>
void launch_attend(const AttendCall& call, cudaStream_t stream) {
  int device = 0, multiprocessors = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  check(cudaFuncSetAttribute(attend_tiles<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             Shape::kSharedBytes),
        "cudaFuncSetAttribute");
  launch("attend_tiles", attend_tiles<Shape>,
         {.grid = static_cast<unsigned>(std::min(multiprocessors, call.num_tiles)),
          .block = Shape::kThreads,
          .shared_bytes = Shape::kSharedBytes,
          .stream = stream,
          .joins = true},
         call);
}

template <typename Element, int kHeadDim, int kVHeadDim, KeyCopies kCopies>
constexpr AttendKernel kernel(DType dtype) {
  using Shape = AttendShape<Element, kHeadDim, kVHeadDim, kCopies>;
  return {dtype,        kHeadDim,         kVHeadDim,        kCopies,
          Shape::kKeys, Shape::K::kPanel, Shape::V::kPanel, launch_attend<Shape>};
}

constexpr AttendKernel kKernels[] = {
    kernel<__nv_bfloat16, 64, 64, KeyCopies::kTiles>(DType::kBF16),
    kernel<__half, 64, 64, KeyCopies::kTiles>(DType::kF16),
    kernel<__nv_bfloat16, 96, 96, KeyCopies::kTiles>(DType::kBF16),
    kernel<__half, 96, 96, KeyCopies::kTiles>(DType::kF16),
    kernel<__nv_bfloat16, 128, 128, KeyCopies::kTiles>(DType::kBF16),
    kernel<__half, 128, 128, KeyCopies::kTiles>(DType::kF16),
    kernel<__nv_bfloat16, 192, 128, KeyCopies::kTiles>(DType::kBF16),
    kernel<__half, 192, 128, KeyCopies::kTiles>(DType::kF16),
    kernel<__nv_bfloat16, 192, 192, KeyCopies::kTiles>(DType::kBF16),
    kernel<__half, 192, 192, KeyCopies::kTiles>(DType::kF16),
    kernel<__nv_bfloat16, 256, 256, KeyCopies::kTiles>(DType::kBF16),
    kernel<__half, 256, 256, KeyCopies::kTiles>(DType::kF16),
    kernel<__nv_bfloat16, 64, 64, KeyCopies::kPages>(DType::kBF16),
    kernel<__half, 64, 64, KeyCopies::kPages>(DType::kF16),
    kernel<__nv_bfloat16, 96, 96, KeyCopies::kPages>(DType::kBF16),
    kernel<__half, 96, 96, KeyCopies::kPages>(DType::kF16),
    kernel<__nv_bfloat16, 128, 128, KeyCopies::kPages>(DType::kBF16),
    kernel<__half, 128, 128, KeyCopies::kPages>(DType::kF16),
    kernel<__nv_bfloat16, 192, 128, KeyCopies::kPages>(DType::kBF16),
    kernel<__half, 192, 128, KeyCopies::kPages>(DType::kF16),
    kernel<__nv_bfloat16, 192, 192, KeyCopies::kPages>(DType::kBF16),
    kernel<__half, 192, 192, KeyCopies::kPages>(DType::kF16),
    kernel<__nv_bfloat16, 256, 256, KeyCopies::kPages>(DType::kBF16),
    kernel<__half, 256, 256, KeyCopies::kPages>(DType::kF16),
    kernel<__nv_bfloat16, 64, 64, KeyCopies::kRows>(DType::kBF16),
    kernel<__half, 64, 64, KeyCopies::kRows>(DType::kF16),
    kernel<__nv_bfloat16, 96, 96, KeyCopies::kRows>(DType::kBF16),
    kernel<__half, 96, 96, KeyCopies::kRows>(DType::kF16),
    kernel<__nv_bfloat16, 128, 128, KeyCopies::kRows>(DType::kBF16),
    kernel<__half, 128, 128, KeyCopies::kRows>(DType::kF16),
    kernel<__nv_bfloat16, 192, 128, KeyCopies::kRows>(DType::kBF16),
    kernel<__half, 192, 128, KeyCopies::kRows>(DType::kF16),
    kernel<__nv_bfloat16, 192, 192, KeyCopies::kRows>(DType::kBF16),
    kernel<__half, 192, 192, KeyCopies::kRows>(DType::kF16),
    kernel<__nv_bfloat16, 256, 256, KeyCopies::kRows>(DType::kBF16),
    kernel<__half, 256, 256, KeyCopies::kRows>(DType::kF16),
};

}  // namespace

std::span<const AttendKernel> attend_kernels() { return kKernels; }

}  // namespace flexprefill::internal::cuda
