#include "tools/options.h"

#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/commands.h"
#include "tools/format.h"
#include "tools/place.h"

namespace flexprefill::tools {
namespace {

struct OptionField {
  const char* option;
  const char* field;   // as the library's messages name it
  const char* policy;  // the only policy that reads it
};

constexpr OptionField kFields[] = {
    {"--rule", "FlexPrefill.rule", "flex"},
    {"--gamma", "FlexPrefill.gamma", "flex"},
    {"--tau", "FlexPrefill.tau", "flex"},
    {"--min-budget", "FlexPrefill.min_budget", "flex"},
    {"--max-budget", "FlexPrefill.max_budget", "flex"},
    {"--sink-tokens", "AShape.sink_tokens", "a-shape"},
    {"--local-tokens", "AShape.local_tokens", "a-shape"},
};

std::string backend_names() {
  std::string names = "auto";
  for (const Backend* backend : host_backends()) names += " " + std::string(backend->name());
  return names;
}

// The library checks its arguments; one key and one query are enough to have it look.
void check_by_library(const Policy& policy, const Context& context) {
  const bool host = !host_backends().empty();
  workspace_bytes(one_token_problem(host ? Device{} : kFirstGpu), policy, context);
}

CLI::Validator whole_number(int64_t minimum, int64_t maximum, const std::string& rule) {
  return CLI::Validator(
      [minimum, maximum, rule](std::string& text) {
        int64_t value = 0;
        if (!CLI::detail::lexical_cast(text, value)) return text + " is not a whole number";
        if (value < minimum || value > maximum) return text + ", expected " + rule;
        return std::string();
      },
      /*validator_desc=*/"");
}

}  // namespace

void PolicyOptions::add_to(CLI::App& app, bool gpu) {
  app_ = &app;
  const char* group = "Policy (which blocks of the attention matrix are computed)";
  app.add_option("--policy", policy_, "flex, dense or a-shape (sink and local window)")
      ->check(CLI::IsMember({"flex", "dense", "a-shape"}))
      ->type_name("NAME")
      ->capture_default_str()
      ->group(group);
  app.add_option("--rule", rule_,
                 "coverage: gamma is a promise about the probe rows;\n"
                 "official: the block sets of the authors' code (whole prompt in one chunk)")
      ->check(CLI::IsMember({"coverage", "official"}))
      ->type_name("NAME")
      ->capture_default_str()
      ->group(group);
  app.add_option("--gamma", flex_.gamma,
                 "Share of the attention mass to keep, in (0, 1]; 1 is dense")
      ->type_name("G")
      ->default_str("0.9")
      ->group(group);
  app.add_option("--tau", flex_.tau,
                 "A head is query-aware below this divergence, in [0, 1]; 0: never")
      ->type_name("T")
      ->default_str("0.1")
      ->group(group);
  app.add_option("--min-budget", flex_.min_budget, "Tokens kept per line type and head, at least 0")
      ->type_name("TOKENS")
      ->capture_default_str()
      ->group(group);
  app.add_option("--max-budget", max_budget_,
                 "Most tokens per line type and head, at least 1; ends the promise of gamma\n"
                 "where it is reached (no limit unless given)")
      ->type_name("TOKENS")
      ->group(group);
  app.add_option("--sink-tokens", a_shape_.sink_tokens,
                 "a-shape: first tokens that all queries see")
      ->type_name("TOKENS")
      ->capture_default_str()
      ->group(group);
  app.add_option("--local-tokens", a_shape_.local_tokens, "a-shape: last tokens that a query sees")
      ->type_name("TOKENS")
      ->capture_default_str()
      ->group(group);
  add_place_to(app, gpu);
}

void PolicyOptions::add_place_to(CLI::App& app, bool gpu) {
  app_ = &app;
  gpu_ = gpu;
  app.add_option("--backend", backend_,
                 gpu ? "auto (the fastest on the CPU), ref, cpu, or cuda: the first GPU"
                     : "auto (the fastest that can), ref or cpu")
      ->type_name("NAME")
      ->capture_default_str()
      ->group("Where it runs");
  app.add_option("--threads", threads_, "CPU threads; 0 = all that OpenMP gives")
      ->check(at_least(0))
      ->type_name("N")
      ->capture_default_str()
      ->group("Where it runs");
}

bool PolicyOptions::given() const {
  bool any = app_->count("--policy") > 0;
  for (const OptionField& f : kFields) any = any || app_->count(f.option) > 0;
  return any;
}

void PolicyOptions::refuse_foreign_options() const {
  for (const OptionField& f : kFields)
    if (app_->count(f.option) > 0 && policy_ != f.policy)
      throw UsageError(std::string(f.option) + " belongs to --policy " + f.policy +
                       "; the policy is " + policy_);
}

Policy PolicyOptions::policy() const {
  refuse_foreign_options();
  Policy policy = Dense{};
  if (policy_ == "a-shape") policy = a_shape_;
  if (policy_ == "flex") {
    FlexPrefill flex = flex_;
    flex.rule = rule_ == "official" ? Rule::kOfficial : Rule::kCoverage;
    if (app_->count("--max-budget") > 0) flex.max_budget = max_budget_;
    policy = flex;
  }
  try {
    check_by_library(policy, Context{});
  } catch (const Error& e) {
    const std::string_view message = e.what();
    for (const OptionField& f : kFields)
      if (message.find(f.field) != std::string_view::npos && app_->count(f.option) > 0)
        throw UsageError(std::string(f.option) + " " +
                         app_->get_option(f.option)->results().back() + ": " + e.what());
    throw;
  }
  return policy;
}

Context PolicyOptions::context() const {
  Context context;
  context.threads = threads_;
  try {
    check_by_library(Dense{}, context);
  } catch (const Error& e) {
    throw UsageError("--threads " + std::to_string(threads_) + ": " + e.what());
  }
  if (backend_ != "auto") context.backend = &named_backend();
  return context;
}

const Backend& PolicyOptions::named_backend() const {
  const std::string choice = "--backend " + backend_ + ": ";
  for (const Backend* backend : host_backends()) {
    if (backend->name() == backend_) return *backend;
  }
  const Backend* const other = find_backend(backend_);
  if (other == nullptr) {
    if (gpu_ && backend_ == "cuda" && !built_with_cuda())
      throw UsageError(choice + "this program was built without CUDA; choose from " +
                       backend_names());
    throw UsageError(choice + "this program has " + backend_names());
  }
  if (!gpu_)
    throw UsageError(choice +
                     "it computes on tensors in its device's memory, and this command's are in the "
                     "host's; choose from " +
                     backend_names());
  if (const std::string why = gpu_why_not(*other); !why.empty())
    throw UsageError(choice + why + "; choose from " + backend_names());
  return *other;
}

std::vector<const Backend*> host_backends() {
  const AttentionProblem problem = one_token_problem(Device{});
  const Policy policy = Dense{};
  std::vector<const Backend*> host;
  for (const Backend* backend : backends()) {
    if (backend->why_not(problem, std::span(&policy, 1), {}).empty()) host.push_back(backend);
  }
  return host;
}

const Backend& backend_or_best(const Context& context) {
  if (context.backend != nullptr) return *context.backend;
  const std::vector<const Backend*> host = host_backends();
  if (host.empty())
    throw Error("no backend takes tensors in host memory; unset FLEXPREFILL_BACKEND");
  return *host.front();
}

std::string describe(const Policy& policy) {
  if (const auto* a_shape = std::get_if<AShape>(&policy))
    return "a-shape, " + std::to_string(a_shape->sink_tokens) + " sink and " +
           std::to_string(a_shape->local_tokens) + " local tokens";
  if (const auto* flex = std::get_if<FlexPrefill>(&policy)) {
    std::string text = "flex, rule ";
    text += flex->rule == Rule::kOfficial ? "official" : "coverage";
    text += ", gamma " + shortest(flex->gamma) + ", tau " + shortest(flex->tau) + ", min budget " +
            std::to_string(flex->min_budget);
    if (flex->max_budget) text += ", max budget " + std::to_string(*flex->max_budget);
    return text;
  }
  return "dense";
}

CLI::Validator at_least(int64_t minimum) {
  return whole_number(minimum, std::numeric_limits<int64_t>::max(),
                      std::to_string(minimum) + " or more");
}

CLI::Validator within(int64_t minimum, int64_t maximum) {
  return whole_number(minimum, maximum,
                      "[" + std::to_string(minimum) + ", " + std::to_string(maximum) + "]");
}

}  // namespace flexprefill::tools
