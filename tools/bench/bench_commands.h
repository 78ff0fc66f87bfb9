#pragma once

// The subcommands of `flexprefill bench`, one file each: add_<name>() declares it and returns what
// runs it.

#include <vector>

#include "tools/bench/row.h"
#include "tools/commands.h"
#include "tools/output.h"

namespace flexprefill::tools {

Action add_bench_peak(CLI::App& bench);
Action add_bench_attention(CLI::App& bench);
Action add_bench_plan(CLI::App& bench);
Action add_bench_accuracy(CLI::App& bench);
Action add_bench_model(CLI::App& bench);
Action add_bench_suite(CLI::App& bench);  // the options of `bench` itself: --suite

// The machine and the text for people, machine and results for programs.
void report(const std::string& text, const nlohmann::ordered_json& results, const JsonOutput& json);
void report(const std::vector<CaseResult>& cases, const JsonOutput& json);

}  // namespace flexprefill::tools
