#pragma once

// Options that the bench commands share: what the problem looks like, how often it is measured, and
// where the result goes.

#include <CLI/CLI.hpp>
#include <string>

#include "tools/bench/attention.h"
#include "tools/bench/inputs.h"
#include "tools/options.h"

namespace flexprefill::tools {

// --heads --kv-heads --head-dim --v-head-dim --q-len --kv-len --dtype --data
class ShapeOptions {
 public:
  void add_to(CLI::App& app);

  // Throw UsageError that names option, value and rule.
  Shape shape() const;
  Data data() const;

 private:
  const CLI::App* app_ = nullptr;
  Shape shape_;
  std::string dtype_ = "bf16";
  std::string data_ = "normal";
};

// --repeats --json
class MeasureOptions {
 public:
  void add_to(CLI::App& app);
  Repeats repeats() const;
  const std::string& json() const { return json_; }

 private:
  int repeats_ = 0;
  std::string json_;
};

}  // namespace flexprefill::tools
