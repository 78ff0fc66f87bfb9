// `flexprefill bench`: what the machine can do, and what attention makes of it.

#include <iostream>

#include "tools/bench/bench_commands.h"
#include "tools/bench/machine.h"

namespace flexprefill::tools {

void report(const std::string& text, const nlohmann::ordered_json& results,
            const JsonOutput& json) {
  const Machine machine = this_machine();
  (json.to_stdout() ? std::cerr : std::cout) << describe(machine) << "\n\n" << text;
  json.write({{"machine", json_of(machine)}, {"results", results}});
}

void report(const std::vector<CaseResult>& cases, const JsonOutput& json) {
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  std::string text;
  for (const CaseResult& result : cases) {
    results.push_back(json_of(result));
    text += result.title + "\n" + table_of({result}, /*titles=*/false).text() + "\n";
  }
  report(text + column_notes(), results, json);
}

Action add_bench(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("bench", "Measure attention against the peak of this machine");
  command->require_subcommand(0, 1);
  command->footer(
      "Times are medians after a warm-up, with minimum and maximum; measure on an idle machine.\n"
      "On a GPU they lie between events, each run queued behind an untimed one.\n"
      "`flexprefill bench COMMAND --help` explains the options of a command.");
  const std::vector<std::pair<std::string, Action>> actions = {
      {"peak", add_bench_peak(*command)},
      {"attention", add_bench_attention(*command)},
      {"plan", add_bench_plan(*command)},
      {"accuracy", add_bench_accuracy(*command)},
      {"model", add_bench_model(*command)}};
  const Action suite = add_bench_suite(*command);
  return [=] {
    const auto given = command->get_subcommands();
    if (command->count("--suite") > 0) {
      if (!given.empty())
        throw UsageError("--suite runs every command; leave out " + given.front()->get_name());
      return suite();
    }
    if (given.empty())
      throw UsageError(
          "bench: name what: peak, attention, plan, accuracy or model; or --suite FILE");
    for (const auto& [name, action] : actions)
      if (command->got_subcommand(name)) action();
  };
}

}  // namespace flexprefill::tools
