#pragma once

// What `run` and `inspect` share: a model folder, a prompt, and how the prompt is read.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/session.h"
#include "runtime/tokenizer.h"
#include "tools/options.h"

namespace flexprefill::tools {

// --model --prompt-file --chunk and the policy options; with `any_prompt` also --prompt and -.
class ModelOptions {
 public:
  void add_to(CLI::App& app, bool any_prompt);

  // Throws UsageError unless the prompt is given exactly once.
  void check_one_prompt() const;

  // The prompt as given. Throws Error if it cannot be read; says on stderr if it is not UTF-8.
  std::string prompt() const;

  const std::string& folder() const { return folder_; }
  const PolicyOptions& policy() const { return policy_; }
  int64_t chunk() const { return chunk_; }  // 0 = the runtime's choice

  // Throws UsageError if the rule needs the prompt in one piece and --chunk cuts it.
  void check_chunk(const Policy& policy, int64_t prompt_tokens) const;

 private:
  const CLI::App* app_ = nullptr;
  std::string folder_;
  std::string prompt_;
  std::string prompt_file_;
  std::string dash_;
  int64_t chunk_ = 0;
  PolicyOptions policy_;
};

// A model that is ready to read a prompt of these tokens.
struct LoadedModel {
  runtime::Model model;
  runtime::Tokenizer tokenizer;
  std::vector<int32_t> ids;  // of the prompt, with the special tokens that the tokenizer adds
};

// Throws Error before the weights are read if prompt and answer exceed the model's positions.
LoadedModel load_model(const std::string& folder, const std::string& prompt, int64_t new_tokens);

}  // namespace flexprefill::tools
