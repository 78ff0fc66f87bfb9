// The last kernel of plan(): per head the top-up, the filling of heads that keep nearly everything,
// and the report.

#include "cuda/finish_head.h"
#include "cuda/launch.cuh"
#include "cuda/plan_kernels.cuh"
#include "cuda/team.cuh"

namespace flexprefill::internal::cuda {
namespace {

constexpr int kFinishThreads = 512;  // 1024 would leave too few registers

// Grid (heads).
__global__ void __launch_bounds__(kFinishThreads, 1) finish(const PlanTable* table) {
  __shared__ FinishMemory memory;
  __shared__ __align__(16) unsigned char partial[CtaTeam::kBytes];
  const auto n = static_cast<int32_t>(blockIdx.x);
  const PlanProblem p = find_problem(*table, &PlanProblem::first_head, n);
  const int32_t h = n - p.first_head;
  const PlanShape s = shape_of(p);
  join_stream_and_release();
  const HeadReport report = finish_head(CtaTeam{partial}, p, s, policy_of(*table, h),
                                        scores_of(p, h), table->states[n], h, memory);
  if (threadIdx.x == 0) p.reports[h] = report;
}

}  // namespace

void launch_finish(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  launch("finish", finish,
         {.grid = static_cast<unsigned>(sizes.heads),
          .block = kFinishThreads,
          .stream = stream,
          .joins = true},
         table);
}

}  // namespace flexprefill::internal::cuda
