#pragma once

// Options that the bench commands share: what the problem looks like, how often it is measured, and
// where the result goes.

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "tools/bench/attention.h"
#include "tools/bench/inputs.h"
#include "tools/options.h"

namespace flexprefill::tools {

// --heads --kv-heads --head-dim --v-head-dim --q-len --kv-len --dtype --data, or the layers of a
// model: --model --prompt-file --layer; --heads --kv-heads put several layers side by side
class ProblemOptions {
 public:
  void add_to(CLI::App& app);

  // Throws UsageError that names option, value and rule.
  void check() const;

  // Every problem asked for, with its title. Throws Error if a model cannot be read.
  void for_each(const Context& context,
                const std::function<void(const std::string&, const Inputs&)>& visit) const;

  Shape shape() const;
  void set_dtype(DType dtype) { dtype_ = flexprefill::to_string(dtype); }

 private:
  void for_each_layer(const Context& context,
                      const std::function<void(const std::string&, const Inputs&)>& visit) const;

  const CLI::App* app_ = nullptr;
  Shape shape_;
  std::string dtype_ = "bf16";
  std::string data_ = "normal";
  std::string model_;
  std::string prompt_file_;
  int32_t layer_ = 0;
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
