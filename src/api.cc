// The public calls: validate once, choose the backend, lay out the workspace.
//
//   workspace: [ bits and reports of every problem | scratch of the backend ]

#include <algorithm>
#include <limits>
#include <string>

#include "flexprefill/flexprefill.h"
#include "validate.h"

namespace flexprefill {
namespace {

using internal::CallKind;

constexpr size_t kAlign = 256;  // what cudaMalloc gives; more than any CPU vector needs

size_t align_up(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

[[noreturn]] void fail_too_large() {
  throw Error("problems = too large, expected a workspace below 2^63 bytes");
}

size_t checked_add(size_t a, size_t b) {
  if (a > std::numeric_limits<size_t>::max() / 2 - b) fail_too_large();
  return a + b;
}

// Bytes of the bits and reports of one problem.
size_t plan_bytes(const AttentionProblem& problem) {
  const BlockMask grid = block_grid(problem);
  const size_t rows = static_cast<size_t>(grid.heads) * static_cast<size_t>(grid.q_blocks);
  const size_t row_bytes = static_cast<size_t>(grid.row_words()) * sizeof(uint64_t);
  // The largest problem that check_problem() lets through needs 2^76 bytes.
  if (row_bytes > 0 && rows > (std::numeric_limits<size_t>::max() / 4) / row_bytes) {
    fail_too_large();
  }
  const size_t reports = static_cast<size_t>(grid.heads) * sizeof(HeadReport);
  return align_up(rows * row_bytes) + align_up(reports);
}

size_t plan_bytes(std::span<const AttentionProblem> problems) {
  size_t total = 0;
  for (const AttentionProblem& problem : problems) total = checked_add(total, plan_bytes(problem));
  return total;
}

void check_problems(std::span<const AttentionProblem> problems, CallKind kind) {
  for (size_t p = 0; p < problems.size(); ++p) internal::check_problem(problems[p], p, kind);
}

// Why `backend` refuses these problems; empty = it takes all of them.
std::string why_not(const Backend& backend, std::span<const AttentionProblem> problems,
                    std::span<const Policy> policies, const AttendOptions& options) {
  for (size_t p = 0; p < problems.size(); ++p) {
    const std::string why = backend.why_not(problems[p], policies, options);
    if (!why.empty()) return "problems[" + std::to_string(p) + "]: " + why;
  }
  return "";
}

const Backend& choose_backend(std::span<const AttentionProblem> problems,
                              std::span<const Policy> policies, const AttendOptions& options,
                              const Context& context) {
  std::string reasons;
  const auto accepts = [&](const Backend& backend) {
    const std::string why = why_not(backend, problems, policies, options);
    if (!why.empty()) reasons += "\n  " + std::string(backend.name()) + ": " + why;
    return why.empty();
  };
  if (context.backend != nullptr) {
    const auto list = backends();
    if (std::find(list.begin(), list.end(), context.backend) == list.end()) {
      throw Error("Context.backend = " + std::string(context.backend->name()) +
                  ", expected one of backends() (FLEXPREFILL_BACKEND may have narrowed the list)");
    }
    if (accepts(*context.backend)) return *context.backend;
  } else {
    for (const Backend* backend : backends()) {
      if (accepts(*backend)) return *backend;
    }
  }
  throw Error("no backend can run this call:" + reasons);
}

// The workspace cut into its two parts.
struct Layout {
  std::byte* plan = nullptr;
  std::span<std::byte> scratch;
};

Layout lay_out(std::span<const AttentionProblem> problems, const Context& context,
               size_t scratch_bytes) {
  const size_t needed = checked_add(plan_bytes(problems), checked_add(scratch_bytes, kAlign));
  if (context.workspace == nullptr) {
    throw Error("Context.workspace = null, expected " + std::to_string(needed) +
                " bytes (workspace_bytes() says how many)");
  }
  if (context.workspace_bytes < needed) {
    throw Error("Context.workspace_bytes = " + std::to_string(context.workspace_bytes) +
                ", expected at least " + std::to_string(needed) +
                " (workspace_bytes() says how many)");
  }
  auto* base = static_cast<std::byte*>(context.workspace);
  base += align_up(reinterpret_cast<uintptr_t>(base)) - reinterpret_cast<uintptr_t>(base);
  return {base, {base + plan_bytes(problems), scratch_bytes}};
}

// The bits of a plan lie where the scratch of a call for fewer problems begins: attending them one
// by one in one workspace would overwrite masks that are still needed.
void check_apart(const BlockMask& mask, std::span<const std::byte> scratch, size_t index) {
  if (mask.bits == nullptr || mask.num_words() == 0 || scratch.empty()) return;
  const auto bits = reinterpret_cast<uintptr_t>(mask.bits);
  const auto begin = reinterpret_cast<uintptr_t>(scratch.data());
  const size_t bytes = static_cast<size_t>(mask.num_words()) * sizeof(uint64_t);
  if (bits + bytes <= begin || bits >= begin + scratch.size()) return;
  throw Error("masks[" + std::to_string(index) +
              "].bits = inside the scratch of Context.workspace, expected masks elsewhere: attend "
              "all problems of a plan in one call, or give attend() a workspace of its own");
}

std::span<const AttentionProblem> one(const AttentionProblem& problem) { return {&problem, 1}; }
std::span<const Policy> one(const Policy& policy) { return {&policy, 1}; }

const Policy kNoPolicy = Dense{};  // attend() sees masks alone

}  // namespace

const char* version() {
#define FLEXPREFILL_STRING_(x) #x
#define FLEXPREFILL_STRING(x) FLEXPREFILL_STRING_(x)
  return FLEXPREFILL_STRING(FLEXPREFILL_VERSION_MAJOR) "." FLEXPREFILL_STRING(
      FLEXPREFILL_VERSION_MINOR) "." FLEXPREFILL_STRING(FLEXPREFILL_VERSION_PATCH);
}

size_t workspace_bytes(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
                       const Context& context) {
  internal::check_context(context);
  check_problems(problems, CallKind::kPlan);
  internal::check_policies(problems, policies);
  const Backend& backend = choose_backend(problems, policies, {}, context);
  const size_t scratch = backend.scratch_bytes(problems, policies, context.threads);
  return checked_add(plan_bytes(problems), checked_add(scratch, kAlign));
}

Plan plan(std::span<const AttentionProblem> problems, std::span<const Policy> policies,
          const Context& context) {
  internal::check_context(context);
  check_problems(problems, CallKind::kPlan);
  internal::check_policies(problems, policies);
  const Backend& backend = choose_backend(problems, policies, {}, context);
  const Layout layout =
      lay_out(problems, context, backend.scratch_bytes(problems, policies, context.threads));

  Plan result;
  result.backend = &backend;
  std::vector<HeadReport*> reports;
  std::byte* next = layout.plan;
  for (const AttentionProblem& problem : problems) {
    BlockMask mask = block_grid(problem);
    mask.bits = reinterpret_cast<uint64_t*>(next);
    next += align_up(static_cast<size_t>(mask.num_words()) * sizeof(uint64_t));
    result.masks.push_back(mask);
    reports.push_back(reinterpret_cast<HeadReport*>(next));
    next += align_up(static_cast<size_t>(mask.heads) * sizeof(HeadReport));
  }
  backend.plan(problems, policies, result.masks, reports, layout.scratch, context);
  result.reports.assign(reports.begin(), reports.end());
  return result;
}

std::vector<HeadReport> read_reports(const Plan& plan, size_t p, const Context& context) {
  std::vector<HeadReport> reports(static_cast<size_t>(plan.masks.at(p).heads));
  plan.backend->read(reports.data(), plan.reports[p], reports.size() * sizeof(HeadReport), context);
  return reports;
}

std::vector<uint64_t> read_bits(const Plan& plan, size_t p, const Context& context) {
  const BlockMask& mask = plan.masks.at(p);
  std::vector<uint64_t> bits(static_cast<size_t>(mask.num_words()));
  plan.backend->read(bits.data(), mask.bits, bits.size() * sizeof(uint64_t), context);
  return bits;
}

void attend(std::span<const AttentionProblem> problems, std::span<const BlockMask> masks,
            const AttendOptions& options, const Context& context) {
  internal::check_context(context);
  check_problems(problems, CallKind::kAttend);
  if (masks.size() != problems.size()) {
    throw Error("masks.size() = " + std::to_string(masks.size()) +
                ", expected problems.size() = " + std::to_string(problems.size()));
  }
  for (size_t p = 0; p < problems.size(); ++p) internal::check_mask(problems[p], masks[p], p);
  const Backend& backend = choose_backend(problems, one(kNoPolicy), options, context);
  const Layout layout =
      lay_out(problems, context, backend.scratch_bytes(problems, one(kNoPolicy), context.threads));
  for (size_t p = 0; p < masks.size(); ++p) check_apart(masks[p], layout.scratch, p);
  backend.attend(problems, masks, options, layout.scratch, context);
}

Plan prefill(std::span<const AttentionProblem> problems, const Policy& policy,
             const AttendOptions& options, const Context& context) {
  check_problems(problems, CallKind::kAttend);  // before the plan is paid for
  Plan result = plan(problems, policy, context);
  attend(problems, result, options, context);
  return result;
}

// The forms for one policy and for one problem.

size_t workspace_bytes(std::span<const AttentionProblem> problems, const Policy& policy,
                       const Context& context) {
  return workspace_bytes(problems, one(policy), context);
}

size_t workspace_bytes(const AttentionProblem& problem, const Policy& policy,
                       const Context& context) {
  return workspace_bytes(one(problem), one(policy), context);
}

Plan plan(std::span<const AttentionProblem> problems, const Policy& policy,
          const Context& context) {
  return plan(problems, one(policy), context);
}

Plan plan(const AttentionProblem& problem, const Policy& policy, const Context& context) {
  return plan(one(problem), one(policy), context);
}

void attend(std::span<const AttentionProblem> problems, const Plan& plan,
            const AttendOptions& options, const Context& context) {
  attend(problems, std::span<const BlockMask>(plan.masks), options, context);
}

void attend(const AttentionProblem& problem, const Plan& plan, const AttendOptions& options,
            const Context& context) {
  attend(one(problem), plan, options, context);
}

void attend(const AttentionProblem& problem, const BlockMask& mask, const AttendOptions& options,
            const Context& context) {
  attend(one(problem), std::span<const BlockMask>(&mask, 1), options, context);
}

Plan prefill(const AttentionProblem& problem, const Policy& policy, const Context& context) {
  return prefill(one(problem), policy, {}, context);
}

}  // namespace flexprefill
