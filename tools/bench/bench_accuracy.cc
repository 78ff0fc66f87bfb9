// `flexprefill bench accuracy`: attend() beside the fp64 reference.

#include <memory>

#include "tools/bench/accuracy.h"
#include "tools/bench/bench_commands.h"
#include "tools/bench/bench_options.h"

namespace flexprefill::tools {
namespace {

struct AccuracyArguments {
  ProblemOptions problem;
  PolicyOptions place;
  std::string json;
};

void bench_accuracy(const AccuracyArguments& arguments) {
  arguments.problem.check();
  const Context context = arguments.place.context();
  const JsonOutput json(arguments.json);
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  std::vector<Accuracy> rows;
  arguments.problem.for_each(context, [&](const std::string& title, const Inputs& exact) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16})
      rows.push_back(measure_accuracy(title, exact, dtype, context));
  });
  for (const Accuracy& row : rows) results.push_back(json_of(row));
  report(table_of(rows).text() + "\n" + accuracy_notes(), results, json);
}

}  // namespace

Action add_bench_accuracy(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "accuracy", "Errors of dense attend() with each dtype against the fp64 reference (slow)");
  auto arguments = std::make_shared<AccuracyArguments>();
  arguments->problem.add_to(*command);
  command->remove_option(command->get_option("--dtype"));  // all of them, from the same fp32 values
  arguments->problem.set_dtype(DType::kF32);
  arguments->place.add_place_to(*command);
  command
      ->add_option("--json", arguments->json,
                   "Write the errors there; - is stdout, which then has nothing else")
      ->type_name("FILE|-");
  command->footer(
      "Example:\n"
      "  flexprefill bench accuracy --heads 2 --kv-heads 1 --q-len 256 --kv-len 4096 --data peaky");
  return [arguments] { bench_accuracy(*arguments); };
}

}  // namespace flexprefill::tools
