// The C ABI: checks what C cannot express, translates the structs, and turns exceptions into status
// codes. The rules of shapes, ranges and backends are checked by the C++ calls it makes.

#include "flexprefill/c_api.h"

#include <cstddef>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "flexprefill/flexprefill.h"
#include "validate.h"

struct FlexprefillPlan {
  flexprefill::Plan plan;
  void* stream;  // of the call that planned: reports are read after its work
};

namespace flexprefill {
namespace {

static_assert(FLEXPREFILL_I8 == static_cast<int>(DType::kI8));
static_assert(FLEXPREFILL_CUDA == static_cast<int>(DeviceType::kCuda));
static_assert(FLEXPREFILL_INTERLEAVED == static_cast<int>(HeadGrouping::kInterleaved));
static_assert(FLEXPREFILL_RULE_COVERAGE == static_cast<int>(Rule::kCoverage));
static_assert(FLEXPREFILL_PATTERN_QUERY_AWARE == static_cast<int>(Pattern::kQueryAware));

// A fixed buffer: reporting that memory ran out must not need memory.
thread_local char last_error[1024] = "";

FlexprefillStatus fail(FlexprefillStatus status, const char* message) noexcept {
  std::snprintf(last_error, sizeof last_error, "%s", message);
  return status;
}

// Runs body() and turns what it throws into a status.
template <typename Body>
FlexprefillStatus guard(Body body) noexcept {
  try {
    body();
    return FLEXPREFILL_OK;
  } catch (const Error& error) {
    return fail(FLEXPREFILL_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return fail(FLEXPREFILL_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return fail(FLEXPREFILL_INTERNAL_ERROR, error.what());
  } catch (...) {
    return fail(FLEXPREFILL_INTERNAL_ERROR, "unknown exception");
  }
}

std::string element(const char* array, size_t n) {
  return std::string(array) + "[" + std::to_string(n) + "]";
}

template <typename T>
void require(const T* pointer, const std::string& name) {
  if (pointer == nullptr) throw Error(name + " = null, expected a pointer");
}

template <typename Struct>
void require_struct(const Struct* value, const std::string& name) {
  require(value, name);
  if (value->struct_size != sizeof(Struct)) {
    throw Error(name + ".struct_size = " + std::to_string(value->struct_size) + ", expected " +
                std::to_string(sizeof(Struct)) + " (is the caller built for ABI version " +
                std::to_string(FLEXPREFILL_ABI_VERSION) + "?)");
  }
}

void require_at_most(uint32_t value, uint32_t last, const std::string& name) {
  if (value > last) {
    throw Error(name + " = " + std::to_string(value) + ", expected at most " +
                std::to_string(last));
  }
}

HeadView to_view(const FlexprefillTensor* tensor, const std::string& name) {
  require_struct(tensor, name);
  require_at_most(tensor->dtype, FLEXPREFILL_I8, name + ".dtype");
  require_at_most(tensor->device, FLEXPREFILL_CUDA, name + ".device");
  HeadView view;
  view.data = tensor->data;
  view.dtype = static_cast<DType>(tensor->dtype);
  view.device = {static_cast<DeviceType>(tensor->device), tensor->device_index};
  view.tokens = tensor->tokens;
  view.heads = tensor->heads;
  view.head_dim = tensor->head_dim;
  view.token_stride = tensor->token_stride;
  view.head_stride = tensor->head_stride;
  view.scale = tensor->scale;
  return view;
}

AttentionProblem to_problem(const FlexprefillProblem& from, const std::string& name) {
  require_struct(&from, name);
  require_at_most(from.grouping, FLEXPREFILL_INTERLEAVED, name + ".grouping");
  require_at_most(from.causal, 1, name + ".causal");
  require_at_most(from.has_q_start, 1, name + ".has_q_start");
  require_at_most(from.reserved, 0, name + ".reserved");
  AttentionProblem problem;
  problem.q = to_view(from.q, name + ".q");
  problem.kv.k = to_view(from.k, name + ".k");
  problem.kv.v = to_view(from.v, name + ".v");
  if (from.out != nullptr) problem.out = to_view(from.out, name + ".out");
  problem.kv.block_table = from.block_table;
  problem.kv.page_size = from.page_size;
  problem.kv.page_stride = from.page_stride;
  problem.kv.paged_kv_len = from.paged_kv_len;
  if (from.has_q_start != 0) problem.q_start = from.q_start;
  if (from.softmax_scale != 0.0f) problem.softmax_scale = from.softmax_scale;
  problem.lse = from.lse;
  problem.q_len_device = from.q_len_device;
  problem.kv_len_device = from.kv_len_device;
  problem.causal = from.causal != 0;
  problem.window = from.window;
  problem.softcap = from.softcap;
  problem.sinks = from.sinks;
  problem.alibi_slopes = from.alibi_slopes;
  problem.grouping = static_cast<HeadGrouping>(from.grouping);
  return problem;
}

std::vector<AttentionProblem> to_problems(const FlexprefillProblem* problems, size_t num_problems) {
  if (num_problems > 0) require(problems, "problems");
  std::vector<AttentionProblem> result;
  for (size_t p = 0; p < num_problems; ++p) {
    result.push_back(to_problem(problems[p], element("problems", p)));
  }
  return result;
}

Policy to_policy(const FlexprefillPolicy& from, const std::string& name) {
  require_struct(&from, name);
  require_at_most(from.kind, FLEXPREFILL_FLEX, name + ".kind");
  require_at_most(from.reserved, 0, name + ".reserved");
  if (from.kind == FLEXPREFILL_DENSE) return Dense{};
  if (from.kind == FLEXPREFILL_A_SHAPE) return AShape{from.sink_tokens, from.local_tokens};
  require_at_most(from.rule, FLEXPREFILL_RULE_COVERAGE, name + ".rule");
  FlexPrefill policy;
  policy.gamma = from.gamma;
  policy.tau = from.tau;
  policy.min_budget = from.min_budget;
  if (from.max_budget != 0) policy.max_budget = from.max_budget;
  policy.rule = static_cast<Rule>(from.rule);
  return policy;
}

std::vector<Policy> to_policies(const FlexprefillPolicy* policies, size_t num_policies) {
  if (num_policies > 0) require(policies, "policies");
  std::vector<Policy> result;
  for (size_t n = 0; n < num_policies; ++n) {
    result.push_back(to_policy(policies[n], element("policies", n)));
  }
  return result;
}

Context to_context(const FlexprefillContext* from) {
  require_struct(from, "context");
  Context context;
  context.threads = from->threads;
  context.workspace = from->workspace;
  context.workspace_bytes = from->workspace_bytes;
  context.stream = from->stream;
  if (from->backend == nullptr) return context;
  context.backend = find_backend(from->backend);
  if (context.backend == nullptr) {
    std::string names;
    for (const Backend* backend : backends()) {
      names += (names.empty() ? "" : ", ") + std::string(backend->name());
    }
    throw Error("context.backend = " + std::string(from->backend) + ", expected one of: " + names);
  }
  return context;
}

AttendOptions to_options(const FlexprefillAttendOptions* from) {
  if (from == nullptr) return {};
  require_struct(from, "options");
  require_at_most(from->accumulate_f64, 1, "options.accumulate_f64");
  require_at_most(from->mean_correction, 1, "options.mean_correction");
  require_at_most(from->reserved, 0, "options.reserved");
  AttendOptions options;
  options.accumulate_f64 = from->accumulate_f64 != 0;
  options.mean_correction = from->mean_correction != 0;
  return options;
}

BlockMask to_mask(const FlexprefillMask& from, const std::string& name) {
  require_struct(&from, name);
  if (from.heads < 0 || from.q_blocks < 0 || from.k_blocks < 0) {
    throw Error(name + ".heads, q_blocks, k_blocks = " + std::to_string(from.heads) + ", " +
                std::to_string(from.q_blocks) + ", " + std::to_string(from.k_blocks) +
                ", expected 0 or more");
  }
  constexpr int64_t kMaxBlock = int64_t{1} << 40;  // far from the end of int64_t
  if (from.first_q_block < -kMaxBlock || from.first_q_block > kMaxBlock) {
    throw Error(name + ".first_q_block = " + std::to_string(from.first_q_block) +
                ", expected floor(q_start / 128)");
  }
  BlockMask mask;
  mask.bits = from.bits;
  mask.heads = from.heads;
  mask.q_blocks = from.q_blocks;
  mask.k_blocks = from.k_blocks;
  mask.q_block = from.q_block;
  mask.k_block = from.k_block;
  mask.first_q_block = from.first_q_block;
  return mask;
}

void write_mask(const BlockMask& mask, FlexprefillMask* to) {
  to->heads = mask.heads;
  to->q_blocks = mask.q_blocks;
  to->k_blocks = mask.k_blocks;
  to->q_block = mask.q_block;
  to->k_block = mask.k_block;
  to->bits = mask.bits;
  to->first_q_block = mask.first_q_block;
}

void write_report(const HeadReport& from, FlexprefillReport* to) {
  to->pattern = static_cast<uint32_t>(from.pattern);
  to->kept_blocks = from.kept_blocks;
  to->causal_blocks = from.causal_blocks;
  to->coverage = from.coverage;
  to->coverage_min_row = from.coverage_min_row;
  to->divergence = from.divergence;
  to->budget_limited = from.budget_limited ? 1 : 0;
}

const BlockMask& mask_of(const FlexprefillPlan* plan, size_t problem) {
  require(plan, "plan");
  if (problem >= plan->plan.masks.size()) {
    throw Error("problem = " + std::to_string(problem) + ", expected below " +
                std::to_string(plan->plan.masks.size()));
  }
  return plan->plan.masks[problem];
}

// The backend at an index of the list; null outside it, or when the environment names no backend.
const Backend* backend_at(int32_t index) noexcept {
  const Backend* found = nullptr;
  guard([&] {
    const auto list = backends();
    if (index >= 0 && static_cast<size_t>(index) < list.size()) found = list[index];
  });
  return found;
}

}  // namespace
}  // namespace flexprefill

using namespace flexprefill;  // NOLINT(google-build-using-namespace): the C functions are global

uint32_t flexprefill_abi_version(void) { return FLEXPREFILL_ABI_VERSION; }

const char* flexprefill_version(void) { return version(); }

const char* flexprefill_last_error(void) { return last_error; }

int32_t flexprefill_num_backends(void) {
  int32_t count = 0;
  guard([&] { count = static_cast<int32_t>(backends().size()); });
  return count;
}

const char* flexprefill_backend_name(int32_t index) {
  const Backend* backend = backend_at(index);
  return backend == nullptr ? nullptr : backend->name().data();  // names are literals
}

const char* flexprefill_backend_description(int32_t index) {
  const char* found = nullptr;
  guard([&] {
    static const std::vector<std::string> descriptions = [] {
      std::vector<std::string> list;
      for (const Backend* backend : backends()) list.push_back(backend->description());
      return list;
    }();
    if (index >= 0 && static_cast<size_t>(index) < descriptions.size()) {
      found = descriptions[index].c_str();
    }
  });
  return found;
}

FlexprefillStatus flexprefill_workspace_bytes(const FlexprefillProblem* problems,
                                              size_t num_problems,
                                              const FlexprefillPolicy* policies,
                                              size_t num_policies,
                                              const FlexprefillContext* context, size_t* bytes) {
  return guard([&] {
    require(bytes, "bytes");
    *bytes = workspace_bytes(to_problems(problems, num_problems),
                             to_policies(policies, num_policies), to_context(context));
  });
}

FlexprefillStatus flexprefill_plan(const FlexprefillProblem* problems, size_t num_problems,
                                   const FlexprefillPolicy* policies, size_t num_policies,
                                   const FlexprefillContext* context, FlexprefillPlan** plan) {
  return guard([&] {
    require(plan, "plan");
    const Context where = to_context(context);
    *plan = new FlexprefillPlan{flexprefill::plan(to_problems(problems, num_problems),
                                                  to_policies(policies, num_policies), where),
                                where.stream};
  });
}

FlexprefillStatus flexprefill_attend(const FlexprefillProblem* problems, size_t num_problems,
                                     const FlexprefillPlan* plan,
                                     const FlexprefillAttendOptions* options,
                                     const FlexprefillContext* context) {
  return guard([&] {
    require(plan, "plan");
    attend(to_problems(problems, num_problems), plan->plan, to_options(options),
           to_context(context));
  });
}

FlexprefillStatus flexprefill_attend_masks(const FlexprefillProblem* problems, size_t num_problems,
                                           const FlexprefillMask* masks,
                                           const FlexprefillAttendOptions* options,
                                           const FlexprefillContext* context) {
  return guard([&] {
    if (num_problems > 0) require(masks, "masks");
    std::vector<BlockMask> own;
    for (size_t p = 0; p < num_problems; ++p) {
      own.push_back(to_mask(masks[p], element("masks", p)));
    }
    attend(to_problems(problems, num_problems), own, to_options(options), to_context(context));
  });
}

FlexprefillStatus flexprefill_prefill(const FlexprefillProblem* problems, size_t num_problems,
                                      const FlexprefillPolicy* policies, size_t num_policies,
                                      const FlexprefillAttendOptions* options,
                                      const FlexprefillContext* context, FlexprefillPlan** plan) {
  return guard([&] {
    const std::vector<AttentionProblem> list = to_problems(problems, num_problems);
    const AttendOptions attend_options = to_options(options);
    const Context where = to_context(context);
    for (size_t p = 0; p < list.size(); ++p) {  // before the plan is paid for
      internal::check_problem(list[p], p, internal::CallKind::kAttend);
    }
    Plan result = flexprefill::plan(list, to_policies(policies, num_policies), where);
    attend(list, result, attend_options, where);
    if (plan != nullptr) *plan = new FlexprefillPlan{std::move(result), where.stream};
  });
}

void flexprefill_plan_free(FlexprefillPlan* plan) { delete plan; }

FlexprefillStatus flexprefill_plan_mask(const FlexprefillPlan* plan, size_t problem,
                                        FlexprefillMask* mask) {
  return guard([&] {
    require_struct(mask, "mask");
    write_mask(mask_of(plan, problem), mask);
  });
}

FlexprefillStatus flexprefill_plan_report(const FlexprefillPlan* plan, size_t problem, int32_t head,
                                          FlexprefillReport* report) {
  return guard([&] {
    require_struct(report, "report");
    const BlockMask& mask = mask_of(plan, problem);
    if (head < 0 || head >= mask.heads) {
      throw Error("head = " + std::to_string(head) + ", expected [0, " +
                  std::to_string(mask.heads) + ")");
    }
    HeadReport own;
    Context where;
    where.stream = plan->stream;
    plan->plan.backend->read(&own, plan->plan.reports[problem] + head, sizeof own, where);
    write_report(own, report);
  });
}

const char* flexprefill_plan_backend(const FlexprefillPlan* plan) {
  return plan == nullptr ? nullptr : plan->plan.backend->name().data();
}

FlexprefillStatus flexprefill_block_grid(const FlexprefillProblem* problem, FlexprefillMask* mask) {
  return guard([&] {
    require(problem, "problem");
    require_struct(mask, "mask");
    const AttentionProblem checked = to_problem(*problem, "problem");
    internal::check_problem(checked, 0, internal::CallKind::kPlan);
    write_mask(block_grid(checked), mask);
  });
}

FlexprefillStatus flexprefill_computed_share(const FlexprefillMask* mask, double* share) {
  return guard([&] {
    require(mask, "mask");
    require(share, "share");
    *share = computed_share(to_mask(*mask, "mask"));
  });
}
