// `flexprefill bench --suite FILE`: runs every section and writes the document.

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <memory>

#include "tools/bench/bench_commands.h"
#include "tools/bench/bench_options.h"
#include "tools/bench/machine.h"
#include "tools/bench/suite.h"

namespace flexprefill::tools {
namespace {

struct SuiteArguments {
  std::string file;
  std::string model = "models/needle-14m";
  std::string prompt_file = "examples/data/rust-book.txt";
  std::string json;
  int64_t shrink = 1;
  PolicyOptions place;
};

constexpr Section (*kSections[])(SuiteRun&) = {
    peak_section, dense_section, sparse_section, isa_section,      dtype_section, thread_section,
    plan_section, chunk_section, short_section,  accuracy_section, model_section};

std::string load_average() {
  double load[3] = {};
  return getloadavg(load, 3) == 3 ? fixed(load[0], 1) : "unknown";
}

std::string head(const Machine& machine, const std::string& load) {
  return "# Performance\n\n"
         "<!-- Written by `flexprefill bench --suite`; do not edit. -->\n\n"
         "Measured by `" +
         machine.command + "`\non " + machine.cpu + ", " + machine.compiler + ", " + machine.date +
         "; load average at the start " + load +
         ".\n\n"
         "Times are medians after a warm-up, in rounds that take everything compared in turn, with "
         "minimum and maximum.\n" +
         column_notes() +
         "Where nothing else is said: 8 query heads, 2 kv heads, normal random q, k, v, all "
         "threads.\n";
}

std::string text_of(const Section& section) {
  std::string text = "\n## " + section.title + "\n\n" + section.text + "\n\n";
  text += section.table.markdown();
  if (!section.notes.empty()) text += "\n" + section.notes;
  return text;
}

void bench_suite(const SuiteArguments& arguments) {
  SuiteOptions options;
  options.setup.context = arguments.place.context();
  options.model = arguments.model;
  options.prompt_file = arguments.prompt_file;
  options.shrink = arguments.shrink;
  if (arguments.shrink > 1) options.setup.repeats.count = 1;
  const OutputFile file("--suite", arguments.file);
  const JsonOutput json(arguments.json);
  const Machine machine = this_machine();
  const auto start = std::chrono::steady_clock::now();
  std::string text = head(machine, load_average());
  nlohmann::ordered_json results;
  {
    SuiteRun run(options);
    run.model();  // a missing file shows now, not after ten minutes
    run.ids(1);
    size_t number = 0;
    for (Section (*section)(SuiteRun&) : kSections) {
      run.begin_section(++number, std::size(kSections));
      const Section done = section(run);
      text += text_of(done);
      results[done.title] = done.results;
    }
  }
  file.write_text(text);
  const double elapsed =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  (json.to_stdout() ? std::cerr : std::cout)
      << arguments.file << ": " << results.size() << " tables in " << seconds(elapsed) << "\n";
  json.write({{"machine", json_of(machine)}, {"results", results}});
}

}  // namespace

Action add_bench_suite(CLI::App& bench) {
  auto arguments = std::make_shared<SuiteArguments>();
  const std::string group = "The whole suite";
  bench
      .add_option("--suite", arguments->file,
                  "Measure every table of docs/performance.md and write it there (10 minutes)")
      ->type_name("FILE")
      ->group(group);
  const auto belongs = [&](CLI::Option* option) { option->needs("--suite")->group(group); };
  belongs(bench.add_option("--model", arguments->model, "Model folder for real q, k, v")
              ->type_name("DIR")
              ->capture_default_str());
  belongs(bench.add_option("--prompt-file", arguments->prompt_file, "Text that the model reads")
              ->type_name("FILE")
              ->capture_default_str());
  belongs(bench
              .add_option("--shrink", arguments->shrink,
                          "Divide every length, [1, 1024]: tests the tool and measures nothing")
              ->check(within(1, 1024))
              ->type_name("N")
              ->capture_default_str());
  belongs(bench
              .add_option("--json", arguments->json,
                          "Write the measurements there; - is stdout, which then has nothing else")
              ->type_name("FILE|-"));
  arguments->place.add_place_to(bench);
  return [arguments] { bench_suite(*arguments); };
}

}  // namespace flexprefill::tools
