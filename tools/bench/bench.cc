// `flexprefill bench`: what the machine can do, and what attention makes of it.

#include <iostream>
#include <memory>

#include "tools/bench/bench_options.h"
#include "tools/bench/machine.h"
#include "tools/bench/memory.h"
#include "tools/commands.h"
#include "tools/output.h"

namespace flexprefill::tools {
namespace {

using Json = nlohmann::ordered_json;

void report(const std::string& text, const Json& results, const JsonOutput& json) {
  const Machine machine = this_machine();
  (json.to_stdout() ? std::cerr : std::cout) << describe(machine) << "\n\n" << text;
  json.write({{"machine", json_of(machine)}, {"results", results}});
}

void report(const std::vector<CaseResult>& cases, const JsonOutput& json) {
  Json results = Json::array();
  for (const CaseResult& result : cases) results.push_back(json_of(result));
  report(table_of(cases).text() + "\n" + column_notes(), results, json);
}

struct PeakArguments {
  PolicyOptions place;
  MeasureOptions measure;
};

void bench_peak(const PeakArguments& arguments) {
  const Context context = arguments.place.context();
  const JsonOutput json(arguments.measure.json());
  const Backend& backend = context.backend != nullptr ? *context.backend : *backends().front();
  const PeakKernels* kernels = peak_kernels(backend);
  if (kernels == nullptr)
    throw Error("backend " + std::string(backend.name()) + " (" + backend.description() +
                ") has no peak to measure; use --backend cpu");
  const int repeats = arguments.measure.repeats().count > 0 ? arguments.measure.repeats().count : 9;
  const int most = thread_count(context.threads);
  Table table;
  Json results = Json::array();
  table.add_row({"limit", "threads", "median", "min", "max", "unit"});
  const auto add = [&](const std::string& name, int threads, const Samples& samples,
                       const std::string& unit) {
    const int digits = samples.median < 1e11 ? 1 : 0;
    table.add_row({name, std::to_string(threads), fixed(samples.median / 1e9, digits),
                   fixed(samples.min / 1e9, digits), fixed(samples.max / 1e9, digits), unit});
    results.push_back({{"limit", name},
                       {"threads", threads},
                       {"median", samples.median / 1e9},
                       {"min", samples.min / 1e9},
                       {"max", samples.max / 1e9},
                       {"unit", unit}});
  };
  for (int threads = 1; threads <= most; threads = threads < most ? most : most + 1) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      if (dtype == DType::kBF16 && kernels->bf16 == nullptr) continue;
      const Peak peak = *Peak::of(backend, dtype, threads);
      std::vector<double> rates;
      for (int n = 0; n < 3 * repeats; ++n) rates.push_back(peak.sample());
      add("multiply-add " + peak.name(), threads, summarize(std::move(rates)), "GFLOP/s");
    }
    for (const auto& [name, bytes] : {std::pair("memory, 256 MiB", int64_t{256} << 20),
                                      std::pair("cache, 4 MiB", int64_t{4} << 20)}) {
      const Bandwidth bandwidth = measure_bandwidth(*kernels, threads, bytes, repeats);
      add(std::string("read, ") + name + " a thread", threads, bandwidth.read, "GB/s");
      add(std::string("copy, ") + name + " a thread", threads, bandwidth.copy, "GB/s");
    }
  }
  report(table.text(), results, json);
}

struct AttentionArguments {
  ShapeOptions shape;
  PolicyOptions policy;
  MeasureOptions measure;
  std::vector<double> densities;
  bool no_dense = false;
};

void check_densities(const std::vector<double>& densities) {
  for (const double density : densities)
    if (!(density > 0.0 && density <= 1.0))
      throw UsageError("--density " + shortest(static_cast<float>(density)) +
                       ", expected (0, 1]: the share of the causal blocks to compute");
}

void bench_attention(const AttentionArguments& arguments) {
  const Shape shape = arguments.shape.shape();
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
  const Inputs inputs(shape, arguments.shape.data());
  report({measure_attention(inputs, work, setup)}, json);
}

struct PlanArguments {
  ShapeOptions shape;
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
  const Shape shape = arguments.shape.shape();
  AttentionWork work;
  work.policies = planned_policies(app, arguments.policy);
  const Setup setup{arguments.policy.context(), arguments.measure.repeats()};
  const JsonOutput json(arguments.measure.json());
  const Inputs inputs(shape, arguments.shape.data());
  report({measure_attention(inputs, work, setup)}, json);
}

}  // namespace

Action add_bench(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("bench", "Measure attention against the peak of this machine");
  command->require_subcommand(1);
  command->get_formatter()->column_width(34);

  CLI::App* peak = command->add_subcommand(
      "peak", "What the machine can do: multiply-adds in registers, bytes of memory");
  auto peak_arguments = std::make_shared<PeakArguments>();
  peak_arguments->place.add_place_to(*peak);
  peak_arguments->measure.add_to(*peak);

  CLI::App* attention = command->add_subcommand(
      "attention", "attend(): dense, with random masks, or with the plan of a policy");
  auto attention_arguments = std::make_shared<AttentionArguments>();
  attention_arguments->shape.add_to(*attention);
  attention
      ->add_option("--density", attention_arguments->densities,
                   "Random masks with this share of the causal blocks, (0, 1]; several may follow")
      ->type_name("D")
      ->group("Problem");
  attention->add_flag("--no-dense", attention_arguments->no_dense,
                      "Leave out the dense baseline of --density and --policy");
  attention_arguments->policy.add_to(*attention);
  attention->get_option("--policy")->default_str("");
  attention_arguments->measure.add_to(*attention);
  attention->footer(
      "Examples:\n"
      "  flexprefill bench attention --q-len 512 --kv-len 16384 --density 0.05 0.1 0.25\n"
      "  flexprefill bench attention --q-len 8192 --dtype f32 --data structured --policy flex");

  CLI::App* plan = command->add_subcommand(
      "plan", "plan() with both rules beside the dense attention that it saves");
  auto plan_arguments = std::make_shared<PlanArguments>();
  plan_arguments->shape.add_to(*plan);
  plan_arguments->policy.add_to(*plan);
  plan_arguments->measure.add_to(*plan);

  return [=] {
    if (command->got_subcommand(peak)) bench_peak(*peak_arguments);
    if (command->got_subcommand(attention)) bench_attention(*attention_arguments);
    if (command->got_subcommand(plan)) bench_plan(*plan_arguments, *plan);
  };
}

}  // namespace flexprefill::tools
