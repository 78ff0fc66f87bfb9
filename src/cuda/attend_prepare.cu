#include "cuda/attend_prepare.cuh"

#include <algorithm>
#include <memory>

#include "cuda/attend_order.cuh"
#include "cuda/launch.cuh"
#include "cuda/tile.cuh"

namespace flexprefill::internal::cuda {
namespace {

template <int kCount>
struct Argument {
  AttendProblem problems[kCount];
  AttendProblem* g_problems;
  int32_t* next_tile;
};

constexpr int kMany = 40;  // kernel arguments hold 32764 bytes
static_assert(sizeof(Argument<kMany>) <= 32764);

// Whether prepare brings a problem's tiles in order: one block of threads can. Else order_tiles
// does.
__host__ __device__ bool is_ordered_here(const AttendProblem& problem) {
  return problem.g_order != nullptr && problem.tiles() <= kSortedTiles;
}

// One block per problem: of 64 threads, or of TileSorter::kThreads where tiles of a problem of the
// launch are ordered here.
template <int kCount>
__global__ void __launch_bounds__(TileSorter::kThreads)
    prepare(const __grid_constant__ Argument<kCount> argument) {
  const AttendProblem& from = argument.problems[blockIdx.x];
  AttendProblem& to = argument.g_problems[blockIdx.x];
  static_assert(sizeof(AttendProblem) % sizeof(uint4) == 0);
  constexpr unsigned kWords = sizeof(AttendProblem) / sizeof(uint4);
  for (unsigned n = threadIdx.x; n < kWords; n += blockDim.x) {
    reinterpret_cast<uint4*>(&to)[n] = reinterpret_cast<const uint4*>(&from)[n];
  }
  __syncthreads();
  const Lengths lengths = resolve(from.source);
  if (threadIdx.x == 0) {
    to.lengths = lengths;
    if (blockIdx.x == 0) *argument.next_tile = 0;
  }
  release_maps();
  if (!is_ordered_here(from)) return;
  __shared__ TileSorter sorter;
  sorter.order(from, lengths, /*first=*/0);
}

// The tiles of a problem that has more of them than a block of threads sorts at once.
__global__ void __launch_bounds__(TileSorter::kThreads)
    order_tiles(const AttendProblem* g_problem) {
  __shared__ TileSorter sorter;
  sorter.order(*g_problem, g_problem->lengths, static_cast<int32_t>(blockIdx.x) * kSortedTiles);
}

template <int kCount>
void launch_prepare(std::span<const AttendProblem> problems, AttendProblem* g_problems,
                    int32_t* next_tile, cudaStream_t stream) {
  const bool orders = std::ranges::any_of(problems, is_ordered_here);
  const auto argument = std::make_unique<Argument<kCount>>();
  std::ranges::copy(problems, argument->problems);
  argument->g_problems = g_problems;
  argument->next_tile = next_tile;
  launch("prepare", prepare<kCount>,
         {.grid = static_cast<unsigned>(problems.size()),
          .block = orders ? TileSorter::kThreads : 64u,
          .stream = stream},
         *argument);
}

}  // namespace

void prepare_attend(std::span<const AttendProblem> problems, AttendProblem* g_problems,
                    int32_t* next_tile, cudaStream_t stream) {
  if (problems.size() == 1) {
    launch_prepare<1>(problems, g_problems, next_tile, stream);
  } else {
    for (size_t p = 0; p < problems.size(); p += kMany) {
      const size_t count = std::min<size_t>(kMany, problems.size() - p);
      launch_prepare<kMany>(problems.subspan(p, count), g_problems + p, next_tile, stream);
    }
  }
  for (size_t p = 0; p < problems.size(); ++p) {
    if (problems[p].g_order == nullptr || is_ordered_here(problems[p])) continue;
    const int64_t tiles = problems[p].tiles();
    launch("order_tiles", order_tiles,
           {.grid = static_cast<unsigned>((tiles + kSortedTiles - 1) / kSortedTiles),
            .block = TileSorter::kThreads,
            .stream = stream},
           g_problems + p);
  }
}

}  // namespace flexprefill::internal::cuda
