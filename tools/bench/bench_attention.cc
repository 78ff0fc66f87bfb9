// `flexprefill bench attention` and `bench plan`: one problem, dense and sparse side by side.

#include <memory>

#include "tools/bench/bench_commands.h"
#include "tools/bench/bench_options.h"
#include "tools/place.h"

namespace flexprefill::tools {
namespace {

struct AttentionArguments {
  ProblemOptions problem;
  PolicyOptions policy;
  MeasureOptions measure;
  std::vector<double> densities;
  bool no_dense = false;
};

std::vector<CaseResult> measure_all(const ProblemOptions& problem, const AttentionWork& work,
                                    const Setup& setup) {
  const Backend* const backend = setup.context.backend;
  const std::string gpu = on_gpu(backend) ? ", " + backend->description() : "";
  std::vector<CaseResult> results;
  problem.for_each(setup.context, [&](const std::string& title, const Inputs& inputs) {
    results.push_back(measure_attention(inputs, work, setup));
    results.back().title = title + gpu;
  });
  return results;
}

void check_densities(const std::vector<double>& densities) {
  for (const double density : densities)
    if (!(density > 0.0 && density <= 1.0))
      throw UsageError("--density " + shortest(static_cast<float>(density)) +
                       ", expected (0, 1]: the share of the causal blocks to compute");
}

void bench_attention(const AttentionArguments& arguments) {
  arguments.problem.check();
  check_densities(arguments.densities);
  const bool policy_given = arguments.policy.given();
  if (policy_given && !arguments.densities.empty())
    throw UsageError("--density and --policy both say which blocks; give one of them");
  AttentionWork work;
  if (policy_given)
    work.policies.emplace_back(arguments.policy.policy_name(), arguments.policy.policy());
  for (const double density : arguments.densities)
    if (density < 1.0) work.densities.push_back(density);
  if (arguments.no_dense && work.densities.empty() && work.policies.empty())
    throw UsageError(
        "--no-dense leaves nothing to measure; give a --density below 1 or a --policy");
  work.dense = !arguments.no_dense;
  const Setup setup{arguments.policy.context(), arguments.measure.repeats()};
  const JsonOutput json(arguments.measure.json());
  report(measure_all(arguments.problem, work, setup), json);
}

struct PlanArguments {
  ProblemOptions problem;
  PolicyOptions policy;
  MeasureOptions measure;
};

// Both rules, unless the command line names one.
std::vector<std::pair<std::string, Policy>> planned_policies(const CLI::App& app,
                                                             const PolicyOptions& options) {
  const Policy policy = options.policy();
  const auto* flex = std::get_if<FlexPrefill>(&policy);
  if (flex == nullptr) return {{options.policy_name(), policy}};
  std::vector<std::pair<std::string, Policy>> policies;
  for (const Rule rule : {Rule::kCoverage, Rule::kOfficial}) {
    if (app.count("--rule") > 0 && rule != flex->rule) continue;
    FlexPrefill with_rule = *flex;
    with_rule.rule = rule;
    policies.emplace_back(rule == Rule::kCoverage ? "coverage" : "official", with_rule);
  }
  return policies;
}

void bench_plan(const PlanArguments& arguments, const CLI::App& app) {
  arguments.problem.check();
  AttentionWork work;
  work.policies = planned_policies(app, arguments.policy);
  const Setup setup{arguments.policy.context(), arguments.measure.repeats()};
  const JsonOutput json(arguments.measure.json());
  report(measure_all(arguments.problem, work, setup), json);
}

}  // namespace

Action add_bench_attention(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "attention", "attend(): dense, with random masks, or with the plan of a policy");
  auto arguments = std::make_shared<AttentionArguments>();
  arguments->problem.add_to(*command);
  command
      ->add_option("--density", arguments->densities,
                   "Random masks with this share of the causal blocks, (0, 1]; several may follow")
      ->type_name("D")
      ->group("Problem");
  command->add_flag("--no-dense", arguments->no_dense,
                    "Leave out the dense baseline of --density and --policy");
  arguments->policy.add_to(*command, /*gpu=*/true);
  command->get_option("--policy")->default_str("");
  arguments->measure.add_to(*command);
  command->footer(
      "Examples:\n"
      "  flexprefill bench attention --q-len 512 --kv-len 16384 --density 0.05 0.1 0.25\n"
      "  flexprefill bench attention --q-len 8192 --dtype f32 --data structured --policy flex");
  return [arguments] { bench_attention(*arguments); };
}

Action add_bench_plan(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "plan", "plan() with both rules beside the dense attention that it saves");
  auto arguments = std::make_shared<PlanArguments>();
  arguments->problem.add_to(*command);
  arguments->policy.add_to(*command, /*gpu=*/true);
  command->get_option("--rule")->default_str("both");
  arguments->measure.add_to(*command);
  command->footer(
      "Example, every layer of a model on the first 8192 tokens of a text:\n"
      "  flexprefill bench plan --model models/needle-14m --prompt-file "
      "examples/data/rust-book.txt \\\n"
      "    --q-len 8192");
  return [arguments, command] { bench_plan(*arguments, *command); };
}

}  // namespace flexprefill::tools
