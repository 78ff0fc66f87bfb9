// A program outside the project: finds the installed library and calls it through C++ and C.

#include <flexprefill/c_api.h>
#include <flexprefill/flexprefill.h>
#include <cstdio>

int main() {
  std::vector<float> q(256 * 2 * 64, 1.0f), out(q.size());
  flexprefill::AttentionProblem problem;
  problem.q = problem.kv.k = problem.kv.v =
      flexprefill::head_view(q.data(), flexprefill::DType::kF32, 256, 2, 64);
  problem.out = flexprefill::head_view(out.data(), flexprefill::DType::kF32, 256, 2, 64);
  flexprefill::Context context;
  try {  // the exception must keep its type across a shared library
    flexprefill::prefill(problem, flexprefill::Dense{}, context);
    return 1;
  } catch (const flexprefill::Error& error) {
    std::puts(error.what());
  }
  context.workspace_bytes = flexprefill::workspace_bytes(problem, flexprefill::Dense{});
  std::vector<std::byte> workspace(context.workspace_bytes);
  context.workspace = workspace.data();
  flexprefill::prefill(problem, flexprefill::Dense{}, context);
  std::printf("%s %s: %f\n", flexprefill_version(), flexprefill_backend_name(0), out[0]);
  return out[0] == 1.0f ? 0 : 1;
}
