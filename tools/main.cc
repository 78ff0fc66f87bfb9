// The executable `flexprefill`: chooses the subcommand, maps exceptions to exit codes
// (0 done, 1 error, 2 usage) and leaves no half-written file behind when interrupted.

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "flexprefill/version.h"
#include "tools/commands.h"
#include "tools/signals.h"

namespace flexprefill::tools {
namespace {

int fail(const std::string& message, int exit_code) {
  std::cout.flush();
  end_progress_line();
  std::cerr << "flexprefill: " << message << "\n";
  return exit_code;
}

// The exit code once everything has been printed.
int finish() {
  if (std::cout.flush()) return 0;
  return fail("standard output cannot be written; is the disk full?", kExitError);
}

// The subcommand that the parse error is about, for the pointer to its help.
std::string help_command(const CLI::App& app) {
  std::string command = "flexprefill";
  for (const CLI::App* sub : app.get_subcommands()) command += " " + sub->get_name();
  return command + " --help";
}

// CLI11 reads an empty number as 0, which `--min-budget "$UNSET"` does not mean.
void refuse_empty_values(const CLI::App& command) {
  for (const CLI::Option* option : command.get_options())
    for (const std::string& value : option->results())
      if (value.empty() && option->get_name() != "--prompt")
        throw UsageError(option->get_name() + " has an empty value");
}

int run_command_line(int argc, char** argv) {
  CLI::App app(
      "Sparse attention over long prompts: answers questions about long documents, runs attention\n"
      "on tensors of a file, and shows which blocks of the attention matrix are computed.");
  app.name("flexprefill");
  app.set_version_flag("--version", std::string("flexprefill ") + version(),
                       "Print the version and exit");
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.require_subcommand(0, 1);  // none is told below, after what is unknown
  app.get_formatter()->column_width(34);
  app.footer(
      "Exit codes: 0 done, 1 error, 2 wrong usage.\n"
      "`flexprefill COMMAND --help` explains the options of a command.\n"
      "FLEXPREFILL_BACKEND=NAME in the environment leaves only the backend of that name.");

  const std::vector<std::pair<std::string, Action>> actions = {{"run", add_run(app)},
                                                               {"attend", add_attend(app)},
                                                               {"inspect", add_inspect(app)},
                                                               {"bench", add_bench(app)},
                                                               {"backends", add_backends(app)}};
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    app.exit(request);
    return finish();
  } catch (const CLI::ParseError& e) {
    return fail(std::string(e.what()) + "\n`" + help_command(app) + "` lists the options.",
                kExitUsage);
  }
  if (app.get_subcommands().empty())
    return fail(
        "name a command: run, attend, inspect, bench or backends\n`flexprefill --help` explains "
        "them.",
        kExitUsage);
  try {
    refuse_empty_values(*app.get_subcommands().front());
    for (const auto& [name, action] : actions)
      if (app.got_subcommand(name)) action();
  } catch (const UsageError& e) {
    return fail(std::string(e.what()) + "\n`" + help_command(app) + "` lists the options.",
                kExitUsage);
  }
  return finish();
}

}  // namespace
}  // namespace flexprefill::tools

int main(int argc, char** argv) {
  using flexprefill::tools::fail;
  flexprefill::tools::install_signal_handlers();
  try {
    return flexprefill::tools::run_command_line(argc, argv);
  } catch (const std::bad_alloc&) {
    return fail(
        "out of memory: use a shorter prompt, a smaller --chunk or a machine with more memory",
        flexprefill::tools::kExitError);
  } catch (const std::exception& e) {
    return fail(e.what(), flexprefill::tools::kExitError);
  }
}
