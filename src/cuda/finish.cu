// The last kernels of plan(): what the probe rows keep; then per head the top-up, the filling of
// heads that keep nearly everything, and the report.

#include "cuda/finish_head.h"
#include "cuda/launch.cuh"
#include "cuda/plan_kernels.cuh"
#include "cuda/team.cuh"

namespace flexprefill::internal::cuda {
namespace {

constexpr int kFinishThreads = 512;  // 1024 would leave too few registers

// Grid (heads, parts of a row): the kept mass of the probe rows.
__global__ void __launch_bounds__(kPlanRows) measure(const PlanTable* table) {
  const auto n = static_cast<int32_t>(blockIdx.x);
  const PlanProblem p = find_problem(*table, &PlanProblem::first_head, n);
  const int32_t h = n - p.first_head;
  const PlanShape s = shape_of(p);
  join_stream_and_release();
  if (table->states[n].measured == 0) return;
  const HeadScores x = scores_of(p, h);
  FinishHead{p, s, x, h, nullptr}.measure(static_cast<int32_t>(blockIdx.y),
                                          static_cast<int32_t>(threadIdx.x));
}

// Grid (heads). kMeasures: what the probe rows keep is this kernel's business, too.
template <bool kMeasures>
__global__ void __launch_bounds__(kFinishThreads, 1) finish(const PlanTable* table) {
  __shared__ double share[kPlanRows];
  __shared__ __align__(16) unsigned char partial[CtaTeam::kBytes];
  const auto n = static_cast<int32_t>(blockIdx.x);
  const PlanProblem p = find_problem(*table, &PlanProblem::first_head, n);
  const int32_t h = n - p.first_head;
  const PlanShape s = shape_of(p);
  join_stream_and_release();
  const CtaTeam team{partial};
  const HeadScores x = scores_of(p, h);
  const HeadState& state = table->states[n];
  if (kMeasures && state.measured != 0) {
    const FinishHead head{p, s, x, h, share};
    team.for_each(kRowGroups * kPlanRows,
                  [&](int32_t part) { head.measure(part / kPlanRows, part % kPlanRows); });
  }
  const HeadReport report = finish_head(team, p, s, policy_of(*table, h), x, state, h, share);
  if (threadIdx.x == 0) p.reports[h] = report;
}

}  // namespace

void launch_finish(const PlanTable* table, const PlanSizes& sizes, cudaStream_t stream) {
  // The masses of a few blocks are read faster than a kernel starts.
  const bool measures = is_short(sizes);
  if (!measures) {
    launch("measure", measure,
           {.grid = dim3(static_cast<unsigned>(sizes.heads), kRowGroups),
            .block = kPlanRows,
            .stream = stream,
            .joins = true},
           table);
  }
  launch("finish", measures ? finish<true> : finish<false>,
         {.grid = static_cast<unsigned>(sizes.heads),
          .block = kFinishThreads,
          .stream = stream,
          .joins = true},
         table);
}

}  // namespace flexprefill::internal::cuda
