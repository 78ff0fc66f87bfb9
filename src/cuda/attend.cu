// attend() on the host side.

#include "cuda/attend.h"

#include "flexprefill/error.h"

namespace flexprefill::internal::cuda {

std::string attend_why_not(const AttentionProblem&) { return ""; }

size_t attend_scratch_bytes(std::span<const AttentionProblem>) { return 0; }

void attend_problems(std::span<const AttentionProblem>, std::span<const BlockMask>,
                     std::span<std::byte>, const Context&) {
  throw Error("cuda: attend is not there yet");
}

}  // namespace flexprefill::internal::cuda
