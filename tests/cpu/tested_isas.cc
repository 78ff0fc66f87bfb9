#include "tests/cpu/tested_isas.h"

#include <iostream>
#include <string>

namespace flexprefill::test {
namespace {

// Memory of a length at an odd address; whatever lies around it is the allocator's.
struct OddMemory {
  explicit OddMemory(size_t bytes) : memory(bytes + 1, std::byte{0xa5}) {}
  std::span<std::byte> span() { return std::span(memory).subspan(1); }

  std::vector<std::byte> memory;
};

}  // namespace

std::vector<internal::Isa> tested_isas() {
  std::vector<internal::Isa> isas;
  int skipped = 0;
  for (const internal::Isa isa : internal::compiled_isas()) {
    if (internal::isa_supported(isa)) {
      isas.push_back(isa);
    } else {
      std::cout << "[   SKIP   ] " << internal::isa_name(isa) << ": this machine lacks it\n";
      ++skipped;
    }
  }
  if (skipped > 0) std::cout << "[  SKIPS   ] " << skipped << " instruction sets\n";
  return isas;
}

void run_attend_on(internal::Isa isa, const AttentionProblem& problem, const BlockMask& mask,
                   int threads) {
  const Backend& backend = *internal::cpu_backend_for(isa);
  const Policy policy = Dense{};
  OddMemory scratch(backend.scratch_bytes(std::span(&problem, 1), std::span(&policy, 1), threads));
  Context context;
  context.threads = threads;
  backend.attend(std::span(&problem, 1), std::span(&mask, 1), {}, scratch.span(), context);
}

IsaPlan run_plan_on(internal::Isa isa, const AttentionProblem& problem, const Policy& policy,
                    int threads) {
  const Backend& backend = *internal::cpu_backend_for(isa);
  OddMemory scratch(backend.scratch_bytes(std::span(&problem, 1), std::span(&policy, 1), threads));
  Context context;
  context.threads = threads;
  IsaPlan plan;
  plan.mask = block_grid(problem);
  plan.bits.assign(static_cast<size_t>(plan.mask.num_words()), 0xa5a5a5a5a5a5a5a5);
  plan.reports.resize(static_cast<size_t>(plan.mask.heads));
  plan.mask.bits = plan.bits.data();
  HeadReport* const reports = plan.reports.data();
  backend.plan(std::span(&problem, 1), std::span(&policy, 1), std::span(&plan.mask, 1),
               std::span(&reports, 1), scratch.span(), context);
  return plan;
}

}  // namespace flexprefill::test
