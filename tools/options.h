#pragma once

// Options that several subcommands share: the policy and where it runs.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "flexprefill/flexprefill.h"

namespace flexprefill::tools {

// --policy --rule --gamma --tau --min-budget --max-budget --sink-tokens --local-tokens
// --backend --threads
class PolicyOptions {
 public:
  // `gpu`: the command copies its tensors to where the backend takes them (tools/place.h).
  void add_to(CLI::App& app, bool gpu = false);
  void add_place_to(CLI::App& app, bool gpu = false);  // --backend and --threads alone

  // Whether an option that chooses or shapes the policy was given.
  bool given() const;

  // Both throw UsageError that names the option, its value and the rule it breaks.
  Policy policy() const;
  Context context() const;

  const std::string& policy_name() const { return policy_; }
  int threads() const { return threads_; }

 private:
  void refuse_foreign_options() const;
  const Backend& named_backend() const;

  const CLI::App* app_ = nullptr;
  std::string policy_ = "flex";
  std::string rule_ = "coverage";
  std::string backend_ = "auto";
  FlexPrefill flex_;
  AShape a_shape_;
  int64_t max_budget_ = 0;
  int threads_ = 0;
  bool gpu_ = false;
};

// The policy in words, with its parameters: for tables and pages.
std::string describe(const Policy& policy);

// Check for whole numbers of a range; the message names the option, as CLI11 does.
CLI::Validator at_least(int64_t minimum);
CLI::Validator within(int64_t minimum, int64_t maximum);

// The backends that take tensors in host memory, as those of this program are; best first.
std::vector<const Backend*> host_backends();

// The backend that a context names, or the best of host_backends().
const Backend& backend_or_best(const Context& context);

}  // namespace flexprefill::tools
