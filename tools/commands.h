#pragma once

// The subcommands of the executable, one file each. add_<name>() declares a subcommand with its
// options and returns what runs it; main() calls that after the command line has been parsed.

#include <CLI/CLI.hpp>
#include <functional>
#include <stdexcept>
#include <string>

namespace flexprefill::tools {

inline constexpr int kExitError = 1;
inline constexpr int kExitUsage = 2;

// The command line itself is wrong: exit code 2. Everything else that fails exits with 1.
class UsageError : public std::runtime_error {
 public:
  explicit UsageError(const std::string& message) : std::runtime_error(message) {}
};

using Action = std::function<void()>;

Action add_run(CLI::App& app);
Action add_attend(CLI::App& app);
Action add_inspect(CLI::App& app);
Action add_bench(CLI::App& app);
Action add_backends(CLI::App& app);

}  // namespace flexprefill::tools
